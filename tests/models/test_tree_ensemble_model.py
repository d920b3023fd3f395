"""Ensembles as they are opened: what they answer, against the libraries; ties; what is refused by name."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import tree_problems
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

import zeronorm as zn
from zeronorm.errors import ArgumentError
from zeronorm.models import TreeClassifier

KINDS = tree_problems.SKLEARN + tree_problems.OTHERS


@pytest.mark.parametrize("missing", [False, True], ids=["whole", "missing"])
@pytest.mark.parametrize("load", [load_breast_cancer, load_wine], ids=["two", "three"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_sums_of_the_libraries(kind, load, missing):
    if kind in tree_problems.OTHERS:
        pytest.importorskip(kind)
    x, y = load(return_X_y=True)
    rng = np.random.default_rng(0)
    if missing and kind != "boosting":
        x[rng.random(x.shape) < 0.05] = np.nan
    model = tree_problems.fitted(kind, rng, torch.tensor(x), y, small=False)
    low, high = np.nanmin(x, 0), np.nanmax(x, 0)
    inputs = rng.uniform(low, high, (1000, x.shape[1]))
    # and values at the thresholds themselves
    inner = np.flatnonzero(model.trees.feature >= 0)
    for row in range(500):
        for node in rng.choice(inner, 5):
            inputs[row, model.trees.feature[node]] = model.trees.threshold[node]
    inputs = np.where(np.isfinite(inputs) & (np.abs(inputs) < 1e30), inputs, 0.0)
    absent = (rng.random(inputs.shape) < 0.1) & model.trees.takes_missing
    inputs[absent if missing else np.zeros_like(absent)] = np.nan
    scores = model.trees.scores(inputs)
    logits = model(torch.tensor(inputs)).numpy()
    if model.trees.votes:
        own = np.log(np.maximum(scores / model.trees.trees, np.finfo(float).tiny))
        assert np.abs(own - logits)[np.isfinite(own)].max() < 1e-12
    elif kind in ("boosting", "histogram"):
        p = np.exp(logits)
        if scores.shape[1] == 2:
            own = 1 / (1 + np.exp(-scores[:, 1]))
            assert np.abs(own - p[:, 1]).max() < 1e-12
    elif scores.shape[1] == 2:
        assert np.abs(scores[:, 1] - 2 * logits[:, 1]).max() <= model.trees.slack.max()
    else:
        assert np.abs(scores - logits).max() <= model.trees.slack.max()
    assert np.array_equal(model.answers(inputs), model.predict(inputs))


def test_a_tie_is_answered_as_the_library_answers_it():
    """Boosting says class 1 where the score is exactly 0, an argmax of two equal probabilities class 0."""
    x = np.array([[0.0], [0.0], [1.0], [1.0]])
    fitted = GradientBoostingClassifier(n_estimators=1, init="zero", learning_rate=1e-300).fit(
        x, [0, 1, 0, 1]
    )
    assert fitted.predict(x).tolist() == [1, 1, 1, 1]
    model = zn.models.from_sklearn(fitted)
    assert model(torch.tensor(x)).argmax(1).tolist() == [1, 1, 1, 1]
    forest = RandomForestClassifier(2, random_state=0, bootstrap=False).fit(x, [0, 1, 0, 1])
    assert zn.models.from_sklearn(forest)(torch.tensor(x)).argmax(1).tolist() == forest.predict(x).tolist()


def test_near_scores_are_not_merged_by_single_precision():
    x = np.arange(6.0)[:, None]
    fitted = HistGradientBoostingClassifier(max_iter=1, learning_rate=1e-9, min_samples_leaf=1).fit(
        x, [0, 0, 0, 1, 1, 1]
    )
    model = zn.models.from_sklearn(fitted)
    assert model(torch.tensor(x, dtype=torch.float32)).argmax(1).tolist() == fitted.predict(x).tolist()


def test_names_of_classes_and_the_models_that_are_trees():
    x, y = load_wine(return_X_y=True)
    named = zn.models.from_sklearn(DecisionTreeClassifier().fit(x, np.array(["b", "a", "c"])[y]))
    assert isinstance(named, TreeClassifier) and named.class_names == ("a", "b", "c")
    assert set(named.answers(x[:3]).tolist()) == {1}
    other = zn.models.from_sklearn(KNeighborsClassifier().fit(x, y))
    assert not isinstance(other, TreeClassifier)

    class Mine(RandomForestClassifier):
        """Which may do anything."""

    assert not isinstance(zn.models.from_sklearn(Mine(3).fit(x, y)), TreeClassifier)


def test_refused_by_name():
    x, y = load_breast_cancer(return_X_y=True)
    started = GradientBoostingClassifier(n_estimators=2, init=DecisionTreeClassifier(max_depth=1)).fit(x, y)
    coded = np.column_stack([np.arange(len(x)) % 4, x[:, :3]])
    categories = HistGradientBoostingClassifier(max_iter=2, categorical_features=[0]).fit(coded, y)
    for expected, model in {
        "that starts from a constant, got init=DecisionTreeClassifier": started,
        "of numbers, got one with categorical_features": categories,
    }.items():
        opened = zn.models.from_sklearn(model)
        with pytest.raises(ArgumentError, match=re.escape(expected)):
            _ = opened.trees


def test_xgboost_refused_by_name():
    xgboost = pytest.importorskip("xgboost")
    x, y = load_breast_cancer(return_X_y=True)
    few = {"n_estimators": 2, "max_depth": 2, "n_jobs": 1}
    for expected, make in {
        "model: expected the booster gbtree, got dart": lambda: xgboost.XGBClassifier(
            booster="dart", **few
        ).fit(x, y),
        "model: expected the objective binary:logistic": lambda: xgboost.XGBRegressor(**few).fit(x, y),
        "model: expected missing=nan, got missing=0.0": lambda: xgboost.XGBClassifier(missing=0.0, **few).fit(
            x, y
        ),
        "model: expected an XGBClassifier or a Booster": lambda: DecisionTreeClassifier().fit(x, y),
    }.items():
        with pytest.raises(ArgumentError, match=re.escape(expected)):
            _ = zn.models.from_xgboost(make()).trees
    early = xgboost.XGBClassifier(n_estimators=50, early_stopping_rounds=2, n_jobs=1)
    early.fit(x[:300], y[:300], eval_set=[(x[300:], y[300:])], verbose=False)
    model = zn.models.from_xgboost(early)
    assert model.trees.trees == early.best_iteration + 1
    assert np.array_equal(model.answers(x), early.predict(x))
    booster = zn.models.from_xgboost(early.get_booster())
    assert booster.trees.trees == early.get_booster().num_boosted_rounds()


def test_lightgbm_refused_by_name():
    lightgbm = pytest.importorskip("lightgbm")
    x, y = load_breast_cancer(return_X_y=True)
    few = {"n_estimators": 3, "verbose": -1, "n_jobs": 1}
    for expected, options in {
        "boosting gbdt, dart or goss, got rf": {
            "boosting_type": "rf",
            "bagging_freq": 1,
            "bagging_fraction": 0.5,
        },
        "constant leaves, got linear_tree": {"linear_tree": True},
        "without zero_as_missing": {"zero_as_missing": True},
    }.items():
        zeros = np.where(x < np.median(x, 0), 0.0, x)
        fitted = lightgbm.LGBMClassifier(**few, **options).fit(zeros, y)
        with pytest.raises(ArgumentError, match=re.escape(expected)):
            _ = zn.models.from_lightgbm(fitted).trees
    with pytest.raises(
        ArgumentError, match="model: expected the objective binary or multiclass, got regression"
    ):
        zn.models.from_lightgbm(lightgbm.LGBMRegressor(**few).fit(x, y))
    dart = lightgbm.LGBMClassifier(boosting_type="dart", **few).fit(x, y)
    model = zn.models.from_lightgbm(dart)
    assert model.trees.trees == 3 and np.array_equal(model.answers(x), dart.predict(x))


def test_catboost_refused_by_name():
    catboost = pytest.importorskip("catboost")
    x, y = load_breast_cancer(return_X_y=True)
    options = {"iterations": 2, "depth": 2, "verbose": 0, "allow_writing_files": False, "thread_count": 1}
    coded = np.column_stack([(x[:, 0] > 14).astype(int), (x[:, 1] * 10).astype(int)])
    categories = catboost.CatBoostClassifier(cat_features=[0], **options).fit(coded, y)
    with pytest.raises(ArgumentError, match="CatBoost with numeric features only, got categorical_features"):
        _ = zn.models.from_catboost(categories).trees
    named = catboost.CatBoostClassifier(**options).fit(x, np.array(["no", "yes"])[y])
    with pytest.raises(ArgumentError, match="model: expected the classes 0 to C - 1"):
        zn.models.from_catboost(named)
    with pytest.raises(ArgumentError, match="model: expected a fitted CatBoostClassifier"):
        zn.models.from_catboost(catboost.CatBoostClassifier(**options))


def test_a_model_that_is_not_what_was_read(monkeypatch):
    x, y = load_breast_cancer(return_X_y=True)
    model = zn.models.from_sklearn(RandomForestClassifier(5, random_state=0).fit(x, y))
    read = model._read

    def wrong():
        trees = read()
        trees.value[:] = trees.value[:, ::-1].copy()
        return trees

    model._read = wrong
    with pytest.raises(ArgumentError, match="a part of this model is not understood"):
        _ = model.trees
