"""Exact answers for ensembles of trees: brute force by the libraries, HiGHS as a twin, ties, bounds, bad input."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
import torch
import tree_brute_force
import tree_problems
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.tree import DecisionTreeClassifier

import zeronorm as zn
from benchmarks.trees import fewest_by_milp
from zeronorm.certification import UNBOUNDED, TreeProver, certify_tree_ensemble, smallest_change
from zeronorm.certification.tree_ensemble import last_value_left
from zeronorm.data import Column, Schema
from zeronorm.errors import ArgumentError

HARD = ("binary", "binary", "whole", "code", "group", "whole")


def problem(seed: int, kind: str, hard: bool):
    """A schema, a small model and rows to ask about; of a hard one several columns must change."""
    rng = np.random.default_rng(seed)
    dtype = torch.float32 if rng.random() < 0.5 else torch.float64
    missing = kind != "boosting" and rng.random() < 0.4
    kinds = list(rng.choice(HARD, int(rng.integers(5, 8)))) if hard else None
    schema, x, signal = tree_problems.table(
        rng, dtype, missing=missing, kinds=kinds, directions=not hard or rng.random() < 0.5
    )
    y = tree_problems.labels(rng, signal, 2 if hard and rng.random() < 0.7 else int(rng.integers(2, 5)))
    model = tree_problems.fitted(kind, rng, x, y, small=not hard)
    # far from the border
    rows = x[np.argsort(-abs(signal - np.median(signal)))[:5].copy()]
    return schema, model, rows


def check(seed: int, kind: str, hard: bool) -> int:
    schema, model, x = problem(seed, kind, hard)
    threat = zn.L0(None, unit="column", schema=schema)
    outcome = smallest_change(model, x, threat)
    for i, row in enumerate(x):
        answer = int(outcome.prediction[i])
        expected, _ = tree_brute_force.smallest(schema, model, row, x.dtype, answer)
        assert (int(outcome.lower[i]), int(outcome.upper[i])) == (expected, expected), (seed, kind, i)
        if expected < UNBOUNDED:
            witness = outcome.witness[i : i + 1]
            assert int(model.answers(witness.numpy())[0]) != answer
            assert threat.with_k(expected).contains(x[i : i + 1], witness).all()
    return len(x)


def installed(kind: str) -> None:
    if kind in tree_problems.OTHERS:
        pytest.importorskip(kind)


@pytest.mark.parametrize("hard", [False, True], ids=["every kind of column", "several changes"])
@pytest.mark.parametrize("kind", tree_problems.SKLEARN + tree_problems.OTHERS)
def test_brute_force(kind, hard):
    installed(kind)
    for seed in range(4):
        check(seed, kind, hard)


@pytest.mark.slow
@pytest.mark.parametrize("kind", tree_problems.SKLEARN + tree_problems.OTHERS)
def test_brute_force_on_thousands_of_rows(kind):
    installed(kind)
    assert sum(check(seed, kind, seed % 2 == 0) for seed in range(1000, 1080)) == 400


def related(seed: int):
    """Columns of which the last is the sum of the others, or is bounded by it."""
    rng = np.random.default_rng(seed)
    parts = rng.integers(0, 3, (60, 3))
    x = torch.tensor(np.column_stack([parts, parts.sum(1)]), dtype=torch.float64)
    columns = [
        Column(f"a{i}", "whole", 0, 2, changes=str(rng.choice(["any", "any", "up"]))) for i in range(3)
    ]
    relations = ("t = a0 + a1 + a2",) if rng.random() < 0.6 else ("t <= a0 + a1 + a2 + 1", "a0 <= a1 + 1")
    schema = Schema((*columns, Column("t", "whole", 0, 6)), relations)
    y = tree_problems.labels(rng, parts @ rng.normal(size=3), 2)
    model = tree_problems.fitted(tree_problems.SKLEARN[seed % 5], rng, x, y)
    return schema, model, x[[not schema.violations(row[None]) for row in x]][:5]


@pytest.mark.parametrize("seeds", [range(12), pytest.param(range(12, 200), marks=pytest.mark.slow)])
def test_relations_by_brute_force(seeds):
    every = torch.tensor(list(itertools.product(range(3), range(3), range(3), range(7))), dtype=torch.float64)
    for seed in seeds:
        schema, model, x = related(seed)
        outcome = smallest_change(model, x, zn.L0(None, unit="column", schema=schema))
        for i in range(len(x)):
            rows = every[schema.possible(x[i : i + 1].expand_as(every), every)]
            flipped = torch.from_numpy(model.answers(rows.numpy())) != outcome.prediction[i]
            counts = (rows != x[i]).sum(1)[flipped]
            expected = int(counts.min()) if len(counts) else UNBOUNDED
            assert int(outcome.lower[i]) == int(outcome.upper[i]) == expected, (seed, i)


def test_relations_of_real_columns():
    rng = np.random.default_rng(0)
    parts = rng.uniform(0, 1, (100, 2))
    x = torch.tensor(np.column_stack([parts, parts.sum(1)]))
    model = zn.models.from_sklearn(DecisionTreeClassifier(max_depth=2).fit(x, parts[:, 0] > 0.5))
    columns = (Column("a", high=1, low=0), Column("b", low=0, high=1), Column("total", low=0, high=2))
    free, bound = Schema(columns), Schema(columns, ("total = a + b",))
    alone = smallest_change(model, x[:5], zn.L0(None, unit="column", schema=free))
    outcome = smallest_change(model, x[:5], zn.L0(None, unit="column", schema=bound))
    # a part cannot change alone
    assert alone.lower.tolist() == [1] * 5 and outcome.lower.tolist() == outcome.upper.tolist() == [2] * 5
    assert not bound.violations(outcome.witness)


@given(
    st.floats(-1e30, 1e30) | st.floats(-1e-38, 1e-38) | st.integers(-100, 100).map(float),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from(["float32", "float64"]),
)
def test_the_last_value_that_goes_left(threshold, cast, dtype):
    value = last_value_left(np.array([threshold]), cast, dtype).astype(dtype)
    assert value.astype(cast).astype(np.float64)[0] <= threshold
    beyond = np.nextafter(value, np.array(np.inf, dtype))
    assert beyond.astype(cast).astype(np.float64)[0] > threshold


@pytest.fixture(scope="module")
def cancer():
    table = load_breast_cancer()
    x, x_test, y, y_test = map(torch.tensor, train_test_split(table.data, table.target, random_state=0))
    forest = RandomForestClassifier(30, random_state=0).fit(x, y)
    low, high = (torch.tensor(bound) for bound in (table.data.min(0), table.data.max(0)))
    return zn.models.from_sklearn(forest), x_test, y_test, zn.L0(None, unit="feature", low=low, high=high)


def test_the_forest_of_the_example(cancer):
    model, x, y, threat = cancer
    outcome = smallest_change(model, x, threat)
    assert bool(outcome.exact.all())
    right = outcome.prediction == y
    shares = [round(100 * float(((outcome.lower > k) & right).double().mean()), 1) for k in range(1, 5)]
    assert shares == [85.3, 61.5, 17.5, 0.0]
    # rows do not depend on each other
    alone = smallest_change(model, x[5:6], threat)
    assert torch.equal(alone.lower, outcome.lower[5:6]) and torch.equal(alone.witness, outcome.witness[5:6])
    certificate = certify_tree_ensemble(model, x, threat)
    assert torch.equal(certificate.radius, outcome.lower - 1)
    # only up to a budget: what is proved is the same, and no witness goes beyond
    some = smallest_change(model, x, threat.with_k(2))
    assert torch.equal(some.lower, outcome.lower.clamp(max=3))
    assert torch.equal(some.upper, torch.where(outcome.upper <= 2, outcome.upper, UNBOUNDED))
    none = smallest_change(model, x[:3], threat.with_k(0))
    assert none.lower.tolist() == [1, 1, 1] and torch.equal(none.witness, x[:3])
    assert len(smallest_change(model, x[:0], threat)) == 0


def test_bounds_where_the_work_is_limited(cancer):
    model, x, _, threat = cancer
    whole = smallest_change(model, x, threat)
    little = smallest_change(model, x, threat, work=4000)
    assert not bool(little.exact.all())
    assert bool((little.lower <= whole.lower).all() & (whole.upper <= little.upper).all())


@pytest.mark.parametrize("kind", ["forest", "histogram", "xgboost"])
def test_the_same_by_highs(kind):
    installed(kind)
    rng = np.random.default_rng(3)
    kinds = ["whole", "group", "code", "binary", "binary", "real", "real"]
    schema, x, signal = tree_problems.table(rng, torch.float64, kinds=kinds, directions=False)
    model = tree_problems.fitted(kind, rng, x, tree_problems.labels(rng, signal, 3), small=False)
    prover = TreeProver(model, zn.L0(None, unit="column", schema=schema))
    outcome = prover(x[:8])
    for i in range(8):
        k, finished, confirmed = fewest_by_milp(prover, x[i : i + 1])
        assert finished
        # a tie that the library answers alike counts as a flip there
        assert k == int(outcome.lower[i]) if confirmed else k <= int(outcome.lower[i])


@pytest.mark.parametrize("classes", [2, 3])
def test_ties_are_the_librarys(classes):
    """Two trees of whole votes: half of the cells are ties, and the first class wins them."""
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.integers(0, 4, (80, 3)), dtype=torch.float64)
    y = (x.sum(1).numpy() + rng.integers(0, 3, 80)).astype(int) % classes
    forest = RandomForestClassifier(2, random_state=1).fit(x, y)
    model = zn.models.from_sklearn(forest)
    schema = Schema(tuple(Column(f"c{i}", "whole", 0, 3) for i in range(3)))
    outcome = smallest_change(model, x[:40], zn.L0(None, unit="column", schema=schema))
    every = np.array(list(itertools.product(range(4), repeat=3)), float)
    answers = forest.predict(every)
    for i in range(40):
        away = (every != x[i].numpy()).sum(1)[answers != int(outcome.prediction[i])].min()
        assert int(outcome.lower[i]) == int(outcome.upper[i]) == away


def test_an_answer_that_nothing_moves():
    x = torch.rand(20, 3, dtype=torch.float64)
    x[:, 2] = (x[:, 0] > 0.5).double()
    model = zn.models.from_sklearn(DecisionTreeClassifier().fit(x[:, :], x[:, 2].long()))
    frozen = Schema.infer(x.numpy())
    for name in frozen.names:
        frozen = frozen.with_column(name, changes="never" if frozen[name].kind == "binary" else "any")
    outcome = smallest_change(model, x, zn.L0(None, unit="column", schema=frozen))
    used = {int(f) for f in model.trees.feature if f >= 0}
    expected = UNBOUNDED if used == {2} else 1
    assert outcome.lower.tolist() == outcome.upper.tolist() == [expected] * 20
    assert certify_tree_ensemble(model, x, zn.L0(1, unit="column", schema=frozen)).radius.tolist() == (
        [UNBOUNDED] * 20 if expected == UNBOUNDED else [0] * 20
    )


def test_images_of_one_channel_and_masks():
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.random((60, 1, 3, 3)), dtype=torch.float32)
    y = (x[:, 0, 0, 0] > 0.5).long().numpy()
    model = zn.models.from_sklearn(RandomForestClassifier(5, random_state=0).fit(x.flatten(1).numpy(), y))
    pixels = smallest_change(model, x[:5], zn.L0(None))
    features = smallest_change(model, x[:5].flatten(1), zn.L0(None, unit="feature"))
    assert torch.equal(pixels.lower, features.lower) and pixels.witness.shape == (5, 1, 3, 3)
    allowed = torch.zeros(3, 3, dtype=torch.bool)
    assert smallest_change(model, x[:5], zn.L0(None, allowed=allowed)).lower.tolist() == [UNBOUNDED] * 5
    near = zn.L0(None, unit="feature", linf=0.1)
    close = smallest_change(model, x[:5].flatten(1), near)
    assert bool((close.lower >= features.lower).all())
    assert bool(near.contains(x[:5].flatten(1), close.witness).all())


@pytest.mark.parametrize("kind", ["lightgbm", "xgboost"])
def test_categorical_splits(kind):
    installed(kind)
    rng = np.random.default_rng(0)
    code, number = rng.integers(0, 6, 300), rng.integers(0, 4, 300)
    x = np.column_stack([code, number]).astype(float)
    y = (np.isin(code, [1, 4, 5]) ^ (number > 2)).astype(int)
    if kind == "lightgbm":
        from lightgbm import LGBMClassifier

        fitted = LGBMClassifier(
            n_estimators=5, min_child_samples=5, min_data_per_group=1, n_jobs=1, verbose=-1
        )
        model = zn.models.from_lightgbm(fitted.fit(x, y, categorical_feature=[0]))
    else:
        from xgboost import XGBClassifier

        fitted = XGBClassifier(n_estimators=5, feature_types=["c", "q"], enable_categorical=True, n_jobs=1)
        model = zn.models.from_xgboost(fitted.fit(x, y))
    assert model.trees.sets
    schema = Schema((Column("code", "category", categories=tuple("abcdef")), Column("number", "whole", 0, 3)))
    rows = torch.tensor(x[:30])
    outcome = smallest_change(model, rows, zn.L0(None, unit="column", schema=schema))
    for i, row in enumerate(rows):
        expected, _ = tree_brute_force.smallest(schema, model, row, rows.dtype, int(outcome.prediction[i]))
        assert int(outcome.lower[i]) == int(outcome.upper[i]) == expected
    wrong = Schema((Column("code", "whole", 0, 5), Column("number", "whole", 0, 3)))
    with pytest.raises(ArgumentError, match="schema: expected kind 'category' of 'code'"):
        smallest_change(model, rows, zn.L0(1, unit="column", schema=wrong))


def test_many_categories():
    """Sixty one-hot columns of which few are split on: categories that no tree tells apart are one cell."""
    rng = np.random.default_rng(0)
    code = rng.integers(0, 70, 400)
    x = np.column_stack([np.eye(70)[code], rng.integers(0, 3, 400)])
    y = np.isin(code, [3, 9, 20]) ^ (x[:, -1] == 2)
    model = zn.models.from_sklearn(
        RandomForestClassifier(10, max_depth=4, random_state=0).fit(x, y.astype(int))
    )
    names = tuple(f"n{i}" for i in range(70))
    schema = Schema((Column("code", "category", categories=names, one_hot=True), Column("c", "whole", 0, 2)))
    rows = torch.tensor(x[:10])
    outcome = smallest_change(model, rows, zn.L0(None, unit="column", schema=schema))
    for i, row in enumerate(rows):
        expected, _ = tree_brute_force.smallest(schema, model, row, rows.dtype, int(outcome.prediction[i]))
        assert int(outcome.lower[i]) == int(outcome.upper[i]) == expected


def test_bad_input(cancer):
    model, x, _, threat = cancer
    schema = Schema.infer(x.numpy())
    maybe = Schema(
        tuple(Column(f"c{i}", low=-1e9, high=1e9, missing=i == 0) for i in range(30)), ("c4 <= c0",)
    )
    linear = zn.models.from_sklearn(LogisticRegression(max_iter=5000).fit(x, cancer[2]))
    for expected, call in {
        "model: expected one of zn.models.from_sklearn": lambda: smallest_change(linear, x, threat),
        "threat: expected an L0": lambda: smallest_change(model, x, zn.Linf(0.1)),
        "work: expected an integer of at least 1": lambda: smallest_change(model, x, threat, work=0),
        "x: expected 30 features": lambda: smallest_change(model, x[:, :29], threat),
        "x: expected float32 or float64 rows": lambda: smallest_change(model, x.long(), threat),
        "x: expected values in": lambda: smallest_change(model, x + 1e6, threat),
        "x: expected rows that the schema allows": lambda: smallest_change(
            model, x + 1e6, zn.L0(1, unit="column", schema=schema)
        ),
        "unit: expected": lambda: smallest_change(model, torch.rand(1, 3, 2, 5), zn.L0(1)),
        "schema: expected columns that are never missing": lambda: smallest_change(
            model, x, zn.L0(1, unit="column", schema=maybe)
        ),
        "k: expected between 0 and 30": lambda: smallest_change(model, x, threat.with_k(31)),
        "low, high: expected numbers that float32 holds": lambda: smallest_change(
            model, x, zn.L0(1, unit="feature", low=0.0, high=1e300)
        ),
        "x: expected finite values": lambda: smallest_change(model, x * math.nan, threat),
    }.items():
        with pytest.raises(ArgumentError, match=re.escape(expected)) as error:
            call()
        assert "\n" not in str(error.value)
