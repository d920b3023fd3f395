"""Runs of every kind the page must cope with, written once per worker."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from run_folders import COMPARISONS, KINDS, digits, fit, tabular, write_comparison, write_run
from sklearn.ensemble import HistGradientBoostingClassifier

import zeronorm as zn
from zeronorm.records.folders import RunFolder


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Run folders by kind."""
    home = tmp_path_factory.mktemp("runs")
    x, y = digits(60)
    model = fit(*digits(1797), 30.0)
    most = np.flatnonzero(y != 4)
    right = np.flatnonzero((x.reshape(len(x), -1) @ model[0].T + model[1]).argmax(1) == y)[:20]
    plain = {"model": model, "linf": 0.35}
    return {
        "list": write_run(home / "list", x, y, **plain, pictures=40),
        "curve": write_run(home / "curve", x, y, **plain, budgets=[12], curve=True),
        "tabular": write_run(home / "tabular", *tabular(50), unit="feature", budgets=[1, 2, 5]),
        "colour": write_run(home / "colour", *digits(30, colour=True), budgets=[1, 3]),
        "features_of_images": write_run(
            home / "features", *digits(30, colour=True), unit="feature", budgets=[2, 6]
        ),
        "unfinished_list": write_run(home / "unfinished_list", x, y, **plain, keep_rows=0.43),
        "unfinished_curve": write_run(
            home / "unfinished_curve", x, y, **plain, budgets=[12], curve=True, keep_rows=0.51
        ),
        "one_class_missing": write_run(home / "missing", x[most], y[most], **plain),
        "all_broken": write_run(home / "all_broken", x, y, model=model, budgets=[30]),
        "none_broken": write_run(home / "none_broken", x[right], y[right], model=model, linf=1e-3),
        "all_wrong": write_run(home / "all_wrong", x[right], (y[right] + 1) % 10, **plain),
        "one_example": write_run(home / "one", x[right][:1], y[right][:1], **plain, budgets=[2]),
        "nothing_yet": write_run(home / "nothing", x, y, **plain, keep_rows=0.0),
        "large_budgets": write_run(home / "large", x, y, **plain, budgets=[1, 5, 50, 64]),
        "minimal_list": write_run(home / "minimal_list", x, y, **plain, minimal=[1]),
        "minimal_curve": write_run(
            home / "minimal_curve", x, y, **plain, budgets=[12], curve=True, minimal=[0, 2]
        ),
        "unfinished_minimal_list": write_run(
            home / "unfinished_minimal_list", x, y, **plain, minimal=[0, 2], keep_rows=0.6
        ),
    }


@pytest.fixture(params=KINDS)
def folder(runs, request):
    """Each kind of run in turn."""
    assert set(KINDS) == set(runs)
    return runs[request.param]


@pytest.fixture(scope="session")
def table_run(tmp_path_factory):
    """A run on a table: columns with units, a one-hot group, values that may be missing."""
    rng = np.random.default_rng(0)
    n = 60
    income, years = rng.integers(500, 6000, n).astype(float), rng.normal(8, 3, n).clip(0, 20)
    job, owner = rng.integers(0, 3, n), rng.integers(0, 2, n)
    years[rng.random(n) < 0.2] = np.nan
    x = np.column_stack([income, years, np.eye(3)[job], owner])
    points = income / 200 + np.nan_to_num(years) + 8 * job + 9 * owner
    y = (points > np.median(points)).astype(int)
    jobs = zn.data.Column("job", "category", categories=("none", "clerk", "chief <i>"), one_hot=True)
    schema = zn.data.Schema(
        (
            zn.data.Column("income", "whole", 500, 6000, measure="EUR"),
            zn.data.Column("a column of years with a long name", "real", 0, 20, missing=True),
            jobs,
            zn.data.Column("owner", "binary"),
        )
    )
    boosted = HistGradientBoostingClassifier(max_iter=20, min_samples_leaf=5).fit(x, y)
    rows = (torch.tensor(x), torch.tensor(y), torch.arange(n), "people", "test", ("denied", "granted"))
    data = zn.data.TableDataset(*rows, schema=schema, target="decision")
    threats = [zn.L0(k, unit="column", schema=schema) for k in (1, 2, 3)]
    home = tmp_path_factory.mktemp("table") / "run"
    zn.evaluate(zn.models.from_sklearn(boosted), data, threats, "sparse_rs", home, queries=12, prove=True)
    return RunFolder(home), data


@pytest.fixture(scope="session")
def comparisons(tmp_path_factory):
    """Comparisons by kind."""
    home = tmp_path_factory.mktemp("comparisons")
    x, y = digits(40)
    many = [f"attack_number_{i}" for i in range(8)]
    one = {"models": ["digits"]}
    written = {
        "two_models": write_comparison(home / "two", x, y, linf=0.35),
        "curve": write_comparison(home / "curve", x, y, budgets=[40], curve=True, linf=0.35),
        "many_attacks": write_comparison(home / "many", x, y, attacks=many, linf=0.35, **one),
        "one_attack": write_comparison(home / "one", x, y, attacks=["sparse_rs"], **one),
        "unfinished": write_comparison(home / "unfinished", x, y, begun=4),
        "nothing_broken": write_comparison(home / "nothing", x, y, linf=1e-3),
    }
    assert set(written) == set(COMPARISONS)
    return written
