"""Forests and boosted trees, opened: their splits and leaves as arrays, beside the library that answers.

    model = zn.models.from_sklearn(RandomForestClassifier().fit(x, y))
    model = zn.models.from_xgboost(XGBClassifier().fit(x, y))
    model.trees     # what `zn.certification.certify_tree_ensemble` proves things about

The library itself is what is called, attacked and asked to confirm.  What is read of it is compared with it, on rows
at and between its thresholds, before anything is proved; what is not understood is refused by name.
"""

from __future__ import annotations

import copy
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from zeronorm.errors import ArgumentError
from zeronorm.kernels.trees import leaves_reached
from zeronorm.models.black_box import BlackBox, log_probabilities

_NEAR = 1e-4  # logits nearer than this are a tie for the library to decide
_MOST_TREES, _MOST_NODES = 10_000, 20_000_000
_UNITS = {"float32": 2.0**-24, "float64": 2.0**-53}
_ZERO = float(np.float32(1e-35))  # what LightGBM takes for 0


@dataclass(frozen=True, eq=False)
class TreeEnsemble:
    """A classifier that adds up the leaves of trees.

    **Arguments:**

    - `library`: what it was read from, in words.
    - `features`, `classes`: their numbers.
    - `roots`: node number of each tree's root.
    - `feature`, `threshold`, `left`, `right`, `nan_left`: of each node; feature -1 is a leaf.  A value v goes left if
      `cast(v) <= threshold`, a missing one if `nan_left`.
    - `sets`: of categorical splits, node -> the codes that go left.
    - `value`: what each node adds, if it is a leaf: a vector `(class,)` where `group` is -1, else one number.
    - `group`: the class that each tree speaks for, or -1 for all.
    - `base`: the sum begins here, by class.
    - `cast`: the type in which the library compares.
    - `arithmetic`: the type in which it adds.
    - `takes_missing`: by feature, whether the library accepts NaN.
    - `votes`: whether it is a forest whose own sum is followed bit by bit: leaves added in the order of the trees in
      float64, divided by their number, the first largest class.
    """

    library: str
    features: int
    classes: int
    roots: Int64[np.ndarray, "t"]
    feature: Int64[np.ndarray, "n"]
    threshold: Float64[np.ndarray, "n"]
    left: Int64[np.ndarray, "n"]
    right: Int64[np.ndarray, "n"]
    nan_left: Bool[np.ndarray, "n"]
    value: Float64[np.ndarray, "n v"]
    group: Int64[np.ndarray, "t"]
    base: Float64[np.ndarray, "j"]
    takes_missing: Bool[np.ndarray, "p"]
    cast: Literal["float32", "float64"] = "float64"
    arithmetic: Literal["float32", "float64"] = "float64"
    votes: bool = False
    sets: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def trees(self) -> int:
        """How many trees."""
        return len(self.roots)

    @property
    def leaves(self) -> Int64[np.ndarray, "l"]:
        """The nodes that are leaves."""
        return np.flatnonzero(self.feature < 0)

    @cached_property
    def tree_of(self) -> Int64[np.ndarray, "n"]:
        """The tree of each node; nodes of a tree follow each other, its root first."""
        return np.repeat(np.arange(self.trees), np.diff([*self.roots, len(self.feature)]))

    @cached_property
    def slack(self) -> Float64[np.ndarray, "j"]:
        """By how much the library's sum for a class may differ from the sum of reals, for any input.

        The forward error of adding n numbers in any order, (n - 1) u Σ|a_i| to first order, four times over for the
        base, the scale and the last step to probabilities, in which near scores become equal.
        """
        unit = _UNITS[self.arithmetic]
        # the largest size of a leaf in each tree, for each class
        size = np.zeros((self.trees, self.value.shape[1]))
        np.maximum.at(size, self.tree_of, np.abs(self.value) * (self.feature < 0)[:, None])
        total = np.abs(self.base).copy()
        counts = np.zeros(self.classes)
        for c in range(self.classes):
            mine = self.group == c
            total[c] += size[mine, 0].sum() + (
                size[self.group < 0, c].sum() if (self.group < 0).any() else 0.0
            )
            counts[c] = mine.sum() + (self.group < 0).sum()
        slack: np.ndarray = 4 * (counts + 4) * unit * total + 16 * unit + 8 * _UNITS["float64"] * total
        return slack

    def casts(self, x: Any) -> Float64[np.ndarray, "b p"]:
        """The values as the library compares them, in float64."""
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(np.asarray(x).astype(self.cast).astype(np.float64))

    def reach(self, x: Any) -> Int64[np.ndarray, "b t"]:
        """The leaf that each row reaches in each tree, as node numbers."""
        starts, codes = self._flat_sets
        out = np.empty((len(x), self.trees), np.int64)
        leaves_reached(
            self.casts(x), self.roots, self.feature, self.threshold, self.left, self.right, self.nan_left, starts,
            codes, out,
        )  # fmt: skip
        return out

    @cached_property
    def _flat_sets(self) -> tuple[np.ndarray, np.ndarray]:
        counts = np.zeros(len(self.feature), np.int64)
        for node, codes in self.sets.items():
            counts[node] = len(codes)
        flat = [c for node in sorted(self.sets) for c in self.sets[node]]
        return np.concatenate([[0], np.cumsum(counts)]), np.array(flat, np.float64)

    def scores(self, x: Any) -> Float64[np.ndarray, "b j"]:
        """The sums of the leaves, tree after tree, in float64."""
        reached = self.reach(x)
        total = np.tile(self.base, (len(x), 1))
        for t in range(self.trees):
            added = self.value[reached[:, t]]
            if self.group[t] < 0:
                total += added
            else:
                total[:, self.group[t]] += added[:, 0]
        return total


