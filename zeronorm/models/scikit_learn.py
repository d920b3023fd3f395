"""Classifiers of scikit-learn as models: trees opened, others as black boxes."""

from __future__ import annotations

from typing import Any

import numpy as np

from zeronorm.errors import ArgumentError
from zeronorm.models.black_box import BlackBox
from zeronorm.models.pipeline import Steps, is_pipeline, opened
from zeronorm.models.tree_ensemble import is_sklearn_trees, sklearn_trees


def from_sklearn(classifier: Any, batch_size: int | None = None, *, schema: Any = None) -> BlackBox:
    """A fitted scikit-learn classifier as a model; inputs of any shape are flattened for it.

    Calls `predict_proba`, or `decision_function` where there is none (of two classes: the one score, halved,
    for class 1 and its negative for class 0).  The classes must be 0 to C - 1, as labels are here, or names, which
    are numbered in their order.  Trees, forests and boosted trees become a `TreeClassifier`, which can be opened.

    `schema`: of a `Pipeline` that was fitted on a data frame, the `zeronorm.data.Schema` of that table: inputs are rows
    of it, and all steps are parts of the model.
    """
    name = type(classifier).__name__
    if schema is not None and not is_pipeline(classifier):
        raise ArgumentError(f"schema: expected none but of a Pipeline, got one of {name}")
    classes = getattr(classifier, "classes_", None)
    if classes is None:
        raise ArgumentError(
            f"classifier: expected a fitted scikit-learn classifier with classes_, got {name}"
        )
    names = (
        isinstance(classes, np.ndarray)
        and classes.dtype.kind in "UO"
        and all(isinstance(c, str) for c in classes)
    )
    if not isinstance(classes, np.ndarray) or not (names or np.array_equal(classes, np.arange(len(classes)))):
        raise ArgumentError(
            f"classifier: expected the classes 0 to C - 1, got {classes!r:.60}; encode the labels before fitting"
        )
    if is_pipeline(classifier) and (trees := opened(classifier, schema, batch_size)) is not None:
        return trees
    if is_sklearn_trees(classifier):
        return sklearn_trees(classifier, batch_size, tuple(classes) if names else None)
    scores = "probabilities" if hasattr(classifier, "predict_proba") else "logits"
    method = getattr(classifier, "predict_proba" if scores == "probabilities" else "decision_function", None)
    if method is None:
        raise ArgumentError(
            f"classifier: expected predict_proba or decision_function, got {name} with neither"
        )
    steps = None if schema is None else Steps(classifier, schema)
    features = getattr(classifier, "n_features_in_", None) if steps is None else steps.features

    def function(x: Any) -> Any:
        flat = x.reshape(len(x), -1)
        if features is not None and flat.shape[1] != features:
            raise ArgumentError(
                f"x: expected {features} features per example for this {name}, got inputs of shape {x.shape}"
            )
        result = np.asarray(method(flat if steps is None else steps.raw(flat)))
        if result.ndim == 1:
            result = np.stack([-result, result], axis=1) / 2
        if result.shape[1] != len(classes):
            raise ArgumentError(
                f"classifier: expected one score for each of {len(classes)} classes, got {result.shape[1]}; "
                "for an SVC choose decision_function_shape='ovr'"
            )
        return result

    box = BlackBox(function, scores, batch_size, name=f"{type(classifier).__module__}.{name}")
    box.classes = len(classes)
    return box
