"""Training on windows proves more than training on clean logits."""

from __future__ import annotations

import pytest
import torch

import zeronorm as zn
from zeronorm.certification import certify_truncated, worst_case_logits
from zeronorm.errors import ArgumentError
from zeronorm.training import TrainingPlan, train
from zeronorm.training.method import TrainingBatch
from zeronorm.training.truncation_window import window_loss


def proven(objective, data, test):
    model = zn.models.build("mlp", image_size=8, widths=[32], truncation=5)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for epoch in range(1, 13):
        for rows in torch.arange(len(data)).split(100):
            loss, logits = objective(
                model, TrainingBatch(data.x[rows], data.y[rows], data.ids[rows], rows, epoch, 0)
            )
            assert logits.shape == (len(rows), 10)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return float(certify_truncated(model.eval(), test.x).holds(test.y, 1).double().mean())


def test_it_proves_more():
    data, test = zn.data.load("digits", "train", 600), zn.data.load("digits", "test", 100)
    assert proven(window_loss(2, 6), data, test) > proven(window_loss(0, 0), data, test) + 0.1


def test_the_budget_rises():
    model = zn.models.build("mlp", image_size=8, widths=[9], truncation=4)
    x, y = torch.rand(5, 1, 8, 8), torch.arange(5)
    objective = window_loss(4, 8)
    for epoch, budget in {1: 0, 2: 0, 3: 1, 5: 2, 8: 3, 9: 4, 20: 4}.items():
        expected = torch.nn.functional.cross_entropy(worst_case_logits(model, x, y, budget), y)
        assert torch.equal(objective(model, TrainingBatch(x, y, y, y, epoch, 0))[0], expected)


def test_by_the_training_loop(tmp_path):
    """The last epoch is kept: the first ones, on smaller budgets, answer more clean images rightly."""
    words = {
        "data": "digits",
        "model": "mlp",
        "model_arguments": {"widths": [40], "truncation": 8},
        "epochs": 12,
    }
    found = {}
    for method, own in (("truncation_window", {"budget": 2, "lr": 0.1}), ("standard", {})):
        result = train(TrainingPlan(out=tmp_path / method, method=method, **words, **own))
        test = zn.data.load("digits", "test")
        found[method] = float(certify_truncated(result.model, test.x).holds(test.y, 2).double().mean())
        if method == "truncation_window":
            assert result.best_epoch == 12
    assert found["truncation_window"] > 0.35 > 0.25 > found["standard"]
    assert zn.models.load(tmp_path / "truncation_window").facts["training"]["plan"]["budget"] == 2


def test_refusals(tmp_path):
    words = {"out": tmp_path / "m", "data": "digits", "method": "truncation_window", "limit": 60}
    with pytest.raises(ArgumentError, match="model: expected a truncated first layer"):
        train(TrainingPlan(**words))
    wide = {"model": "mlp", "model_arguments": {"widths": [9], "truncation": 3}, "epochs": 2}
    with pytest.raises(ArgumentError, match="budget: expected at most k = 3 changes"):
        train(TrainingPlan(**words, **wide, budget=4))
    with pytest.raises(ArgumentError, match="budget: expected an integer of at least 0, got -1"):
        TrainingPlan(**words, budget=-1)
    with pytest.raises(ArgumentError, match="budget: the method standard takes no budget"):
        TrainingPlan(out=tmp_path, budget=4)
