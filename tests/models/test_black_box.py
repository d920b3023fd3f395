"""Plain functions and scikit-learn classifiers as models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from zeronorm import models
from zeronorm.errors import ArgumentError

PIXELS, LABELS = load_digits(return_X_y=True)
PIXELS = (PIXELS / 16)[:400]
LABELS = LABELS[:400]
X = torch.from_numpy(PIXELS).reshape(-1, 1, 8, 8)


def sums(x):
    flat = x.reshape(len(x), -1)
    return np.stack([flat.sum(1), -flat.sum(1)], axis=1)


class TestFunction:
    def test_logits_pass_through_in_the_shape_and_dtype_of_the_inputs(self):
        shapes = []

        def function(x):
            shapes.append((x.shape, x.dtype))
            return sums(x)

        box = models.BlackBox(function, batch_size=3)
        for dtype in (torch.float32, torch.float64):
            z = box(X[:7].to(dtype).requires_grad_())
            assert z.dtype == dtype and z.shape == (7, 2) and not z.requires_grad
            assert torch.allclose(z[:, 0], X[:7].flatten(1).sum(1).to(dtype))
        assert shapes[:3] == [((3, 1, 8, 8), np.float32)] * 2 + [((1, 1, 8, 8), np.float32)]
        assert not box.differentiable
        assert box(X[:0]).shape == (0, 2)
        assert models.describe(box) == {
            "architecture": f"{__name__}.TestFunction.{function.__qualname__.split('.', 1)[1]}"
        }

    def test_the_function_cannot_write_into_the_inputs(self):
        def function(x):
            x[:] = 0
            return sums(x)

        x = X[:3].clone()
        models.BlackBox(function)(x)
        assert torch.equal(x, X[:3])

    def test_probabilities_become_finite_logarithms(self):
        p = np.array([[1.0, 0.0], [0.25, 0.75]])
        z = models.BlackBox(lambda x: p, scores="probabilities")(X[:2])
        assert torch.isfinite(z).all() and torch.allclose(
            z[1].exp(), torch.tensor([0.25, 0.75], dtype=z.dtype)
        )
        assert z[0, 0] == 0 and z[0, 1] == np.log(np.finfo(np.float64).tiny)
        single = models.BlackBox(lambda x: p.astype(np.float32), scores="probabilities")(X[:2].float())
        assert single[0, 1] == pytest.approx(np.log(np.finfo(np.float32).tiny))

    @pytest.mark.parametrize(
        ("scores", "output", "match"),
        [
            (
                "logits",
                np.zeros(2),
                r"expected scores of shape \(2, classes\) with at least 2 classes, got float64 of",
            ),
            ("logits", np.zeros((2, 1)), r"got float64 of shape \(2, 1\)"),
            ("logits", np.zeros((3, 2)), r"got float64 of shape \(3, 2\)"),
            ("logits", np.array([["a", "b"]] * 2), "expected scores of shape"),
            ("logits", None, "expected scores of shape"),
            ("logits", np.array([[0, np.nan], [0, 1]]), "got NaN or infinity for 1 of 2 examples"),
            ("logits", np.array([[0, -np.inf], [0, 1]]), "got NaN or infinity for 1 of 2 examples"),
            (
                "probabilities",
                np.array([[0.5, 0.5], [2.0, 3.0]]),
                r"summing to 1\), got a row \[2, 3\] that sums to 5; say scores='logits'",
            ),
            ("probabilities", np.array([[0.5, 0.5], [-1.0, 2.0]]), "expected probabilities"),
            (
                "probabilities",
                np.full((2, 40), 1 / 3),
                r"got a row \[0\.333, 0\.333, 0\.333, 0\.333, \.\.\.\] that sums to 13\.33; say scores='logits'",
            ),
        ],
    )
    def test_bad_scores_get_one_line(self, scores, output, match):
        with pytest.raises(ArgumentError, match=match) as caught:
            models.BlackBox(lambda x: output, scores=scores)(X[:2])
        assert "\n" not in str(caught.value)

    def test_bad_arguments(self):
        with pytest.raises(
            ArgumentError, match="scores: expected one of logits, probabilities, sigmoid, tanh, got 'labels'"
        ):
            models.BlackBox(sums, scores="labels")
        with pytest.raises(ArgumentError, match="batch_size: expected an integer of at least 1, got 0"):
            models.BlackBox(sums, batch_size=0)


class TestSklearn:
    @pytest.mark.parametrize(
        "classifier",
        [
            RandomForestClassifier(20, random_state=0),
            LogisticRegression(max_iter=500),
            KNeighborsClassifier(3),
            RidgeClassifier(),
            SVC(decision_function_shape="ovr", break_ties=True),
        ],
        ids=lambda c: type(c).__name__,
    )
    @pytest.mark.parametrize("classes", [10, 2])
    def test_predicts_as_the_classifier_does(self, classifier, classes):
        some = np.isin(LABELS, range(classes))
        classifier.fit(PIXELS[some], LABELS[some])
        box = models.from_sklearn(classifier, batch_size=50)
        z = box(X[some])
        assert z.shape == (some.sum(), classes)
        assert np.array_equal(z.argmax(1).numpy(), classifier.predict(PIXELS[some]))
        assert box(X[:0]).shape == (0, classes)
        assert models.describe(box)["architecture"].endswith(type(classifier).__name__)

    def test_what_cannot_be_used(self):
        fitted = LogisticRegression(max_iter=500).fit(PIXELS, LABELS)
        with pytest.raises(
            ArgumentError, match=r"x: expected 64 features per example .*, got inputs of shape \(2, 65\)"
        ):
            models.from_sklearn(fitted)(torch.rand(2, 65))
        with pytest.raises(ArgumentError, match="classifier: expected a fitted scikit-learn classifier"):
            models.from_sklearn(LogisticRegression())
        with pytest.raises(ArgumentError, match="classifier: expected the classes 0 to C - 1, got array"):
            models.from_sklearn(LogisticRegression(max_iter=500).fit(PIXELS, LABELS + 1))
        ovo = SVC(decision_function_shape="ovo").fit(PIXELS, LABELS)
        with pytest.raises(ArgumentError, match="expected one score for each of 10 classes, got 45"):
            models.from_sklearn(ovo)(X[:2])
