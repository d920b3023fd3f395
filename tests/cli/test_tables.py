"""Tables on the command line: attacked, proved, verified, and one line for what cannot be meant."""

from __future__ import annotations

import json
import re
import shutil

import joblib
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import zeronorm as zn


@pytest.fixture
def loans(tmp_path, monkeypatch):
    """A table of 60 rows, `loans.csv`, in the current folder, and a pipeline fitted on it, `model.joblib`."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    n = 60
    frame = pd.DataFrame(
        {
            "income": rng.integers(500, 6000, n),
            "age": rng.integers(18, 80, n),
            "job": rng.choice(["none", "clerk", "chief"], n),
            "owner": rng.integers(0, 2, n),
        }
    )
    points = (
        frame.income / 200
        + frame.age / 4
        + 9 * frame.owner
        + frame.job.map({"none": 0, "clerk": 8, "chief": 16})
    )
    frame["granted"] = np.where(points > points.median(), "yes", "no")
    frame.to_csv("loans.csv", index=False)
    steps = ColumnTransformer(
        [("n", StandardScaler(), ["income", "age", "owner"]), ("c", OneHotEncoder(), ["job"])]
    )
    model = make_pipeline(steps, RandomForestClassifier(12, random_state=0))
    joblib.dump(model.fit(frame.drop(columns="granted"), frame.granted), "model.joblib")
    return tmp_path


TABLE = ("--data", "table:loans.csv", "--target", "granted", "--limit", 20)
FOREST = ("--model", "joblib:model.joblib", "--trust")


def test_attacked_proved_and_verified(zeronorm, loans):
    said = zeronorm("evaluate", *FOREST, *TABLE, "--queries", 40, "--prove", "--out", "run", "--json")
    assert said.status == 0, said.err
    assert "L0 in columns" in said.out and said.out.count("   exactly") == 3
    told = json.loads(said.out.splitlines()[-1])
    assert told["robust_accuracy"] == told["certified_accuracy"] and set(told["robust_accuracy"]) == {
        "1",
        "2",
        "3",
    }
    plan = json.loads((loans / "run" / "run.json").read_text())["plan"]
    assert plan["threat"]["unit"] == "column" and 'name = "income"' in plan["threat"]["schema"]
    without = zeronorm("verify", "run")
    assert without.status == 2 and "--trust" in without.err
    assert zeronorm("verify", "run", "--trust").status == 0


def test_a_schema_of_ones_own(zeronorm, loans):
    guessed = zeronorm("schema", "table:loans.csv", "--target", "granted")
    assert guessed.status == 0 and guessed.err.startswith("schema: guessed from 4 columns of table:loans.csv")
    schema = zn.data.Schema.parse(guessed.out)
    for column in ("income", "job", "owner"):
        schema = schema.with_column(column, changes="never")
    schema.with_column("age", changes="up").write("mine.toml")
    only = (*FOREST, *TABLE, "--schema", "mine.toml", "--attack", "pointwise", "--queries", 60)
    said = zeronorm("evaluate", *only, "--k", 1, "--out", "run", "--prove")
    assert said.status == 0, said.err
    x = zn.data.load("table:loans.csv", "test", 20, target="granted", schema=schema).x
    (rows,) = [pq.read_table(path).to_pylist() for path in (loans / "run").glob("rows*.parquet")]
    broken = [row for row in rows if row["outcome"] == "broken"]
    assert broken
    for row in broken:
        assert row["positions"] == [1] and row["values"][0] > x[row["example"], 1]
    too_many = zeronorm("evaluate", *only, "--k", 2)
    assert too_many.status == 2 and "k: expected between 0 and 1, the number of columns" in too_many.err


def test_toward_a_class(zeronorm, loans):
    said = zeronorm(
        "evaluate",
        *FOREST,
        *TABLE,
        "--toward",
        "yes",
        "--k",
        "1,2",
        "--queries",
        20,
        "--out",
        "run",
        "--prove",
    )
    assert said.status == 0, said.err
    assert "toward yes" in said.out
    rows = pq.read_table(*(loans / "run").glob("rows*.parquet")).to_pylist()
    assert {row["label"] for row in rows} == {0} and {
        r["prediction"] for r in rows if r["outcome"] == "broken"
    } == {1}
    assert "to be answered yes" in (loans / "run" / "report.html").read_text()
    assert zeronorm("verify", "run", "--trust").status == 0


def test_compared(zeronorm, loans):
    attacks = ("--attack", "pointwise,sparse_rs", "--queries", 20)
    two = ("--model", "joblib:model.joblib", "--model", "joblib:another.joblib", "--trust")
    shutil.copy("model.joblib", "another.joblib")
    said = zeronorm("compare", *two, *TABLE, "--k", "1,2", *attacks, "--out", "both")
    assert said.status == 0, said.err
    checked = zeronorm("verify", "both", "--trust")
    assert checked.status == 0, checked.err + checked.out


def test_a_matrix_of_trees_attacked_and_proved(zeronorm, loans):
    shutil.copy("model.joblib", "another.joblib")
    two = ("--model", "a=joblib:model.joblib", "--model", "b=joblib:another.joblib", "--trust")
    short = ("--k", 1, "--attack", "pointwise,sparse_rs", "--queries", 10, "--out", "all")
    said = zeronorm("matrix", *two, *TABLE[:-1], 6, *short)
    assert said.status == 0, said.err
    assert zeronorm("verify", "all", "--trust").status == 0


def test_certified(zeronorm, loans):
    said = zeronorm("certify", *FOREST, *TABLE, "--k", "1,2", "--out", "run")
    assert said.status == 0, said.err
    assert zeronorm("verify", "run", "--trust").status == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("evaluate", *FOREST, "--data", "table:loans.csv"), "target: expected the name of one column"),
        (
            ("evaluate", *FOREST, "--data", "table:loans.csv", "--target", "income"),
            "target: expected classes",
        ),
        (("evaluate", *FOREST[:2], *TABLE), "a pickle, whose code would run when it is read"),
        (
            ("evaluate", "--data", "digits", "--unit", "column"),
            'unit: expected "column" of --data table:FILE',
        ),
        (("evaluate", *FOREST, *TABLE, "--low", "-1"), "low: expected the schema's own"),
        (("evaluate", *FOREST, *TABLE, "--linf", "0.1"), "linf: expected None"),
        (("evaluate", *FOREST, *TABLE, "--k", "9"), "k: expected between 0 and 4, the number of columns"),
        (("evaluate", *FOREST, *TABLE, "--schema", "none.toml"), "schema: expected a readable TOML file"),
        (("evaluate", "--model", "xgboost:loans.csv", *TABLE), "model: expected a file of xgboost"),
        (("schema", "digits"), "data: expected table:PATH"),
        (
            ("evaluate", *FOREST, *TABLE, "--toward", "perhaps"),
            "toward: expected one of two classes, got 'perhaps'",
        ),
        (("evaluate", *FOREST, *TABLE, "--attack", "sparse_pgd"), "attack: sparse_pgd needs gradients"),
    ],
)
def test_bad_input_is_one_line(zeronorm, loans, words, says):
    if "xgboost:loans.csv" in words:
        pytest.importorskip("xgboost")
    said = zeronorm(*words)
    said.err = re.sub(r"schema: guessed.*\n(  .*\n)*", "", said.err)
    assert said.status == 2 and says in said.err and said.err.count("\n") == 1, said.err
