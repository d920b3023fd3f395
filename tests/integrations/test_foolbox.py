"""Foolbox itself: its models, criteria and calls with our attacks, its attacks in our runner."""

from __future__ import annotations

import pytest
import torch

import zeronorm as zn
from zeronorm import distances
from zeronorm.errors import ArgumentError

foolbox = pytest.importorskip("foolbox")

from zeronorm.integrations.foolbox import PixelDistance, from_foolbox, to_foolbox  # noqa: E402


@pytest.fixture
def wrapped(model):
    return foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")


def test_a_budget_attack_by_foolboxs_call(wrapped, x, y):
    attack = to_foolbox("sparse_pgd", steps=20)
    assert isinstance(attack, foolbox.attacks.base.FixedEpsilonAttack)
    raw, clipped, success = attack(wrapped, x, y, epsilons=[1, 4])
    for k, adversarials, fooled in zip((1, 4), clipped, success, strict=True):
        direct = zn.attacks.sparse_pgd(wrapped, x, y, zn.L0(k), steps=20)
        assert torch.equal(adversarials, direct) and torch.equal(fooled, wrapped(direct).argmax(1) != y)
    assert torch.equal(raw[1], clipped[1]) and success[1].sum() > success[0].sum()


def test_a_minimal_attack_needs_no_epsilon(wrapped, x, y):
    attack = to_foolbox("sigma_zero", steps=60)
    assert isinstance(attack, foolbox.attacks.base.MinimizationAttack)
    raw, clipped, success = attack(wrapped, x, y, epsilons=None)
    assert torch.equal(raw, zn.attacks.sigma_zero(wrapped, x, y, zn.L0(None), steps=60))
    assert torch.equal(raw, clipped) and success.all()
    _, clipped, success = attack(wrapped, x, y, epsilons=[2])
    assert distances.l0_pixels(x, clipped[0]).max() <= 2
    assert torch.equal(success[0], wrapped(clipped[0]).argmax(1) != y)


@pytest.mark.parametrize(("name", "epsilon"), [("pgd", 0.2), ("deepfool", 1.5)])
def test_other_norms_have_foolboxs_distances(wrapped, x, y, name, epsilon):
    attack = to_foolbox(name, steps=10)
    _, clipped, success = attack(wrapped, x, y, epsilons=epsilon)
    assert attack.distance(x, clipped).max() <= epsilon + 1e-5 and success.any()


def test_preprocessing_is_part_of_the_model(model, x, y):
    shifted = foolbox.PyTorchModel(
        torch.nn.Sequential(Scale(), model).eval(),
        bounds=(0, 1),
        device="cpu",
        preprocessing={"mean": [0.5], "std": [0.25], "axis": -3},
    )
    _, clipped, success = to_foolbox("sparse_rs", queries=60)(shifted, x, y, epsilons=[3])
    assert distances.l0_pixels(x, clipped[0]).max() <= 3 and clipped[0].min() >= 0 and clipped[0].max() <= 1
    assert torch.equal(success[0], model(clipped[0]).argmax(1) != y)


class Scale(torch.nn.Module):
    """The inverse of the preprocessing above."""

    def forward(self, x):
        return x * 0.25 + 0.5


def test_targets(wrapped, x, y):
    targets = (y + 1) % 10
    criterion = foolbox.criteria.TargetedMisclassification(targets)
    _, clipped, success = to_foolbox("sparse_pgd", steps=40)(wrapped, x, criterion, epsilons=[12])
    assert torch.equal(success[0], wrapped(clipped[0]).argmax(1) == targets) and success.any()
    with pytest.raises(ArgumentError, match="criterion: expected Misclassification, got Targeted"):
        to_foolbox("sparse_autoattack", steps=1, queries=1)(wrapped, x, criterion, epsilons=[1])


def test_what_cannot_be_asked():
    with pytest.raises(ArgumentError, match="attack: expected one of"):
        to_foolbox("nothing")
    with pytest.raises(ArgumentError, match="sparse_rs has no such option"):
        to_foolbox("sparse_rs", steps=3)


def test_what_is_no_attack_of_foolbox():
    for what in (int, foolbox.attacks.L0FMNAttack()):
        with pytest.raises(ArgumentError, match="attack: expected a class of Foolbox's attacks"):
            from_foolbox(what)
    with pytest.raises(ArgumentError, match=r"attack: L0FMNAttack cannot be made so: .*'step'"):
        from_foolbox(foolbox.attacks.L0FMNAttack, step=3)


def test_half_a_pixel(wrapped, x, y):
    with pytest.raises(ArgumentError, match=r"epsilon: expected a whole number of changes, got 1.5"):
        to_foolbox("sparse_rs")(wrapped, x, y, epsilons=1.5)


@pytest.mark.parametrize("unit", ["pixel", "feature"])
def test_the_distance_clips_to_the_largest_changes(unit):
    x = torch.zeros(1, 2, 2, 2)
    x_adv = x.clone()
    x_adv[0, :, 0, 0] = torch.tensor([-0.2, 0.3])
    x_adv[0, 0, 1, 1] = 0.9
    distance = PixelDistance(unit)
    assert distance(x, x_adv).tolist() == [2 if unit == "pixel" else 3]
    clipped = distance.clip_perturbation(x, x_adv, 1)
    assert distance(x, clipped).tolist() == [1] and clipped[0, 0, 1, 1] == torch.tensor(0.9)
    assert torch.equal(distance.clip_perturbation(x, x_adv, 100), x_adv)


def test_its_minimising_attack_in_our_runner(model, images, x, y):
    attack = from_foolbox(foolbox.attacks.L0FMNAttack, steps=60)
    evaluation = zn.evaluate(model, images, [zn.L0(1), zn.L0(6)], attack=attack)
    (stage,) = evaluation.summary.stages
    assert stage.name == "foolbox L0FMNAttack(steps=60)" and stage.forwards and stage.backwards
    assert evaluation.robust_accuracy[6] < evaluation.robust_accuracy[1] <= evaluation.clean_accuracy
    assert zn.verify(evaluation.run, model, images).ok
    assert not [f for f in evaluation.diagnosis if f["code"] == "outside-threat-model"]
    again = zn.evaluate(model, images, [zn.L0(1), zn.L0(6)], attack=attack)
    assert again.records.equals(evaluation.records)


def test_its_linf_attack_in_our_linf_run(model, images):
    attack = from_foolbox(foolbox.attacks.LinfPGD, steps=5)
    evaluation = zn.evaluate(model, images, zn.Linf(0.2), attack=attack)
    assert evaluation.robust_accuracy < evaluation.clean_accuracy
    assert zn.verify(evaluation.run, model, images).ok


def test_an_epsilon_that_the_threat_model_does_not_have(model, x, y):
    attack = from_foolbox(foolbox.attacks.L2PGD, steps=3)
    with pytest.raises(ArgumentError, match=r"epsilon: expected a number for L2P.*L2 distance"):
        attack(model, x, y, zn.L0(3))
    x_adv = from_foolbox(foolbox.attacks.L2PGD, steps=3, epsilon=1.0)(model, x, y, zn.L0(3))
    assert zn.L0(3).contains(x, x_adv).all() and not torch.equal(x_adv, x)
