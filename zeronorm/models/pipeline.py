"""Pipelines of scikit-learn on tables: the adversary writes the raw columns, and every step is a part of the model.

    model = zn.models.from_sklearn(pipeline, schema=data.schema)

What the steps make of a row is asked of the steps themselves.  Where each takes its columns one by one, scalers in
order and encoders by their categories, a split of a tree on what they give is a split of one raw column: its threshold
is searched for among the numbers that the column may hold, to the last bit, and a split on an encoded category is a
set of categories.  So trees behind known steps are opened like trees without any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from zeronorm.errors import ArgumentError, one_line
from zeronorm.models.tree_ensemble import (
    TreeClassifier,
    TreeEnsemble,
    from_lightgbm,
    from_xgboost,
    is_sklearn_trees,
    sklearn_trees,
)

_IN_ORDER = ("StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler", "SimpleImputer")
_ENCODERS = ("OneHotEncoder", "OrdinalEncoder")
_SAME = ("passthrough", "drop")
_HALVINGS = 66  # of the 2^64 numbers of float64


class Steps:
    """The steps of a fitted pipeline before its classifier, as one function of rows.

    Attributes:
        features: numbers in a raw row.
    """

    def __init__(self, pipeline: Any, schema: Any) -> None:
        self.schema = schema
        self.steps = [step for _, step in pipeline.steps[:-1] if step is not None and step != "passthrough"]
        self.names = list(getattr(pipeline, "feature_names_in_", []))
        self.features = int(pipeline.n_features_in_) if schema is None else schema.features
        if schema is not None:
            known = set(schema.feature_names)
            if missing := [str(name) for name in self.names if name not in known]:
                raise ArgumentError(
                    f"schema: expected the columns that the Pipeline was fitted on, got none called {missing[0]!r}"
                )
            if not self.names and int(pipeline.n_features_in_) != schema.features:
                raise ArgumentError(
                    f"schema: expected {pipeline.n_features_in_} features, as the Pipeline was fitted on, got "
                    f"{schema.features}"
                )
        self._as_numbers = self._numeric_categories()

    def raw(self, x: Any) -> Any:
        """Rows `(b, feature)` as the pipeline was fitted on them: a data frame, if that was one."""
        if self.schema is None:
            return np.asarray(x, np.float64)
        import torch

        frame = self.schema.frame(torch.from_numpy(np.array(x, np.float64)))
        for column in self.schema.columns:
            if column.kind == "category" and not column.one_hot:
                values = frame[column.name]
                # a missing text is NaN in a frame, as files are read
                values = values.where(values.notna(), np.nan)
                frame[column.name] = values.astype(float) if column.name in self._as_numbers else values
        return frame[self.names] if self.names else frame.to_numpy(np.float64)

    def __call__(self, x: Any) -> Any:
        """What the steps make of rows, `(b, derived)` in float64."""
        rows = self.raw(x)
        with np.errstate(over="ignore"):  # a scaler may do as it likes with the largest numbers there are
            for step in self.steps:
                rows = step.transform(rows)
        rows = rows.toarray() if hasattr(rows, "toarray") else rows
        return np.asarray(rows, np.float64)

    # -- what is known of them ------------------------------------------------------------------------------

    def encoded(self) -> set[int]:
        """The raw features that an encoder takes; `ArgumentError` names a step that is not known."""
        found: set[int] = set()
        for _, features in self._encoders():
            found |= set(features)
        return found

    def _numeric_categories(self) -> set[str]:
        """The categories whose encoder was fitted on numbers, which the schema holds as texts."""
        if self.schema is None:
            return set()
        names = self.schema.feature_names
        try:
            return {
                names[f]
                for encoder, features in self._encoders()
                for f, known in zip(features, encoder.categories_, strict=True)
                if np.asarray(known).dtype.kind in "iufb"
            }
        except ArgumentError:  # an unknown step, which may be called all the same
            return set()

    def _encoders(self) -> list[tuple[Any, list[int]]]:
        """The encoders, and the raw features that each takes."""
        order = list(range(self.features))
        if self.schema is not None and self.names:
            at = {name: f for f, name in enumerate(self.schema.feature_names)}
            order = [at[name] for name in self.names]
        return _look(self.steps, order)


def _look(steps: Sequence[Any], order: list[int] | None) -> list[tuple[Any, list[int]]]:
    """The encoders among steps one after the other on raw features in this order, None behind a change of columns."""
    found: list[tuple[Any, list[int]]] = []
    for step in steps:
        kind = type(step).__name__
        if isinstance(step, str) and step in _SAME:
            continue
        if type(step).__module__.partition(".")[0] != "sklearn":
            raise ArgumentError(f"model: expected steps of scikit-learn, got {kind}, which is not known")
        if kind == "Pipeline":
            found += _look([inner for _, inner in step.steps if inner is not None], order)
            if _changes_columns(step):
                order = None
        elif kind == "ColumnTransformer":
            if order is None:
                raise ArgumentError(
                    "model: expected a ColumnTransformer before other steps, got one behind an encoder"
                )
            for name, inner, _ in step.transformers_:
                mine = [order[i] for i in np.atleast_1d(step._transformer_to_input_indices[name])]
                found += _look([inner], mine)
            order = None
        elif kind in _ENCODERS:
            if order is None:
                raise ArgumentError(
                    f"model: expected encoders on columns of the table, got {kind} behind a step"
                )
            found.append((step, order))
            order = None
        elif kind == "SimpleImputer":
            if step.add_indicator or len(step.statistics_) != len(step.get_feature_names_out()):
                order = None
        elif kind not in _IN_ORDER and not (kind == "FunctionTransformer" and step.func is None):
            raise ArgumentError(
                f"model: expected the steps {', '.join((*_IN_ORDER, *_ENCODERS))} or ColumnTransformer before trees "
                f"that are opened, got {kind}"
            )
    return found


def _changes_columns(pipeline: Any) -> bool:
    return any(
        type(step).__name__ in (*_ENCODERS, "ColumnTransformer", "Pipeline") for _, step in pipeline.steps
    )


def is_pipeline(classifier: Any) -> bool:
    """Whether it is exactly scikit-learn's; a subclass may do anything."""
    kind = type(classifier)
    return kind.__module__ == "sklearn.pipeline" and kind.__name__ == "Pipeline"


