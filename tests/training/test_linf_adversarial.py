"""Adversarial training within an ℓ∞ ball: what it trains on, and that it helps."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

import zeronorm as zn
from zeronorm import ArgumentError, Linf
from zeronorm.cli.main import run
from zeronorm.training import train
from zeronorm.training.adversary import Adversary
from zeronorm.training.linf_adversarial import perturbed
from zeronorm.training.method import Setting, TrainingBatch
from zeronorm.training.methods import METHODS

FRONT_END = {"wavelet": "haar", "keep_fraction": 0.5, "gradient": "projection"}


def robust(model, data, epsilon=0.15):
    x_adv = zn.attacks.pgd(model, data.x, data.y, Linf(epsilon), steps=10)
    return float((model(x_adv).argmax(1) == data.y).double().mean())


@pytest.fixture
def two_layer(plan):
    """Makes a plan with a small network of two layers."""

    def make(**changes):
        network = {"model": "two_layer", "model_arguments": {"hidden": 40}, "lr": 0.1, "batch_size": 40}
        return plan(**(network | {"limit": 400, "validation": 0.0} | changes))

    return make


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


def test_the_loss_is_that_of_the_worst_place_and_blind_to_the_batch(plan):
    model, data = zn.models.load("digits").double(), zn.data.load("digits", "test", 9)
    asked = plan(method="linf_adversarial", epsilon=0.1, steps=5)
    setting = Setting(asked, Adversary(asked, model), data.y, 10, {})
    objective = METHODS["linf_adversarial"].batch_loss(setting)
    given = TrainingBatch(data.x.double(), data.y, data.ids, torch.arange(9), 1, 0)
    loss, logits = objective(model, given)
    assert torch.equal(loss, F.cross_entropy(logits, data.y))
    with torch.no_grad():
        assert float(loss) > float(F.cross_entropy(model(given.x), data.y))
    some = torch.tensor([7, 2])
    _, alone = objective(model, TrainingBatch(given.x[some], data.y[some], data.ids[some], some, 1, 3))
    assert torch.allclose(alone, logits[some], atol=1e-12)
    _, later = objective(model, TrainingBatch(given.x[some], data.y[some], data.ids[some], some, 2, 0))
    assert not torch.allclose(later, logits[some])


def test_it_resists_more_than_a_model_trained_plainly(two_layer, tmp_path):
    data = zn.data.load("digits", "test", 150)
    plain = train(two_layer(out=tmp_path / "plain", epochs=12)).model
    resists = train(two_layer(method="linf_adversarial", epsilon=0.2, steps=3, epochs=12)).model
    assert robust(resists, data) > robust(plain, data) + 0.1
    assert not resists.training


def test_the_same_seed_gives_the_same_model_behind_a_front_end_too(two_layer, tmp_path):
    digests = set()
    for name in ("first", "second"):
        asked = two_layer(
            out=tmp_path / name, model_arguments={"hidden": 10, "front_end": FRONT_END}, epochs=1, limit=80,
            method="linf_adversarial", epsilon=0.05, steps=2,
        )  # fmt: skip
        result = train(asked)
        assert result.model.arguments["front_end"]["wavelet"] == "haar"
        digests.add(zn.models.digest(result.model))
    assert len(digests) == 1


def test_the_best_epoch_withstands_most(two_layer):
    asked = two_layer(method="linf_adversarial", epsilon=0.1, steps=2, epochs=4, limit=120, validation=0.3)
    result = train(asked)
    shares = [row["robust_accuracy"] for row in result.history]
    assert result.robust_accuracy == max(shares) == shares[result.best_epoch - 1]
    model, some = result.model, zn.data.load("digits", "train", 20)
    x_adv = zn.attacks.pgd(model, some.x, some.y, Linf(0.1), steps=3, ids=some.ids)
    assert Adversary(asked, model).withstood(some.x, some.y, some.ids) == int(
        (model(x_adv).argmax(1) == some.y).sum()
    )


def test_what_the_plan_says(plan):
    asked = plan(method="linf_adversarial", epsilon=0.1)
    assert asked.attack_steps() == 40 and asked.identity()["epsilon"] == 0.1
    assert "--epsilon 0.1" in asked.command() and "k" not in asked.identity()
    assert not {"epsilon", "step_size", "validation_steps"} & set(plan().identity())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": None}, "epsilon: expected a value, which linf_adversarial needs, got None"),
        ({"k": 3}, "k: the method linf_adversarial takes no k"),
        ({"gradient": "projected"}, "gradient: the method linf_adversarial takes no gradient"),
        ({"method": "standard"}, "epsilon: the method standard takes no epsilon"),
    ],
)
def test_what_is_refused(plan, change, message):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        plan(**({"method": "linf_adversarial", "epsilon": 0.1} | change))


def test_on_the_command_line(tmp_path, capsys):
    words = ["train", "--method", "linf-adversarial", "--limit", "60", "--epochs", "1", "--set", "width=0.1"]
    out = ["--out", str(tmp_path / "model")]
    assert run([*words, *out]) == 2
    assert "epsilon: expected a value, which linf_adversarial needs" in capsys.readouterr().err
    short = ["--epsilon", "0.1", "--steps", "2", "--validation-limit", "5", "--validation-steps", "2"]
    assert run([*words, *short, *out, "--json"]) == 0
    said = capsys.readouterr().out
    assert "--data digits --epsilon 0.1" in said
    assert json.loads(said.splitlines()[-1])["robust_accuracy"] is not None
    assert "were attacked within ε = 0.1, <b>" in (tmp_path / "model/report.html").read_text()
