"""torchattacks and AutoAttack themselves in our runner, and the shapes that research code comes in."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch

import zeronorm as zn
from zeronorm.errors import ArgumentError
from zeronorm.integrations import from_torch_class


class Corner:
    """As Sparse-RS's code: `perturb` returns queries and adversarials."""

    def __init__(self, model, pixels=2):
        self.model, self.pixels = model, pixels

    def perturb(self, x, y):
        x_adv = x.clone()
        x_adv[..., 0, : self.pixels] = torch.rand(()) + random.random() + np.random.rand()
        return torch.ones(len(x)), x_adv


def test_the_largest_changes_stay(model, x, y):
    x_adv = from_torch_class(Corner, pixels=4)(model, x, y, zn.L0(2))
    assert zn.L0(2).contains(x, x_adv).all() and (zn.distances.l0_pixels(x, x_adv) == 2).all()


def test_masks_and_caps(model, x, y):
    allowed = torch.zeros(8, 8, dtype=torch.bool)
    allowed[0, 1:] = True
    threat = zn.L0(3, linf=0.1, allowed=allowed)
    x_adv = from_torch_class(Corner, pixels=4)(model, x, y, threat)
    assert threat.contains(x, x_adv).all() and (x_adv != x).any()


def test_draws_follow_the_seed_and_leave_no_trace(model, x, y):
    attack = from_torch_class(Corner)
    states = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()]
    one, same, other = (attack(model, x, y, zn.L0(2), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()
    assert np.array_equal(states[2], np.random.get_state()[1])


def test_what_is_no_class_and_what_it_does_not_take(model):
    with pytest.raises(
        ArgumentError, match="attack: expected a class of attacks, with its arguments beside it"
    ):
        from_torch_class(Corner(model))
    with pytest.raises(ArgumentError, match=r"attack: Corner cannot be made so: .*'pixel'"):
        from_torch_class(Corner, pixel=3)


def test_modes_of_the_model_stay(model, x, y):
    class Trains(Corner):
        def perturb(self, x, y):
            self.model.train()
            return super().perturb(x, y)

    from_torch_class(Trains)(model, x, y, zn.L0(2))
    assert not any(module.training for module in model.modules())


def test_what_is_no_input():
    class Wrong:
        def __init__(self, model):
            pass

        def __call__(self, x, y):
            return x[:1], None

    x = torch.rand(3, 1, 4, 4)
    with pytest.raises(
        ArgumentError, match=r"expected inputs of shape .* from Wrong, got \(1, 1, 4, 4\), NoneType"
    ):
        from_torch_class(Wrong)(lambda x: x.flatten(1), x, torch.zeros(3, dtype=torch.int64), zn.L0(1))


def test_it_goes_to_other_processes(model, x, y):
    attack = from_torch_class(Corner, pixels=3)
    there = pickle.loads(pickle.dumps(attack))
    assert there.__name__ == attack.__name__ == "test_torch_classes Corner(pixels=3)"
    assert torch.equal(there(model, x, y, zn.L0(3)), attack(model, x, y, zn.L0(3)))


def test_nothing_to_attack(model, x, y):
    assert from_torch_class(Corner)(model, x[:0], y[:0], zn.L0(1)).shape == (0, 1, 8, 8)


def test_torchattacks(model, images):
    torchattacks = pytest.importorskip("torchattacks")
    attack = from_torch_class(torchattacks.PGD, eps=0.2, alpha=0.05, steps=5)
    evaluation = zn.evaluate(model, images, zn.Linf(0.2), attack=attack)
    assert evaluation.summary.stages[0].name == "torchattacks PGD(eps=0.2, alpha=0.05, steps=5)"
    assert evaluation.robust_accuracy < evaluation.clean_accuracy
    assert zn.verify(evaluation.run, model, images).ok


def test_torchattacks_sparse(model, images):
    torchattacks = pytest.importorskip("torchattacks")
    attack = from_torch_class(torchattacks.OnePixel, pixels=4, steps=2, popsize=5)
    evaluation = zn.evaluate(model, images, zn.L0(8), attack=[attack, "sparse_rs"], queries=10)
    assert zn.verify(evaluation.run, model, images).ok


def test_autoattack(model, images):
    pyautoattack = pytest.importorskip("pyautoattack")
    attack = from_torch_class(pyautoattack.AutoAttack, eps=0.15, version="custom", attacks=["apgd-ce"])
    evaluation = zn.evaluate(model, images, zn.Linf(0.15), attack=attack)
    assert evaluation.robust_accuracy < evaluation.clean_accuracy
    assert zn.verify(evaluation.run, model, images).ok