def opened(pipeline: Any, schema: Any, batch_size: int | None) -> TreeClassifier | None:
    """A fitted pipeline whose classifier is of trees as a model of raw rows; None of another."""
    final = pipeline.steps[-1][1]
    inner = _trees(final)
    if inner is None:
        return None
    steps = Steps(pipeline, schema)

    def logits(x: Any) -> Any:
        return inner.function(_asked(steps, x))

    def predict(x: Any) -> Any:
        return inner.function(_asked(steps, x)).argmax(1)

    def read() -> TreeEnsemble:
        return raw_splits(inner.trees, steps)

    assert inner.classes is not None
    names = pipeline.classes_
    texts = tuple(map(str, names)) if names.dtype.kind in "UO" else None
    name = f"sklearn.pipeline.Pipeline of {type(final).__name__}"
    model = TreeClassifier(logits, predict, read, inner.classes, steps.features, batch_size, name, texts)
    model.possible = _possible(schema)
    return model


def _trees(final: Any) -> TreeClassifier | None:
    if is_sklearn_trees(final):
        return sklearn_trees(final, None, None)
    kind, library = type(final).__name__, type(final).__module__.partition(".")[0]
    if library == "xgboost" and kind == "XGBClassifier":
        return from_xgboost(final)
    return from_lightgbm(final) if library == "lightgbm" and kind == "LGBMClassifier" else None


def _asked(steps: Steps, x: Any) -> Any:
    try:
        return steps(x)
    except ArgumentError:
        raise
    except Exception as error:  # whatever a step raises
        raise ArgumentError(
            f"model: a step of the Pipeline cannot take these rows: {one_line(error)}"
        ) from error


