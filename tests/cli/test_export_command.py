"""`zeronorm export` from outside."""

from __future__ import annotations

import csv

import pytest

from zeronorm.cli import main

SEARCH = ["--data", "digits", "--limit", "12", "--steps", "6", "--queries", "8", "--k", "1,2"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    home = tmp_path_factory.mktemp("runs")
    for model in ("digits", "digits-robust"):
        assert main.run(["evaluate", "--model", model, *SEARCH, "--out", str(home / model)]) == 0
    return [str(home / "digits"), str(home / "digits-robust")]


def test_a_table_is_printed(runs, capsys):
    assert main.run(["export", *runs]) == 0
    out = capsys.readouterr().out
    assert "| digits | sparse_autoattack |" in out and "| digits-robust |" in out


def test_everything_at_once(runs, tmp_path, capsys):
    words = ["--csv", "--to", "t.csv", "--figure", "f.svg", "--bib", "r.bib", "--adversarials", "broken"]
    words = [str(tmp_path / word) if "." in word or word == "broken" else word for word in words]
    assert main.run(["export", runs[0], *words]) == 0
    told = capsys.readouterr().out
    for name in ("t.csv", "f.svg", "r.bib", "broken"):
        assert (tmp_path / name).exists() and name in told
    assert {row["k"] for row in csv.DictReader((tmp_path / "t.csv").read_text().splitlines())} == {
        "0",
        "1",
        "2",
    }
    assert "croce2022sparse" in (tmp_path / "r.bib").read_text()
    assert "survive rounding to 8 bits" in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--latex", "--csv"], "latex, markdown, csv: expected one table, got --latex --csv"),
        (["--k", "7"], "k: expected budgets that a run answers (1, 2), got 7"),
        (["--figure", "x.gif"], "figure: expected a file that ends in pdf, svg, png, got 'x.gif'"),
        (["--figure", "missing/x.pdf"], "figure: expected a file in a folder that is there"),
        (["--to", "missing/x.tex"], "to: expected a file in a folder that is there"),
    ],
)
def test_refusals(runs, capsys, words, said):
    assert main.run(["export", runs[0], *words]) == 2
    assert said in capsys.readouterr().err


def test_adversarials_of_one_run_only(runs, tmp_path, capsys):
    assert main.run(["export", *runs, "--adversarials", str(tmp_path / "a")]) == 2
    assert "adversarials: expected one run, got 2" in capsys.readouterr().err


def test_code_that_a_run_names_is_not_imported(runs, tmp_path, capsys):
    import json
    import shutil

    shutil.copytree(runs[0], tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["plan"]["model"]["name"] = "somebodys:code"
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    assert main.run(["export", str(tmp_path / "run"), "--adversarials", str(tmp_path / "a")]) == 2
    assert "--trust" in capsys.readouterr().err


def test_no_run_is_one_line(tmp_path, capsys):
    assert main.run(["export", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
