"""What columns may become: inferred, written, read, checked, and rows repaired."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
import tree_problems
from hypothesis import given, settings
from hypothesis import strategies as st

import zeronorm as zn
from zeronorm.data import Column, Relation, Schema
from zeronorm.errors import ArgumentError

EVERY = Schema(
    (
        Column("age", "whole", 17, 90, changes="up"),
        Column("income", "real", 0, 1e5, by=1000.0, missing=True),
        Column(
            "color", "category", categories=("red", "blue", "green"), one_hot=True, features=("r", "b", "g")
        ),
        Column("job", "category", categories=('say "x"', "ü\x7f", "c"), reachable=("c",), missing=True),
        Column("owner", "binary", changes="never"),
    ),
    ("age <= 0.5 * income + 90",),
)


def test_text_and_back(tmp_path):
    assert Schema.parse(EVERY.text) == EVERY
    EVERY.write(tmp_path / "schema.toml")
    assert Schema.read(tmp_path / "schema.toml") == EVERY
    assert EVERY.text == Schema.read(tmp_path / "schema.toml").text
    assert EVERY.feature_names == ("age", "income", "r", "b", "g", "job", "owner") and EVERY.features == 7


def test_what_an_array_seems_to_be():
    x = np.column_stack([[0.5, 1, 2], [1, 2, 3], [0, 1, 1], [4, 4, 4], [1, math.nan, 2.5]])
    schema = Schema.infer(x, ["a", "b", "c", "d", "e"])
    assert [c.kind for c in schema.columns] == ["real", "whole", "binary", "whole", "real"]
    assert schema["d"].changes == "never" and schema["e"].missing and schema["b"].bounds == (1, 3)
    assert len(schema.guesses) == 4 and all(guess.split(":")[0] in "bcde" for guess in schema.guesses)
    assert schema.report.count("\n") == 10 and "guessed:" in schema.report
    assert Schema.infer(x).names[0] == "column 0"


def test_what_a_frame_seems_to_be():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {"n": [1, 2, 3], "c_red": [1, 0, 0], "c_blue": [0, 1, 0], "c_x": [0, 0, 1], "t": ["a", "b", "a"]}
    )
    schema = Schema.infer(frame)
    assert schema.names == ("n", "c", "t") and schema["c"].categories == ("red", "blue", "x")
    assert schema["c"].feature_names == ("c_red", "c_blue", "c_x") and "c: one category" in schema.guesses[0]
    x = schema.encode(frame)
    assert x[1].tolist() == [2, 0, 1, 0, 1]
    assert schema.frame(x).equals(frame.astype({"t": schema.frame(x)["t"].dtype}))


def test_violations_are_a_line_each():
    x = torch.tensor(
        [
            [20, 50, 1, 0, 0, 2, 1.0],
            [20.5, 50, 1, 1, 0, 2, 1.0],
            [16, math.nan, 1, 0, 0, 3, 2.0],
            [90, 0, 0, 0, 1, math.nan, math.nan],
        ],
        dtype=torch.float64,
    )
    assert EVERY.violations(x[:1]) == []
    assert EVERY.violations(x) == [
        "age: expected values in [17, 90], got 16 in row 2",
        "age: expected whole numbers, got 20.5 in row 1",
        "color: expected exactly one 1 among 3 features, the others 0, got [1.0, 1.0, 0.0] in row 1",
        "job: expected values in [0, 2], got 3 in row 2",
        "owner: expected a value, got nan in row 3",
        "owner: expected values in [0, 1], got 2 in row 2",
    ]
    with pytest.raises(ArgumentError, match=r"age: .* \(and 5 more violations"):
        EVERY.require(x)


def test_possible_rows():
    x = torch.tensor([[20, 5000, 1, 0, 0, 2, 1.0]], dtype=torch.float64)

    def may(**features):
        changed = x.clone()
        for name, value in features.items():
            changed[0, EVERY.feature_names.index(name)] = value
        return bool(EVERY.possible(x, changed))

    assert may() and may(age=21) and not may(age=19) and not may(age=20.5) and not may(age=91)
    assert may(income=4000) and not may(income=3999) and may(income=5999.5)
    assert not may(income=math.nan), "a value with a reach can neither appear nor go"
    assert may(r=0, g=1) and not may(r=0) and not may(g=1) and not may(owner=0)
    assert may(job=math.nan) and not may(job=0) and not may(job=1)
    assert EVERY.changed(x, x + torch.tensor([[0, 0, -1, 1, 0, 0, 0]])).tolist() == [
        [False, False, True, False, False]
    ]


def test_differences_for_a_person():
    x = torch.tensor([20, 5000, 1, 0, 0, 2, 1.0], dtype=torch.float64)
    other = torch.tensor([20, 5999.5, 0, 0, 1, math.nan, 1.0], dtype=torch.float64)
    assert EVERY.differences(x, other) == ["income 5,000 → 5,999.5", "color red → green", "job c → missing"]
    assert EVERY.differences(x, x) == []


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([torch.float32, torch.float64]))
def test_repaired_rows_are_possible(seed, dtype):
    rng = np.random.default_rng(seed)
    schema, x, _ = tree_problems.table(rng, dtype, missing=True)
    wild = x + torch.tensor(rng.normal(size=x.shape), dtype=dtype) * torch.tensor(rng.random(x.shape) < 0.5)
    wild[torch.tensor(rng.random(x.shape) < 0.05)] = math.nan
    repaired = schema.repair(x, wild)
    assert bool(schema.possible(x, repaired).all())
    assert not bool((schema.changed(x, repaired) & ~schema.changed(x, wild)).any())
    # a possible row stays
    assert torch.equal(schema.repair(x, repaired).nan_to_num(9.0), repaired.nan_to_num(9.0))
    assert Schema.parse(schema.text) == schema


def test_the_threat_model():
    x = torch.tensor([[20, 5000, 1, 0, 0, 2, 1.0]], dtype=torch.float64)
    threat = zn.L0(1, unit="column", schema=EVERY)
    assert threat.available(x) == 4 and threat.positions(x) == 5
    threat.check_inputs(x)
    group = x + torch.tensor([[0, 0, -1, 0, 1, 0, 0]])
    assert threat.distance(x, group).tolist() == [1] and threat.contains(x, group).tolist() == [True]
    two = group + torch.tensor([[1, 0, 0, 0, 0, 0, 0]])
    assert threat.contains(x, two).tolist() == [False] and threat.with_k(2).contains(x, two).tolist() == [
        True
    ]
    only = zn.L0(2, unit="column", schema=EVERY, allowed=torch.tensor([True, False, False, False, False]))
    assert only.contains(x, two).tolist() == [False] and only.available(x) == 1
    assert threat.describe()["schema"] == EVERY.text and threat == zn.L0(1, unit="column", schema=EVERY)
    assert threat != zn.L0(1, unit="column", schema=EVERY.with_column("age", changes="any"))
    for expected, call in {
        "schema: expected a zeronorm.data.Schema": lambda: zn.L0(1, unit="column"),
        'with unit="column", got Schema': lambda: zn.L0(1, schema=EVERY),
        "linf: expected None": lambda: zn.L0(1, unit="column", schema=EVERY, linf=0.1),
        "low: expected the schema's own": lambda: zn.L0(1, unit="column", schema=EVERY, low=-1.0),
        "k: expected between 0 and 4, the number of columns": lambda: threat.with_k(5).check_inputs(x),
    }.items():
        with pytest.raises(ArgumentError, match=re.escape(expected)):
            call()


def test_quantiles_are_where_the_data_lie():
    data = np.concatenate([np.linspace(0, 1, 160), [1000.0]])[:, None]
    (column,) = Schema.infer(data).columns
    assert (
        len(column.quantiles) == 15 and max(column.quantiles) < 1 and set(column.quantiles) <= set(data[:, 0])
    )
    assert Schema.parse(Schema((column,)).text).columns == (column,)
    assert Schema.infer(np.arange(17)[:, None]).columns[0].quantiles == (), "few whole numbers are all tried"
    for wrong in ({"quantiles": (2.0, 1.0)}, {"quantiles": (7.0,)}):
        with pytest.raises(ArgumentError, match="quantiles of a: expected"):
            Column("a", "real", 0, 5, **wrong)
    with pytest.raises(ArgumentError, match="expected a category without low, high, by and quantiles"):
        Column("a", "category", categories=("x", "y"), quantiles=(1.0,))


def test_relations_give_way_in_turn():
    schema = Schema(
        (
            Column("a", "whole", 0, 9),
            Column("b", "real", 0, 9),
            Column("total", "real", 0, 20),
            Column("c", "real", 0, 9),
        ),
        ("total = a + b", "c <= b"),
    )
    x = torch.tensor([[1.0, 2, 3, 1]], dtype=torch.float64)

    def repaired(*row):
        return schema.repair(x, torch.tensor([row], dtype=torch.float64)).tolist()[0]

    assert repaired(1, 2, 3, 1) == [1, 2, 3, 1]
    assert repaired(1, 5, 7, 1) == [1, 5, 6, 1], "the total gives way first"
    assert repaired(1, 5, 3, 1) == [1, 2, 3, 1], "alone it cannot change"
    assert repaired(4, 2, 3, 1) == [1, 2, 3, 1]
    assert repaired(1, 2, 3, 8) == [1, 2, 3, 2], "c only as far as b"


def test_relations():
    assert Relation.parse("total = a + 2*b - `c d` + 3").terms == (
        (1, "total"),
        (-1, "a"),
        (-2, "b"),
        (1, "c d"),
    )
    assert Relation.parse("a >= 1").terms == ((-1, "a"),) and Relation.parse("a >= 1").constant == -1
    assert Relation.parse("2 a <= 1e3").terms == ((2, "a"),)
    for text in ("a", "a = b = c", "a b = 1", "1 = 2", "a + = 2", "a = (b)"):
        with pytest.raises(ArgumentError, match="relations: expected"):
            Relation.parse(text)


def test_refusals():
    for expected, call in {
        "kind of a: expected one of": lambda: Column("a", "number"),
        "a: expected low and high": lambda: Column("a"),
        "high of a: expected at least low (3), got 2": lambda: Column("a", low=3, high=2),
        "categories of a: expected 2 to": lambda: Column("a", "category", categories=("x", "x")),
        "reachable of a: expected its categories, got 'z'": lambda: Column(
            "a", "category", categories=("x", "y"), reachable=("z",)
        ),
        "missing of a: expected false of a one-hot group": lambda: Column(
            "a", "category", categories=("x", "y"), one_hot=True, missing=True
        ),
        "columns: expected a name of its own": lambda: Schema((Column("a", "binary"), Column("a", "binary"))),
        "relations: expected names of columns, got 'b'": lambda: Schema((Column("a", "binary"),), ("a = b",)),
        "schema: expected TOML": lambda: Schema.parse("[["),
        "schema: expected [[columns]]": lambda: Schema.parse(""),
        "schema: expected of column 'a' some of": lambda: Schema.parse("[[columns]]\nname = 'a'\ncolour = 1"),
        "low of a: expected a number": lambda: Schema.parse("[[columns]]\nname = 'a'\nlow = 'x'\nhigh = 1"),
        "schema: expected a readable TOML file": lambda: Schema.read("/nowhere/at.all"),
        "data: expected a frame or an array of numbers": lambda: Schema.infer(np.array([["a"]])),
        "data: expected finite numbers in column": lambda: Schema.infer(np.array([[math.inf], [1.0]])),
        "x: expected rows of 7 features": lambda: EVERY.violations(torch.zeros(1, 3)),
        "columns: expected one of age": lambda: EVERY["no"],
    }.items():
        with pytest.raises(ArgumentError, match=re.escape(expected)) as error:
            call()
        assert "\n" not in str(error.value)