def _possible(schema: Any) -> Callable[[Any], Any]:
    """What makes any rows such that a frame can hold them: whole numbers, and categories that there are."""

    def nearest(x: Any) -> Any:
        x = np.array(x, np.float64)
        if schema is None:
            return x
        for column, place in zip(schema.columns, schema.slices, strict=True):
            part = x[:, place]
            if column.is_whole:
                part = np.round(part)
            low, high = column.bounds
            part = np.clip(part, low, high)
            if not column.missing:
                part = np.where(np.isnan(part), low, part)
            x[:, place] = part
        return x

    return nearest


# -- splits of raw columns -----------------------------------------------------------------------------------


def raw_splits(trees: TreeEnsemble, steps: Steps) -> TreeEnsemble:
    """Trees on what the steps give, as trees on raw rows.

    **Raises:** `ArgumentError` for a step that is not known, or a column that is encoded and is no category.
    """
    if trees.sets:
        raise ArgumentError(
            "model: expected numeric splits behind the steps of a Pipeline, got splits of categories"
        )
    encoded, p = steps.encoded(), steps.features
    low, high, categories, missing = _ranges(steps)
    for f in encoded:
        if categories[f] == 0 and high[f] - low[f] != 1:
            name = steps.schema.feature_names[f] if steps.schema is not None else f"feature {f}"
            raise ArgumentError(
                f"schema: expected kind 'category' of {name!r}, which an encoder of the Pipeline takes, got another"
            )
    start = np.where(categories > 0, 0.0, low)
    inner = np.flatnonzero(trees.feature >= 0)
    takes_missing, absent = _missing(trees, steps, start, missing)
    few = [f for f in range(p) if categories[f] or f in encoded]
    source, tables = _sources(trees, steps, start, low, high, few, categories, absent)

    feature, threshold = trees.feature.copy(), trees.threshold.copy()
    left, right, nan_left = trees.left.copy(), trees.right.copy(), trees.nan_left.copy()
    sets: dict[int, tuple[int, ...]] = {}
    # numbers in order: where the last that goes left is
    ordered = np.array(
        [n for n in inner if source[trees.feature[n]] >= 0 and source[trees.feature[n]] not in few]
    )
    cuts = _cuts(trees, steps, ordered, source, start, low, high) if len(ordered) else np.zeros(0)
    derived_start = trees.casts(steps(start[None]))[0]
    plain = next((f for f in range(p) if f not in few), None)
    feature[ordered], threshold[ordered] = source[trees.feature[ordered]], cuts
    for node in inner:
        d, at = int(trees.feature[node]), trees.threshold[node]
        f = int(source[d])
        if f >= 0:
            gone = absent.get(f)
            nan_left[node] = (
                True if gone is None else trees.nan_left[node] if np.isnan(gone[d]) else gone[d] <= at
            )
        if f >= 0 and f not in few:
            continue
        # what the values of few go by; of a constant, all go one way
        goes = derived_start[d : d + 1] <= at if f < 0 else tables[f][:, d] <= at
        if f < 0:
            f = 0 if plain is None else plain
            nan_left[node] = bool(goes[0])
            goes = np.full(max(2, int(categories[f])), bool(goes[0]))
        feature[node] = f
        if categories[f]:
            sets[int(node)] = tuple(np.flatnonzero(goes).tolist())
        elif bool(goes.all()) or not bool(goes.any()):
            threshold[node] = np.inf if bool(goes[0]) else -np.inf
        else:  # of two values one each way
            threshold[node] = low[f]
            if not goes[0]:
                left[node], right[node] = right[node], left[node]
                nan_left[node] = not nan_left[node]
    return replace(
        trees, library=f"{trees.library} behind a Pipeline", features=p, feature=feature, threshold=threshold,
        left=left, right=right, nan_left=nan_left, sets=sets, takes_missing=takes_missing, cast="float64",
    )  # fmt: skip


def _ranges(steps: Steps) -> tuple[Any, Any, Any, Any]:
    """By raw feature: the least and most it may be, its number of categories or 0, and whether it may be missing."""
    p = steps.features
    if steps.schema is None:
        wide = np.finfo(np.float64).max
        return np.full(p, -wide), np.full(p, wide), np.zeros(p, np.int64), np.ones(p, bool)
    parts = []
    for column in steps.schema.columns:
        codes = len(column.categories) if column.kind == "category" and not column.one_hot else 0
        parts += [(*column.bounds, codes, column.missing)] * column.width
    low, high, categories, missing = (np.array(part) for part in zip(*parts, strict=True))
    return low.astype(np.float64), high.astype(np.float64), categories.astype(np.int64), missing.astype(bool)


