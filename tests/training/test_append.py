"""Training by appending: only what breaks the model joins, with its true label, and stays."""

from __future__ import annotations

import pytest
import torch

import zeronorm as zn
from zeronorm import ArgumentError
from zeronorm.training.append import adversarials, train_appending


def some_digits(n=120):
    data = zn.data.load("digits", "train", n)
    torch.manual_seed(0)
    return zn.models.build("mlp", image_size=8, widths=[32], truncation=3), data


def test_only_what_breaks_the_model():
    data, threat = zn.data.load("digits", "test", 60), zn.L0(3)
    model = zn.models.load("digits").train()
    found = adversarials(model, data, threat, queries=60, batch_size=25)
    assert model.training and 0 < len(found) < 60
    model.eval()
    assert bool((model(found.x).argmax(1) != found.y).all())
    rows = [data.ids.tolist().index(i) for i in found.ids.tolist()]
    assert torch.equal(data.y[rows], found.y) and bool(threat.contains(data.x[rows], found.x).all())
    # none of those left out was broken by the same attack
    x_adv = zn.attacks.sparse_rs(model, data.x, data.y, threat, queries=60, ids=data.ids)
    assert int((model(x_adv).argmax(1) != data.y).sum()) == len(found)


def test_they_stay():
    histories, weights = [], []
    for _ in range(2):
        model, data = some_digits()
        threat = zn.L0(4, low=-4.5, high=5.5)
        histories.append(
            train_appending(model, data, threat, rounds=2, epochs=10, batch_size=20, queries=40, limit=50)
        )
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    rows = histories[0]
    assert histories[0] == histories[1] and torch.equal(*weights)
    assert [row["round"] for row in rows] == [0, 1, 2] and rows[0]["appended"] == 0
    assert 0 < rows[1]["appended"] <= 50
    assert rows[2]["examples"] == 120 + rows[1]["appended"] + rows[2]["appended"]
    assert rows[0]["accuracy"] > 0.5 and not model.training


def test_an_attack_it_does_not_know():
    model, data = some_digits(10)
    with pytest.raises(ArgumentError, match="attack: expected one of"):
        adversarials(model, data, zn.L0(1), "none")
