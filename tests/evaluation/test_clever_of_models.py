"""CLEVER on models whose answer is known, and where it fails."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zeronorm import L2, ArgumentError, Linf
from zeronorm.evaluation.clever import clever
from zeronorm.theory import minimal_length


def linear(seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    x = torch.rand(6, 8, generator=generator, dtype=torch.float64)
    return weight, x, lambda v: v @ weight.T


def test_exact_for_a_linear_classifier():
    weight, x, model = linear()
    y = model(x).argmax(1)
    score, believed = clever(model, x, L2(9.0, -99.0, 99.0), batches=6, samples=4)
    optimum = minimal_length(weight, torch.zeros(3), x, y, low=-99.0, high=99.0)
    assert torch.allclose(score, optimum, rtol=1e-9)
    assert not believed.any(), "no tail to fit: all gradients are the same"
    score, _ = clever(model, x, Linf(9.0, -99.0, 99.0), batches=6, samples=4)
    gap = model(x).gather(1, y[:, None]) - model(x)
    steep = (weight[y][:, None] - weight).abs().sum(2)
    assert torch.allclose(score, (gap / steep).nan_to_num(torch.inf, posinf=torch.inf).amin(1), rtol=1e-9)
    assert torch.equal(
        clever(model, x, L2(0.01, -99.0, 99.0), batches=6, samples=4)[0],
        torch.full((6,), 0.01, dtype=torch.float64),
    )


def curved(v):
    """A lead of 1 - |v|²: its boundary is 1 away from 0, and its slope 2 |v|."""
    lead = 1 - v.square().sum(1)
    return torch.stack([lead, torch.zeros_like(lead)], 1)


def test_the_end_of_a_curved_lead():
    score, believed = clever(curved, torch.zeros(1, 3), L2(1.0, -9.0, 9.0), batches=60, samples=32)
    # the longest gradient of the ball is 2, at its rim: 1 / 2, a bound though not a tight one
    assert score.item() == pytest.approx(0.5, rel=0.02) and believed.item() in (0.0, 1.0)


def test_named_by_seed_and_id_and_blind_to_the_batch():
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 3)).double().train()
    x = torch.rand(3, 8, generator=generator, dtype=torch.float64)
    ids = torch.tensor([7, 3, 2**40])
    together, _ = clever(model, x, L2(1.0), batches=8, samples=4, ids=ids)
    alone, _ = clever(model, x[1:2], L2(1.0), batches=8, samples=4, ids=ids[1:2])
    assert torch.allclose(alone, together[1:2], rtol=1e-9)
    assert not torch.equal(clever(model, x, L2(1.0), batches=8, samples=4, ids=ids, seed=1)[0], together)
    assert model.training and all(p.grad is None for p in model.parameters())


def test_masked_gradients_fool_it():
    """The failure that is stated: rounding hides the slope, the score is high, and the model breaks nearby."""
    weight, x, model = linear()

    def stairs(v):
        z = model(v)
        return z + ((z * 4).round() / 4 - z).detach() - 0.999 * (z - z.detach())

    y = model(x).argmax(1)
    score, _ = clever(stairs, x, L2(50.0, -99.0, 99.0), batches=6, samples=4)
    nearest = minimal_length(weight, torch.zeros(3), x, y, low=-99.0, high=99.0)
    assert (score > 10 * nearest).any()


def test_bad_input():
    _, x, model = linear()
    with pytest.raises(ArgumentError, match="a dead network has no score"):
        clever(lambda v: (0 * v[:, :3]) + torch.tensor([1.0, 0, 0]), x, L2(1.0), batches=6, samples=4)
    with pytest.raises(ArgumentError, match="epsilon: expected a number"):
        clever(model, x, L2(None), batches=6, samples=4)
    with pytest.raises(ArgumentError, match="batches: expected an integer of at least 1, got 0"):
        clever(model, x, L2(1.0), batches=0)
