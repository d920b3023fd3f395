"""sAT, sTRADES and Fast-LS-ℓ0: their losses, the attack they train on, and the trace it does not leave."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from zeronorm import data, models
from zeronorm.attacks.catalogue import catalogue
from zeronorm.attacks.sparse_autoattack import sparse_autoattack
from zeronorm.distances import l0_pixels
from zeronorm.errors import ArgumentError
from zeronorm.threat_model import L0
from zeronorm.training import train
from zeronorm.training.adversary import Adversary
from zeronorm.training.fast_ls import sparse_noise
from zeronorm.training.method import Setting, TrainingBatch
from zeronorm.training.methods import METHODS

ROBUST = ("sat", "strades", "fast_ls")
DIGITS = data.load("digits", "train", 12)
X, Y, IDS = DIGITS.x.double(), DIGITS.y, DIGITS.ids


@pytest.fixture
def model():
    """A network with batch normalisation, in training mode."""
    built = models.build("resnet20", in_channels=1, image_size=8, classes=10).double().train()
    with torch.no_grad():  # statistics of its own
        built(X)
    return built


def batch_of(epoch=1, step=0, rows=None):
    rows = torch.arange(len(X)) if rows is None else rows
    return TrainingBatch(X[rows], Y[rows], IDS[rows], rows, epoch, step)


def setting_of(plan, adversary, memory=None):
    return Setting(plan, adversary, Y, 10, {} if memory is None else memory)


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


class _Given(nn.Module):
    """Logits by the first pixel: the clean example's or the adversarial's."""

    clean = torch.tensor([[2.0, 0.0, -1.0]])
    moved = torch.tensor([[0.5, 1.0, -1.0]])

    def forward(self, x):
        return self.moved if x[0, 0, 0, 0] else self.clean


class _Shifts(Adversary):
    """Adds the same to every value."""

    def __init__(self, by):
        self.by = by

    def __call__(self, x, *rest):
        return x + self.by


@pytest.mark.parametrize(
    ("method", "beta", "loss"),
    [("sat", 3.0, 1.0549569), ("strades", 3.0, 1.7796695), ("strades", 0.0, 0.1698460)],
)
def test_the_losses_by_hand(plan, method, beta, loss):
    x, y = torch.zeros(1, 1, 1, 1), torch.tensor([0])
    setting = Setting(plan(method=method, k=1, beta=beta), _Shifts(1), y, 3, {})
    found, logits = METHODS[method].batch_loss(setting)(_Given(), TrainingBatch(x, y, y, y, 1, 0))
    assert float(found) == pytest.approx(loss, abs=1e-6)
    assert torch.equal(logits, _Given.moved)


def test_the_trade_off_is_differentiated_in_both_arguments(plan):
    linear = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
    x, y = torch.full((1, 1, 1, 1), 0.3), torch.tensor([0])
    setting = Setting(plan(method="strades", k=1, beta=2.0), _Shifts(0.6), y, 2, {})

    def loss(w):
        a, b = (0.3 * w).log_softmax(0), (0.9 * w).log_softmax(0)
        return -a[0] + 2.0 * (a.exp() * (a - b)).sum()

    METHODS["strades"].batch_loss(setting)(linear, TrainingBatch(x, y, y, y, 1, 0))[0].backward()
    weight = linear[1].weight
    assert torch.allclose(weight.grad.flatten(), torch.func.grad(loss)(weight.detach().flatten()), atol=1e-6)


class TestAdversary:
    def test_leaves_no_trace(self, plan, model):
        model.normalize.eval()  # modes that differ come back as they were
        before, modes = state_of(model), [module.training for module in model.modules()]
        state = torch.get_rng_state()
        Adversary(plan(method="sat", k=2), model)(X, Y, IDS, 1, 0)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())
        assert [module.training for module in model.modules()] == modes
        assert torch.equal(torch.get_rng_state(), state)

    def test_within_the_budget_of_training(self, plan, model):
        changed = l0_pixels(X, Adversary(plan(method="sat", k=2, multi_k=4.0), model)(X, Y, IDS, 1, 0))
        assert int(changed.max()) == 8  # not 2

    def test_named_by_seed_epoch_and_example_only(self, plan, model):
        adversary = Adversary(plan(method="sat", k=3), model)
        whole = adversary(X, Y, IDS, 1, 0)
        rows = torch.tensor([7, 3, 10])
        alone = adversary(X[rows], Y[rows], IDS[rows], 1, 0)
        assert torch.equal(alone, whole[rows])
        assert not torch.equal(adversary(X, Y, IDS, 2, 0), whole)
        other = Adversary(plan(method="sat", k=3, seed=1, gradient="projected"), model)
        same = Adversary(plan(method="sat", k=3, seed=0, gradient="projected"), model)
        assert not torch.equal(other(X, Y, IDS, 1, 0), same(X, Y, IDS, 1, 0))

    def calls(self, plan, monkeypatch, n_epochs, n_steps, **changes):
        """What attacks are asked in so many epochs of so many steps."""
        asked = []

        def watched(attack):
            @functools.wraps(attack.function)
            def function(model, x, y, threat, **options):
                asked.append({"attack": attack.name, "k": threat.k} | options)
                return x

            return replace(attack, function=function)

        for name in ("sparse_pgd", "sparse_rs", "guided_exchange"):
            monkeypatch.setitem(catalogue, name, watched(catalogue[name]))
        adversary = Adversary(plan(method="strades", k=2, **changes), nn.Identity())
        for epoch, step in itertools.product(range(1, n_epochs + 1), range(n_steps)):
            adversary(X, Y, IDS, epoch, step)
        return asked

    def test_asks_as_the_paper_does(self, plan, monkeypatch):
        asked = self.calls(plan, monkeypatch, 3, 40)
        assert {(call["attack"], call["k"], call["steps"], call["tolerance"]) for call in asked} == {
            ("sparse_pgd", 12, 20, 10)
        }
        assert len({call["seed"] for call in asked}) == 3  # one an epoch
        projected = [call["gradient"] == "projected" for call in asked]
        assert 40 < sum(projected) < 80
        assert projected[:40] != projected[40:80]

    def test_gradient_policies(self, plan, monkeypatch):
        for gradient in ("projected", "unprojected"):
            asked = self.calls(plan, monkeypatch, 1, 9, gradient=gradient)
            assert {call["gradient"] for call in asked} == {gradient}
        asked = self.calls(plan, monkeypatch, 12, 1, gradient="alternate")
        assert [call["gradient"] for call in asked] == 5 * ["projected"] + 5 * ["unprojected"] + 2 * [
            "projected"
        ]

    def test_several_attacks_with_their_options(self, plan, monkeypatch):
        attack = {"sparse_rs": {"loss": "margin"}, "guided_exchange": {"steps": 7}}
        asked = self.calls(plan, monkeypatch, 2, 50, attack=attack, steps=30)
        assert {(call["attack"], call.get("queries"), call.get("steps")) for call in asked} == {
            ("sparse_rs", 30, None),
            ("guided_exchange", None, 7),
        }
        assert 30 < sum(call["attack"] == "sparse_rs" for call in asked) < 70

    def test_what_is_withstood_is_the_worst_case(self, plan):
        model, some = models.load("digits"), data.load("digits", "test", 60)
        asked = plan(method="sat", k=1, validation_steps=5, validation_queries=60)
        count = Adversary(asked, model).withstood(some.x, some.y, some.ids)
        attacked = sparse_autoattack(model, some.x, some.y, L0(1), steps=5, queries=60, ids=some.ids)
        assert count == int((model(attacked).argmax(1) == some.y).sum())
        assert 0 < count < 60

    def test_hidden_gradients_do_not_help(self, plan):
        some = data.load("digits", "test", 60)

        class Hidden(nn.Module):
            """Answers as the digits model, with gradients that say nothing."""

            def __init__(self):
                super().__init__()
                self.model = models.load("digits")

            def forward(self, x):
                return self.model(x).detach() + 0.0 * x.sum()

        asked = plan(method="sat", k=3, validation_steps=3, validation_queries=200)
        assert Adversary(asked, Hidden()).withstood(some.x, some.y, some.ids) < 20


@pytest.mark.parametrize(("method", "forwards"), [("sat", ["adv"]), ("strades", ["clean", "adv"])])
def test_what_batch_normalisation_sees(plan, model, method, forwards):
    asked = plan(method=method, k=2)
    twin = models.build("resnet20", in_channels=1, image_size=8, classes=10).double().train()
    twin.load_state_dict(model.state_dict())
    x_adv = Adversary(asked, twin)(X, Y, IDS, 1, 0)
    for which in forwards:
        twin(X if which == "clean" else x_adv)

    METHODS[method].batch_loss(setting_of(asked, Adversary(asked, model)))(model, batch_of())
    assert all(torch.equal(tensor, twin.state_dict()[name]) for name, tensor in model.state_dict().items())


class TestFastLS:
    def test_labels_are_a_moving_average_after_the_warm_up(self, plan, model):
        asked = plan(method="fast_ls", k=1, epochs=4, label_warm_up=0.5, label_momentum=0.75)
        memory = {}
        loss = METHODS["fast_ls"].batch_loss(setting_of(asked, Adversary(asked, model), memory))
        given = nn.functional.one_hot(Y, 10).float()
        assert torch.equal(memory["labels"], given)
        loss(model, batch_of(epoch=2))
        assert torch.equal(memory["labels"], given)

        rows = torch.tensor([8, 1])
        expected = given.clone()
        twin = models.build("resnet20", in_channels=1, image_size=8, classes=10).double().train()
        twin.load_state_dict(model.state_dict())
        expected[rows] = 0.75 * given[rows] + 0.25 * twin(X[rows]).softmax(1).float()
        loss(model, batch_of(epoch=3, rows=rows))
        assert torch.allclose(memory["labels"], expected, atol=1e-6)
        assert torch.allclose(memory["labels"].sum(1), torch.ones(12))

    def test_the_memory_of_a_resumed_training_is_used(self, plan, model):
        asked = plan(method="fast_ls", k=1)
        memory = {"labels": torch.full((12, 10), 0.1)}
        METHODS["fast_ls"].batch_loss(setting_of(asked, Adversary(asked, model), memory))
        assert float(memory["labels"].max()) == pytest.approx(0.1)

    def test_one_step_by_default(self, plan):
        assert plan(method="fast_ls", k=1).attack_steps() == 1
        assert plan(method="fast_ls", k=1, steps=20).attack_steps() == 20
        assert plan(method="strades", k=1).attack_steps() == 20

    def test_noise_is_sparse_and_the_examples_own(self):
        x = torch.full((50, 2, 6, 5), 0.5)
        ids = torch.arange(50)
        noisy = sparse_noise(x, ids, 7, 0, 1)
        assert (l0_pixels(x, noisy) == 7).all() and noisy.min() >= 0 and noisy.max() <= 1
        assert torch.equal(sparse_noise(x[3:5], ids[3:5], 7, 0, 1), noisy[3:5])
        assert not torch.equal(sparse_noise(x, ids, 7, 0, 2), noisy)
        assert sparse_noise(x, ids, 0, 0, 1) is x
        assert (l0_pixels(x, sparse_noise(x, ids, 99, 0, 1)) == 30).all()
        changed = (noisy != x).any(1).float().mean(0)  # every pixel about as often
        assert float(changed.min()) > 0.05 and float(changed.max()) < 0.5


def test_budgets_larger_than_the_image(plan):
    with pytest.raises(
        ArgumentError, match="k: expected at most 64, the pixels of an image of digits, got 65"
    ):
        train(plan(k=65))
    with pytest.raises(
        ArgumentError, match=r"multi_k: expected a training budget of at most 64, .* got 6 x 11 = 66"
    ):
        train(plan(method="sat", k=11))
    assert (
        train(plan(k=11, epochs=1, limit=30)).robust_accuracy is not None
    )  # a plain training attacks nothing


@pytest.mark.parametrize("method", ROBUST)
def test_the_best_epoch_withstands_most(plan, method):
    result = train(plan(method=method, k=1, multi_k=2.0, epochs=4, batch_size=32, validation=0.2))
    robust = [row["robust_accuracy"] for row in result.history]
    assert result.robust_accuracy == max(robust) == robust[result.best_epoch - 1]
    assert all(0 <= share <= 1 for share in robust)
    assert f"robust {result.robust_accuracy:.1%}" in str(result)


def test_the_average_of_the_weights_is_what_is_kept(plan, tmp_path):
    steps = 9
    settings = {"epochs": steps, "limit": 50, "batch_size": 50, "validation": 0.0, "schedule": "step"}
    averaged = train(plan(average=0.5, **settings)).model.network.state_dict()
    by_hand = None
    for step in range(
        steps
    ):  # a training of one step more each time would have another schedule: read checkpoints
        from safetensors.torch import load_file

        class _Enough(Exception):
            pass

        def stop(now, step=step):
            if now.epoch == step + 1:
                raise _Enough

        with pytest.raises(_Enough):
            train(plan(out=tmp_path / f"{step}", **settings), stop)
        checkpoint = load_file(tmp_path / f"{step}" / "checkpoint.safetensors")
        weights = {name[8:]: t for name, t in checkpoint.items() if name.startswith("network/")}
        share = max(0.5, 1 / (step + 1))
        by_hand = {
            name: tensor if by_hand is None else by_hand[name].lerp(tensor, share)
            for name, tensor in weights.items()
        }
    for name, tensor in averaged.items():
        assert torch.allclose(tensor, by_hand[name], atol=1e-6)