class TreeClassifier(BlackBox):
    """A classifier of trees as a model: the library answers, `trees` is what it was seen to be made of.

    The largest logit, float64, is always that of the class that the library's own `predict` answers, ties included.
    """

    def __init__(
        self,
        logits: Callable[[Any], Any],
        predict: Callable[[Any], Any],
        read: Callable[[], TreeEnsemble],
        classes: int,
        features: int,
        batch_size: int | None,
        name: str,
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        def function(x: Any) -> Any:
            flat = x.reshape(len(x), math.prod(x.shape[1:]))
            if flat.shape[1] != features:
                raise ArgumentError(
                    f"x: expected {features} features per example for this {name.rpartition('.')[2]}, "
                    f"got inputs of shape {x.shape}"
                )
            if not len(x):
                return np.zeros((0, classes))
            scores = np.array(logits(flat), np.float64)  # a copy
            best = np.partition(scores, -2, axis=1)
            near = np.flatnonzero(~(best[:, -1] - best[:, -2] > _NEAR))
            if len(near):
                answers = np.asarray(predict(flat[near])).astype(np.int64).reshape(-1)
                for row, answer in zip(near, answers, strict=True):
                    if scores[row].argmax() != answer:
                        scores[row, answer] = np.nextafter(scores[row].max(), np.inf)
            return scores

        super().__init__(function, "logits", batch_size, name)
        self.classes = classes
        self.class_names = class_names
        self.predict = predict
        self.possible: Callable[[Any], Any] | None = None  # makes rows such that it can take them
        self._read = read

    @cached_property
    def trees(self) -> TreeEnsemble:
        """The trees, read and compared with the library; `ArgumentError` names what is not understood."""
        trees = self._read()
        if trees.trees > _MOST_TREES or len(trees.feature) > _MOST_NODES:
            raise ArgumentError(
                f"model: expected at most {_MOST_TREES} trees of {_MOST_NODES} nodes in all, "
                f"got {trees.trees} of {len(trees.feature)}"
            )
        _compare(trees, self)
        return trees

    def answers(self, x: Any) -> Int64[np.ndarray, "b"]:
        """The class that the library answers for each row of numpy values, in their own type."""
        answers: np.ndarray = self.function(np.array(x)).argmax(1)
        return answers

    def _logits(self, x: Tensor) -> Tensor:
        # in float64 whatever the inputs are: float32 would make ties of near scores
        return torch.from_numpy(self.function(np.array(x.cpu().numpy()))).to(x.device)


# -- scikit-learn ------------------------------------------------------------------------------------------

_FORESTS = ("RandomForestClassifier", "ExtraTreesClassifier")
_TREES = ("DecisionTreeClassifier", "ExtraTreeClassifier")
_SKLEARN = (*_FORESTS, *_TREES, "GradientBoostingClassifier", "HistGradientBoostingClassifier")


def is_sklearn_trees(classifier: Any) -> bool:
    """Whether it is exactly one of scikit-learn's classifiers of trees; a subclass may do anything."""
    kind = type(classifier)
    return kind.__module__.partition(".")[0] == "sklearn" and kind.__name__ in _SKLEARN


def sklearn_trees(
    classifier: Any, batch_size: int | None, class_names: tuple[str, ...] | None
) -> TreeClassifier:
    """A fitted classifier of `is_sklearn_trees` as a model."""
    kind = type(classifier).__name__
    classifier = copy.copy(classifier)
    if hasattr(classifier, "feature_names_in_"):
        del classifier.feature_names_in_  # of a data frame: arrays would be warned about at every call
    if hasattr(classifier, "n_jobs"):
        classifier.n_jobs = None  # threads add the votes in any order, which decides ties by chance
    classes = len(classifier.classes_)
    names = classifier.classes_

    def predict(x: Any) -> Any:
        return np.searchsorted(names, classifier.predict(x))

    def logits(x: Any) -> Any:
        return log_probabilities(np.asarray(classifier.predict_proba(x)))

    def read() -> TreeEnsemble:
        if isinstance(classifier.n_classes_ if hasattr(classifier, "n_classes_") else 0, list):
            raise ArgumentError(f"model: expected one output, got a {kind} of several")
        readers = {
            "GradientBoostingClassifier": _gradient_boosting,
            "HistGradientBoostingClassifier": _histogram,
        }
        return readers.get(kind, _forest)(classifier, kind)

    name = f"{type(classifier).__module__}.{kind}"
    return TreeClassifier(
        logits, predict, read, classes, classifier.n_features_in_, batch_size, name, class_names
    )


def _forest(classifier: Any, kind: str) -> TreeEnsemble:
    members = [classifier] if kind in _TREES else list(classifier.estimators_)
    trees = [member.tree_ for member in members]
    allows_nan = all(member.monotonic_cst is None for member in members)
    return _sklearn_nodes(
        trees,
        [tree.value[:, 0, :] for tree in trees],
        library=f"scikit-learn {kind}",
        features=classifier.n_features_in_,
        classes=len(classifier.classes_),
        group=np.full(len(trees), -1),
        base=np.zeros(len(classifier.classes_)),
        votes=True,
        missing=allows_nan,
    )


def _gradient_boosting(classifier: Any, kind: str) -> TreeEnsemble:
    init = classifier.init_
    if not (isinstance(init, str) and init == "zero") and type(init).__name__ != "DummyClassifier":
        raise ArgumentError(
            f"model: expected a {kind} that starts from a constant, got init={type(init).__name__}"
        )
    classes = len(classifier.classes_)
    # a constant, for any input
    base = np.asarray(classifier._raw_predict_init(np.zeros((1, classifier.n_features_in_), np.float32)))[0]
    stages = classifier.estimators_
    trees = [tree.tree_ for stage in stages for tree in stage]
    outputs = stages.shape[1]
    return _sklearn_nodes(
        trees,
        [classifier.learning_rate * tree.value[:, 0, :] for tree in trees],
        library=f"scikit-learn {kind}",
        features=classifier.n_features_in_,
        classes=classes,
        group=np.tile(np.arange(outputs) if outputs > 1 else [1], len(stages)),
        base=base.astype(np.float64) if outputs > 1 else np.array([0.0, float(base[0])]),
        votes=False,
        missing=False,
    )


def _sklearn_nodes(
    trees: Sequence[Any],
    values: Sequence[Any],
    *,
    library: str,
    features: int,
    classes: int,
    group: Any,
    base: Any,
    votes: bool,
    missing: bool,
) -> TreeEnsemble:
    roots = np.cumsum([0] + [tree.node_count for tree in trees])[:-1]
    shift = np.repeat(roots, [tree.node_count for tree in trees])
    joined = {
        name: np.concatenate([np.asarray(getattr(tree, name)) for tree in trees])
        for name in ("feature", "threshold", "children_left", "children_right")
    }
    nan_left = np.concatenate([np.asarray(tree.missing_go_to_left).astype(bool) for tree in trees])
    leaf = joined["children_left"] < 0
    return TreeEnsemble(
        library=library,
        features=features,
        classes=classes,
        roots=roots.astype(np.int64),
        feature=np.where(leaf, -1, joined["feature"]).astype(np.int64),
        threshold=joined["threshold"].astype(np.float64),
        left=np.where(leaf, -1, joined["children_left"] + shift).astype(np.int64),
        right=np.where(leaf, -1, joined["children_right"] + shift).astype(np.int64),
        nan_left=nan_left,
        value=np.concatenate(values).astype(np.float64),
        group=np.asarray(group, np.int64),
        base=np.asarray(base, np.float64),
        takes_missing=np.full(features, missing),
        cast="float32",
        votes=votes,
    )


def _histogram(classifier: Any, kind: str) -> TreeEnsemble:
    if classifier.is_categorical_ is not None and np.any(classifier.is_categorical_):
        raise ArgumentError(
            f"model: expected a {kind} of numbers, got one with categorical_features; encode them"
        )
    classes = len(classifier.classes_)
    nodes = _Nodes()
    groups = []
    for stage in classifier._predictors:
        for output, predictor in enumerate(stage):
            table = predictor.nodes
            if table["is_categorical"].any():
                raise ArgumentError(f"model: expected a {kind} of numbers, got one with categorical splits")
            leaf = table["is_leaf"].astype(bool)
            nodes.add(
                np.where(leaf, -1, table["feature_idx"]),
                table["num_threshold"],
                table["left"],
                table["right"],
                table["missing_go_to_left"].astype(bool),
                table["value"][:, None],
            )
            groups.append(output if len(stage) > 1 else 1)
    base = np.asarray(classifier._baseline_prediction, np.float64).reshape(-1)
    return nodes.ensemble(
        library=f"scikit-learn {kind}",
        features=classifier.n_features_in_,
        classes=classes,
        group=groups,
        base=base if len(base) > 1 else np.array([0.0, base[0]]),
        takes_missing=np.ones(classifier.n_features_in_, bool),
    )


# -- XGBoost -----------------------------------------------------------------------------------------------


def from_xgboost(model: Any, batch_size: int | None = None) -> TreeClassifier:
    """An XGBoost classifier as a model: an `XGBClassifier`, or a `Booster` with a classification objective.

    Understood: gbtree, numeric and categorical splits, `binary:logistic` and `multi:softprob`, early stopping,
    missing values.  Not: dart, gblinear, trees with vectors at their leaves.
    """
    xgboost = library("xgboost")
    wrapped = hasattr(model, "get_booster")
    booster = model.get_booster() if wrapped else model
    if not isinstance(booster, xgboost.Booster):
        raise ArgumentError(f"model: expected an XGBClassifier or a Booster, got {type(model).__name__}")
    told = json.loads(booster.save_raw("json"))["learner"]
    objective = told["objective"]["name"]
    if objective not in ("binary:logistic", "multi:softprob"):
        raise ArgumentError(
            f"model: expected the objective binary:logistic or multi:softprob, got {objective}"
        )
    absent = getattr(model, "missing", np.nan)
    if not (isinstance(absent, float) and np.isnan(absent)):
        raise ArgumentError(f"model: expected missing=nan, got missing={absent!r}")
    classes = max(2, int(told["learner_model_param"]["num_class"]))
    features = int(told["learner_model_param"]["num_feature"])
    rounds = (0, 0)
    if wrapped and (best := told["attributes"].get("best_iteration")) is not None:
        rounds = (0, int(best) + 1)

    def ask(x: Any, margin: bool) -> Any:
        matrix = xgboost.DMatrix(
            np.ascontiguousarray(x), feature_types=booster.feature_types, enable_categorical=True
        )
        return booster.predict(matrix, output_margin=margin, iteration_range=rounds, validate_features=False)

    def logits(x: Any) -> Any:
        raw = np.asarray(ask(x, True), np.float64)
        return raw if raw.ndim == 2 and classes > 2 else np.stack([-raw.ravel(), raw.ravel()], axis=1) / 2

    def predict(x: Any) -> Any:
        p = np.asarray(ask(x, False))
        return p.argmax(1) if p.ndim == 2 else (p > 0.5).astype(np.int64)  # as XGBClassifier does

    def read() -> TreeEnsemble:
        return _xgboost(told, classes, features, rounds[1])

    return TreeClassifier(
        logits, predict, read, classes, features, batch_size, f"xgboost.{type(model).__name__}"
    )


def _xgboost(told: Any, classes: int, features: int, rounds: int) -> TreeEnsemble:
    gradient_booster = told["gradient_booster"]
    if gradient_booster.get("name") != "gbtree":
        raise ArgumentError(f"model: expected the booster gbtree, got {gradient_booster.get('name')}")
    model = gradient_booster["model"]
    if (cats := model.get("cats")) and any(
        cats.get(key) for key in ("enc", "feature_segments", "sorted_idx")
    ):
        raise ArgumentError(
            "model: expected XGBoost's categories as codes, got names of a data frame; encode them"
        )
    trees = model["trees"]
    if rounds:
        trees = trees[: model["iteration_indptr"][rounds]]
    nodes = _Nodes()
    for tree in trees:
        if int(tree["tree_param"]["size_leaf_vector"]) > 1:
            raise ArgumentError("model: expected XGBoost trees of one output each, got multi_output_tree")
        left = np.array(tree["left_children"])
        leaf = left < 0
        condition = np.array(tree["split_conditions"], np.float32)
        # left if v < condition, that is, v <= the float32 before
        before = np.nextafter(condition, np.float32(-np.inf)).astype(np.float64)
        sets: dict[int, tuple[int, ...]] = {}
        right = np.array(tree["right_children"])
        nan_left = np.array(tree["default_left"]).astype(bool)
        for node, begin, size in zip(
            tree["categories_nodes"], tree["categories_segments"], tree["categories_sizes"], strict=True
        ):
            # these go right; here a set goes left
            sets[node] = tuple(int(c) for c in tree["categories"][begin : begin + size])
            left[node], right[node] = right[node], left[node]
            nan_left[node] = not nan_left[node]
        value = np.where(leaf, condition, 0).astype(np.float64)[:, None]
        nodes.add(np.where(leaf, -1, tree["split_indices"]), before, left, right, nan_left, value, sets)
    base = told["learner_model_param"]["base_score"]
    start = np.atleast_1d(np.array(json.loads(base) if base.startswith("[") else float(base), np.float64))
    if told["objective"]["name"] == "binary:logistic":
        start = np.array([0.0, np.log(start[0]) - np.log1p(-start[0])])
    elif len(start) != classes:
        start = np.full(classes, start[0])
    info = np.array(model["tree_info"][: len(trees)])
    return nodes.ensemble(
        library="XGBoost",
        features=features,
        classes=classes,
        group=info if classes > 2 else np.ones(len(trees)),
        base=start,
        takes_missing=np.ones(features, bool),
        cast="float32",
        arithmetic="float32",
    )


# -- LightGBM ----------------------------------------------------------------------------------------------


def from_lightgbm(model: Any, batch_size: int | None = None) -> TreeClassifier:
    """A LightGBM classifier as a model: an `LGBMClassifier`, or a `Booster` with a classification objective.

    Understood: gbdt, dart and goss, numeric and categorical splits, `binary` and `multiclass`, early stopping, missing
    values.  Not: rf, linear trees, `zero_as_missing`.
    """
    lightgbm = library("lightgbm")
    booster = getattr(model, "booster_", model)
    if not isinstance(booster, lightgbm.Booster):
        raise ArgumentError(
            f"model: expected a fitted LGBMClassifier or a Booster, got {type(model).__name__}"
        )
    text = booster.model_to_string()
    head = _pairs(text.partition("\nTree=")[0])
    objective = head.get("objective", "none").split()
    if objective[0] not in ("binary", "multiclass"):
        raise ArgumentError(f"model: expected the objective binary or multiclass, got {objective[0]}")
    given = getattr(model, "classes_", None)
    classes = max(2, int(head["num_class"]))
    if given is not None and len(given) != classes:
        raise ArgumentError(f"model: expected {classes} classes, got {len(given)}")
    features = int(head["max_feature_idx"]) + 1

    def logits(x: Any) -> Any:
        raw = np.asarray(booster.predict(x, raw_score=True, num_threads=1))
        return raw if raw.ndim == 2 else np.stack([-raw, raw], axis=1) / 2

    def predict(x: Any) -> Any:
        p = np.asarray(booster.predict(x, num_threads=1))
        return (
            p.argmax(1) if p.ndim == 2 else np.stack([1 - p, p], axis=1).argmax(1)
        )  # as LGBMClassifier does

    def read() -> TreeEnsemble:
        return _lightgbm(text, head, classes, features)

    return TreeClassifier(
        logits, predict, read, classes, features, batch_size, f"lightgbm.{type(model).__name__}"
    )


def _pairs(text: str) -> dict[str, str]:
    return {line.partition("=")[0]: line.partition("=")[2] for line in text.splitlines() if "=" in line}


def _lightgbm(text: str, head: dict[str, str], classes: int, features: int) -> TreeEnsemble:
    lines = text.splitlines()
    if "average_output" in lines:
        raise ArgumentError("model: expected LightGBM's boosting gbdt, dart or goss, got rf")
    if "[pred_early_stop: 1]" in lines:
        raise ArgumentError("model: expected LightGBM without pred_early_stop, got it set")
    nodes = _Nodes()
    body = text.partition("\nTree=")[2].partition("\nend of trees")[0]
    blocks = body.split("\nTree=")
    for block in blocks:
        told = _pairs(block)
        if told.get("is_linear", "0") != "0":
            raise ArgumentError("model: expected LightGBM trees with constant leaves, got linear_tree")
        values = np.array(told["leaf_value"].split(), np.float64)
        if int(told["num_leaves"]) == 1:
            nodes.add([-1], [0.0], [-1], [-1], [False], values[:1, None])
            continue
        feature, left, right, kind = (
            np.array(told[name].split(), np.int64)
            for name in ("split_feature", "left_child", "right_child", "decision_type")
        )
        threshold = np.array(told["threshold"].split(), np.float64)
        splits = len(feature)
        absent = (kind >> 2) & 3  # how a missing value is taken: not at all, with zeros, as such
        categorical = (kind & 1) == 1
        if (absent[~categorical] == 1).any():
            raise ArgumentError("model: expected LightGBM without zero_as_missing, got it set")
        # values nearer to 0 than this are 0 to LightGBM
        near = np.abs(threshold) <= _ZERO
        cut = np.where(near, np.where(threshold >= 0, _ZERO, np.nextafter(-_ZERO, -np.inf)), threshold)
        # a value that is missing where none was in training counts as 0
        nan_left = np.where(absent == 2, (kind & 2) == 2, threshold >= 0) & ~categorical
        sets: dict[int, tuple[int, ...]] = {}
        if categorical.any():
            borders = np.array(told["cat_boundaries"].split(), np.int64)
            words = np.array(told["cat_threshold"].split(), np.uint64)
            for node in np.flatnonzero(categorical):
                which = int(threshold[node])
                bits = words[borders[which] : borders[which + 1]]
                sets[int(node)] = tuple(
                    32 * w + b for w, word in enumerate(bits) for b in range(32) if (int(word) >> b) & 1
                )
        leaves = np.full(len(values), -1)
        nodes.add(
            np.concatenate([feature, leaves]),
            np.concatenate([cut, np.zeros(len(values))]),
            np.concatenate([np.where(left >= 0, left, splits - left - 1), leaves]),
            np.concatenate([np.where(right >= 0, right, splits - right - 1), leaves]),
            np.concatenate([nan_left, np.zeros(len(values), bool)]),
            np.concatenate([np.zeros(splits), values])[:, None],
            sets,
        )
    return nodes.ensemble(
        library="LightGBM",
        features=features,
        classes=classes,
        group=np.arange(len(blocks)) % classes if classes > 2 else np.ones(len(blocks)),
        base=np.zeros(classes),
        takes_missing=np.ones(features, bool),
    )


# -- CatBoost ----------------------------------------------------------------------------------------------


def from_catboost(model: Any, batch_size: int | None = None) -> TreeClassifier:
    """A `CatBoostClassifier` of numeric features as a model, of oblivious trees or others."""
    catboost = library("catboost")
    if not isinstance(model, catboost.CatBoostClassifier) or not model.is_fitted():
        raise ArgumentError(f"model: expected a fitted CatBoostClassifier, got {type(model).__name__}")
    labels = np.asarray(model.classes_)
    classes = len(labels)
    if classes < 2 or not np.array_equal(labels, np.arange(classes)):
        raise ArgumentError(f"model: expected the classes 0 to C - 1, got {labels!r:.60}; encode the labels")
    features = len(model.feature_names_)

    def logits(x: Any) -> Any:
        raw = np.asarray(model.predict(x, prediction_type="RawFormulaVal", thread_count=1))
        return raw if raw.ndim == 2 else np.stack([-raw, raw], axis=1) / 2

    def predict(x: Any) -> Any:
        return np.asarray(model.predict(x, thread_count=1)).reshape(-1)

    def read() -> TreeEnsemble:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.json")
            model.save_model(str(path), format="json")
            told = json.loads(path.read_text(encoding="utf-8"))
        return _catboost(told, classes, features, str(model.get_all_params().get("loss_function")))

    return TreeClassifier(
        logits, predict, read, classes, features, batch_size, f"catboost.{type(model).__name__}"
    )


def _catboost(told: Any, classes: int, features: int, loss: str) -> TreeEnsemble:
    if loss not in ("Logloss", "CrossEntropy", "MultiClass"):
        raise ArgumentError(f"model: expected CatBoost's Logloss, CrossEntropy or MultiClass, got {loss}")
    info = told["features_info"]
    for kind in ("categorical_features", "text_features", "embedding_features"):
        if info.get(kind):
            raise ArgumentError(
                f"model: expected CatBoost with numeric features only, got {kind}; encode them"
            )
    place = {f["feature_index"]: f["flat_feature_index"] for f in info["float_features"]}
    missing_left = np.ones(features, bool)
    takes_missing = np.zeros(features, bool)
    for f in info["float_features"]:
        at = f["flat_feature_index"]
        takes_missing[at] = f["has_nans"] and f["nan_value_treatment"] != "AsIs"
        missing_left[at] = f["nan_value_treatment"] != "AsTrue"
    scale, bias = told["scale_and_bias"]
    bias = np.atleast_1d(np.array(bias, np.float64))
    outputs = len(bias)
    nodes = _Nodes()

    def split(entry: Any) -> tuple[int, float]:
        if entry["split_type"] != "FloatFeature":
            raise ArgumentError(f"model: expected CatBoost splits of numbers, got {entry['split_type']}")
        return place[entry["float_feature_index"]], float(np.float32(entry["border"]))

    if (oblivious := told.get("oblivious_trees")) is not None:
        for tree in oblivious:
            splits = [split(entry) for entry in tree["splits"] or []]
            depth = len(splits)
            values = scale * np.array(tree["leaf_values"], np.float64).reshape(1 << depth, outputs)
            # heap order: the children of node i are 2 i + 1 and 2 i + 2; the last split is asked first, so that the
            # leaves come in the order of their index, whose bit i says whether split i was exceeded
            inner = (1 << depth) - 1
            level = np.array([splits[depth - 1 - (i + 1).bit_length() + 1] for i in range(inner)]).reshape(
                -1, 2
            )
            at = np.arange(inner)
            leaves = np.full(1 << depth, -1)
            feature = level[:, 0].astype(np.int64)
            nodes.add(
                np.concatenate([feature, leaves]),
                np.concatenate([level[:, 1], np.zeros(1 << depth)]),
                np.concatenate([2 * at + 1, leaves]),
                np.concatenate([2 * at + 2, leaves]),
                np.concatenate([missing_left[feature], np.zeros(1 << depth, bool)]),
                np.concatenate([np.zeros((inner, outputs)), values]),
            )
        count = len(oblivious)
    else:
        for tree in told["trees"]:
            feature_, threshold, left, right, value = (
                list[int](),
                list[float](),
                list[int](),
                list[int](),
                list[Any](),
            )
            waiting = [(tree, -1, 0)]
            while waiting:
                node, parent, side = waiting.pop()
                at = len(feature_)
                if parent >= 0:
                    (left, right)[side][parent] = at
                left.append(-1)
                right.append(-1)
                if "split" in node:
                    f, border = split(node["split"])
                    feature_.append(f)
                    threshold.append(border)
                    value.append(np.zeros(outputs))
                    waiting += [(node["right"], at, 1), (node["left"], at, 0)]
                else:
                    feature_.append(-1)
                    threshold.append(0.0)
                    value.append(scale * np.atleast_1d(np.array(node["value"], np.float64)))
            goes = [f >= 0 and bool(missing_left[f]) for f in feature_]
            nodes.add(feature_, threshold, left, right, goes, np.stack(value))
        count = len(told["trees"])
    return nodes.ensemble(
        library="CatBoost",
        features=features,
        classes=classes,
        group=np.full(count, -1 if outputs > 1 else 1),
        base=bias if outputs > 1 else np.array([0.0, bias[0]]),
        takes_missing=takes_missing,
        cast="float32",
    )


# -- what they share ---------------------------------------------------------------------------------------


class _Nodes:
    """The nodes of tree after tree, with places counted from each tree's root."""

    def __init__(self) -> None:
        self.parts: list[tuple[Any, ...]] = []
        self.sets: dict[int, tuple[int, ...]] = {}
        self.roots: list[int] = []
        self.count = 0

    def add(
        self,
        feature: Any,
        threshold: Any,
        left: Any,
        right: Any,
        nan_left: Any,
        value: Any,
        sets: dict[int, tuple[int, ...]] | None = None,
    ) -> None:
        feature, left, right = (np.asarray(a).astype(np.int64) for a in (feature, left, right))
        at = self.count
        self.roots.append(at)
        self.sets |= {at + node: codes for node, codes in (sets or {}).items()}
        leaf = feature < 0
        self.parts.append(
            (
                feature,
                np.asarray(threshold, np.float64),
                np.where(leaf, -1, left + at),
                np.where(leaf, -1, right + at),
                np.asarray(nan_left, bool),
                np.asarray(value, np.float64),
            )
        )
        self.count += len(feature)

    def ensemble(self, **told: Any) -> TreeEnsemble:
        if not self.parts:
            raise ArgumentError("model: expected at least one tree, got none")
        feature, threshold, left, right, nan_left, value = (
            np.concatenate(column) for column in zip(*self.parts, strict=True)
        )
        told["group"] = np.asarray(told["group"], np.int64)
        return TreeEnsemble(
            roots=np.array(self.roots, np.int64), feature=feature, threshold=threshold, left=left, right=right,
            nan_left=nan_left, value=value, sets=self.sets, **told,
        )  # fmt: skip


def _compare(trees: TreeEnsemble, model: TreeClassifier, rows: int = 256) -> None:
    """`ArgumentError` unless the trees, as read, add up as the library's on rows at, beside and between thresholds."""
    rng = np.random.default_rng(0)
    x = np.zeros((rows, trees.features))
    inner = trees.feature >= 0
    numeric = inner.copy()
    numeric[list(trees.sets)] = False
    for f in range(trees.features):
        mine = np.flatnonzero(inner & (trees.feature == f))
        cuts = np.unique(trees.threshold[mine[numeric[mine]]])
        cuts = cuts[np.abs(cuts) < np.finfo(np.float32).max]  # a split by absence has none
        codes = sorted({c for node in mine if int(node) in trees.sets for c in trees.sets[int(node)]})
        if codes:
            # one category more than any set names
            x[:, f] = rng.choice([*codes, *range(max(codes) + 2)], rows)
        elif len(cuts):
            at = rng.choice(cuts, rows)
            step = rng.choice([-1, 0, 1], rows)
            single = at.astype(np.float32)
            beside = np.where(
                step < 0,
                np.nextafter(single, np.float32(-np.inf)),
                np.where(step > 0, np.nextafter(single, np.float32(np.inf)), single),
            ).astype(np.float64)
            wide = cuts[-1] - cuts[0] + 1.0
            spread = rng.uniform(cuts[0] - 0.1 * wide, cuts[-1] + 0.1 * wide, rows)
            x[:, f] = np.where(rng.random(rows) < 0.5, spread, np.where(rng.random(rows) < 0.5, at, beside))
        if trees.takes_missing[f]:
            x[rng.random(rows) < 0.1, f] = np.nan
    x = x if model.possible is None else model.possible(x)
    scores, logits = trees.scores(x), np.asarray(model.function(x.copy()))
    lead = scores.max(1) - scores[np.arange(rows), logits.argmax(1)]
    if trees.votes:
        gap = np.abs(scores - trees.trees * np.exp(logits)) - 1e-9 * trees.trees
    else:
        # logits are the scores up to a constant, or logarithms of the probabilities made of them
        ours, theirs = (a - a.max(1, keepdims=True) for a in (scores, logits))
        gap = np.where(theirs > -20, np.abs(ours - theirs), 0.0) - 2 * trees.slack.max() - 1e-6
    if (lead > 2 * trees.slack.max()).any() or (gap > 0).any():
        row = int(np.argmax(gap.max(1)))
        raise ArgumentError(
            f"model: expected trees that add up to what {trees.library} says, {np.round(logits[row, :3], 4).tolist()}, "
            f"got {np.round(scores[row, :3], 4).tolist()}: a part of this model is not understood"
        )


def library(name: str) -> Any:
    """A library of trees, or `ArgumentError` with what installs it."""
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        raise ArgumentError(
            f"{name}: expected it to be installed (pip install 'zeronorm[trees]'), got none"
        ) from None
