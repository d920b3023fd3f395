"""Adversarial training within an ℓ∞ ball: what it trains on, and that it helps."""

from __future__ import annotations

import jaxtyping
import pytest
import torch
import torch.nn.functional as F

import zeronorm as zn
from zeronorm import ArgumentError, Linf
from zeronorm.training.linf_adversarial import perturbed, train_within_linf


def robust(model, data, epsilon=0.15):
    x_adv = zn.attacks.pgd(model, data.x, data.y, Linf(epsilon), steps=10)
    return float((model(x_adv).argmax(1) == data.y).double().mean())


def trained(epsilon, front_end=None, epochs=12):
    data = zn.data.load("digits", "train", 400)
    model = zn.models.build("two_layer", image_size=8, classes=10, hidden=40, front_end=front_end)
    history = train_within_linf(model, data, Linf(epsilon), steps=3, epochs=epochs, lr=0.1, batch_size=40)
    return model, history


def test_the_worst_place_is_within_the_ball_and_worse():
    model, data, threat = zn.models.load("digits").train(), zn.data.load("digits", "test", 40), Linf(0.05)
    modes = [module.training for module in model.modules()]
    v = perturbed(model, data.x, data.y, threat, steps=8, step_size=0.02, start=data.x + 9.0)
    assert bool(threat.contains(data.x, v).all()) and not v.requires_grad
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
    model.eval()
    further = perturbed(model, data.x, data.y, threat, steps=40, step_size=0.02, start=data.x)
    with torch.no_grad():
        clean, worst, last = (
            F.cross_entropy(model(x), data.y, reduction="none") for x in (data.x, v, further)
        )
    assert float((worst > clean).double().mean()) > 0.9
    # it does not end where the model errs: the loss goes on rising
    assert float(last.mean()) >= float(worst.mean()) - 0.05


def test_it_resists_more_than_a_model_trained_plainly():
    data = zn.data.load("digits", "test", 150)
    plain, history = trained(0.0)
    resists, _ = trained(0.2)
    assert history[-1]["accuracy"] > 0.9 and [row["epoch"] for row in history] == list(range(1, 13))
    assert robust(resists, data) > robust(plain, data) + 0.1
    assert not resists.training


def test_the_same_seed_gives_the_same_model_behind_a_front_end_too():
    front_end = {"wavelet": "haar", "keep_fraction": 0.5, "gradient": "projection"}
    digests = {zn.models.digest(trained(0.05, front_end, epochs=1)[0]) for _ in range(2)}
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threat": zn.L0(3)}, "threat: expected an Linf threat model, got L0"),
        ({"steps": 0}, "steps: expected an integer of at least 1, got 0"),
        ({"epochs": 0}, "epochs: expected an integer of at least 1, got 0"),
        ({"step_size": -0.1}, r"step_size: expected a number in \[0, inf\), got -0.1"),
        ({"threat": Linf(0.1, high=0.5)}, r"x: expected values in \[0, 0.5\]"),
    ],
)
def test_what_is_refused(change, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    given = {"threat": Linf(0.1), "epochs": 1} | change
    with pytest.raises(ArgumentError, match=f"^{message}"):
        train_within_linf(zn.models.load("digits"), zn.data.load("digits", "train", 20), **given)
