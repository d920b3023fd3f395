"""People who have a function or a scikit-learn classifier, images or a table, and no gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small_runs import codes

import zeronorm as zn
from zeronorm import models
from zeronorm.theory import minimal_changes


@pytest.fixture(scope="module")
def tumours():
    """Breast cancer: 30 features, each with a range of its own."""
    features, labels = load_breast_cancer(return_X_y=True)
    return features, labels, features.min(0), features.max(0)


def test_a_table_of_features_each_with_its_own_range(tumours, tmp_path):
    features, labels, low, high = tumours
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(features[100:], labels[100:])
    x, y = torch.tensor(features[:60]), torch.tensor(labels[:60])
    threat = [zn.L0(k, unit="feature", low=torch.tensor(low), high=torch.tensor(high)) for k in (1, 3)]
    model = models.from_sklearn(fitted)
    evaluation = zn.evaluate(model, (x, y), threat, queries=300, out=tmp_path / "run")
    assert evaluation.clean_accuracy == pytest.approx(fitted.score(features[:60], labels[:60]))
    assert 0 < evaluation.robust_accuracy[3] < evaluation.robust_accuracy[1] < evaluation.clean_accuracy
    assert evaluation.summary.unit == "feature"
    assert zn.verify(tmp_path / "run", model, (x, y))
    assert "no-gradients" not in codes(evaluation), "nobody expected any"

    # a linear classifier: what can be done is known
    scaler, linear = fitted[0], fitted[1]
    weight = torch.tensor(linear.coef_ / scaler.scale_)
    bias = torch.tensor(linear.intercept_ - (linear.coef_ * scaler.mean_ / scaler.scale_).sum(1))
    weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    optimum, _ = minimal_changes(weight, bias, x, y, threat[0].with_k(None))
    right = torch.tensor(fitted.predict(features[:60])) == y
    for k in (1, 3):
        possible = float((right & (optimum > k)).double().mean())
        assert possible <= evaluation.robust_accuracy[k] <= possible + 0.1


def test_a_forest_knows_only_scores(tumours):
    features, labels, low, high = tumours
    forest = RandomForestClassifier(12, random_state=0).fit(features[100:], labels[100:])
    x, y = torch.tensor(features[:30]), torch.tensor(labels[:30])
    threat = zn.L0(4, unit="feature", low=torch.tensor(low), high=torch.tensor(high))
    evaluation = zn.evaluate(models.from_sklearn(forest), (x, y), threat, queries=100)
    assert evaluation.robust_accuracy < evaluation.clean_accuracy
    assert zn.verify(evaluation.run, models.from_sklearn(forest), (x, y))
    with pytest.raises(
        zn.ArgumentError, match=r"sparse_pgd needs gradients, .*; expected one of .*sparse_rs"
    ):
        zn.evaluate(models.from_sklearn(forest), (x, y), threat, "sparse_pgd")


def test_a_classifier_of_images():
    images, labels = load_digits(return_X_y=True)
    fitted = LogisticRegression(max_iter=200).fit(images[:1000] / 16, labels[:1000])
    data = zn.data.load("digits", "test", 30)
    evaluation = zn.evaluate(models.from_sklearn(fitted), data, [zn.L0(1), zn.L0(4)], queries=150)
    assert evaluation.robust_accuracy[4] < evaluation.robust_accuracy[1] < evaluation.clean_accuracy
    assert zn.verify(evaluation.run, models.from_sklearn(fitted), data)


def test_a_plain_function():
    """numpy in, scores out: the side with more ink wins."""
    asked = []

    def more_ink(images):
        asked.append(len(images))
        assert type(images) is np.ndarray and images.shape[1:] == (1, 4, 4)
        halves = images.reshape(-1, 4, 2, 2).sum((1, 3))
        return halves

    x = torch.rand(16, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    y = torch.tensor(more_ink(x.numpy()).argmax(1))
    asked.clear()
    box = models.BlackBox(more_ink, batch_size=8)
    evaluation = zn.evaluate(box, (x, y), [zn.L0(1), zn.L0(8)], queries=60)
    assert max(asked) == 8
    rows = evaluation.records.to_pylist()
    # as many as the search counted, one for each verdict and clean prediction, and a look before the start
    spent = sum(row["forwards"] + 1 for row in rows if row["stage"] >= 0) + len(x)
    assert spent < sum(asked) <= spent + 60
    assert {row["backwards"] for row in rows} == {0}
    assert evaluation.robust_accuracy[8] == 0 < evaluation.robust_accuracy[1] < 1
    assert evaluation.summary.run["plan"]["model"]["architecture"].endswith("more_ink")
    curve = zn.evaluate(box, (x, y), zn.L0(8), queries=60, curve=True)
    assert curve.robust_accuracy[1] <= evaluation.robust_accuracy[1] + 0.2


def test_steps_are_for_stages_that_are_left_out():
    """The same command serves a network and a black box."""
    box = models.BlackBox(lambda a: a.reshape(len(a), -1)[:, :3])
    x = torch.rand(5, 1, 4, 4)
    y = x.flatten(1)[:, :3].argmax(1)
    assert zn.evaluate(box, (x, y), zn.L0(1), steps=10, queries=20).robust_accuracy < 1
    with pytest.raises(zn.ArgumentError, match="steps: the attack asked for takes no steps"):
        zn.evaluate(box, (x, y), zn.L0(1), "sparse_rs", steps=10)


def test_a_function_that_errs_says_so():
    x, y = torch.rand(5, 1, 4, 4), torch.zeros(5, dtype=torch.int64)
    for function, message in (
        (lambda a: a.sum(), "function: expected scores of shape"),
        (lambda a: np.full((len(a), 3), np.nan), "function: expected finite scores"),
        (lambda a: np.full((len(a), 2), 0.5), "model: expected logits, got probabilities"),
        (lambda a: a.no_such_method(), "model: .* but it failed on them: .*no_such_method"),
    ):
        with pytest.raises(zn.ArgumentError, match=message):
            zn.evaluate(models.BlackBox(function), (x, y), zn.L0(1), queries=5)