def _missing(trees: TreeEnsemble, steps: Steps, start: Any, missing: Any) -> tuple[Any, dict[int, Any]]:
    """Which raw features may be missing, as far as steps and trees take it, and what the steps make of that."""
    takes, absent = np.zeros(steps.features, bool), {}
    for f in np.flatnonzero(missing):
        row = start.copy()
        row[f] = np.nan
        try:
            derived = trees.casts(steps(row[None]))[0]
        except Exception:  # a step that refuses it
            continue
        if trees.takes_missing[np.isnan(derived)].all():
            takes[f], absent[int(f)] = True, derived
    return takes, absent


def _sources(
    trees: TreeEnsemble,
    steps: Steps,
    start: Any,
    low: Any,
    high: Any,
    few: list[int],
    categories: Any,
    absent: dict[int, Any],
) -> tuple[Any, dict[int, Any]]:
    """The raw feature that each derived one comes from, -1 for a constant; and what the values of few become."""
    tables: dict[int, Any] = {}
    source = np.full(trees.features, -1, np.int64)
    base = trees.casts(steps(start[None]))[0]
    for f in range(steps.features):
        if f in few:
            values = np.arange(categories[f]) if categories[f] else np.array([low[f], high[f]])
        else:
            values = np.array([low[f], low[f] / 2 + high[f] / 2, high[f]])
        rows = np.repeat(start[None], len(values), 0)
        rows[:, f] = values
        derived = trees.casts(steps(rows))
        if f in few:
            tables[f] = derived
        moved = ~((derived == base) | (np.isnan(derived) & np.isnan(base))).all(0)
        if (gone := absent.get(f)) is not None:
            moved |= ~((gone == base) | (np.isnan(gone) & np.isnan(base)))
        if (source[moved] >= 0).any():
            raise ArgumentError("model: expected steps that take columns one by one, got one that mixes them")
        source[moved] = f
    return source, tables


def _cuts(trees: TreeEnsemble, steps: Steps, nodes: Any, source: Any, start: Any, low: Any, high: Any) -> Any:
    """For each split the largest number of its raw column that goes left, -inf where none does.

    Steps that keep the order are asked: halvings of the numbers of float64 between the ends of the range.
    """
    at, threshold = source[trees.feature[nodes]], trees.threshold[nodes]
    below, above = _counted(low[at]) - 1, _counted(high[at])  # the answer is in (below, above], or below
    # splits of one raw column are rows one below the other; of others they share rows
    order = np.argsort(at, kind="stable")
    line = np.empty(len(at), np.int64)
    line[order] = np.arange(len(at)) - np.searchsorted(at[order], at[order])
    rows = np.repeat(start[None], int(line.max()) + 1, 0)
    for _ in range(_HALVINGS):
        if (below >= above).all():
            break
        middle = (below | above) - ((below ^ above) >> 1)  # rounded up, without overflow
        rows[line, at] = _number(np.maximum(middle, _counted(low[at])))
        goes = trees.casts(steps(rows))[line, trees.feature[nodes]] <= threshold
        goes |= middle < _counted(low[at])
        below, above = np.where(goes, middle, below), np.where(goes, above, middle - 1)
    found = _number(np.maximum(below, _counted(low[at])))
    return np.where(below < _counted(low[at]), -np.inf, np.where(below == _counted(high[at]), np.inf, found))


def _counted(values: Any) -> Any:
    """Numbers of float64 as integers in the same order."""
    bits = np.asarray(values, np.float64).view(np.int64)
    return np.where(bits < 0, np.int64(-(2**63)) - bits, bits)


def _number(places: Any) -> Any:
    bits = np.asarray(places, np.int64)
    return np.where(bits < 0, np.int64(-(2**63)) - bits, bits).view(np.float64)
