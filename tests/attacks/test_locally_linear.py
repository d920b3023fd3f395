"""The locally linear attack: the fact sheet's vectors, and how it compares to FGSM."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zeronorm import Linf
from zeronorm.attacks import fgsm, iterative_fgsm, locally_linear
from zeronorm.losses import margin

WIDE = {"low": -9.0, "high": 9.0}


def network(classes, seed=0, n=40):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 60), nn.ReLU(), nn.Linear(60, classes)).double()
    x = torch.rand(n, 1, 8, 8, dtype=torch.float64)
    return model, x, model(x).argmax(1)


def test_the_pair_with_the_largest_lead_by_hand():
    W = torch.tensor([[1, 0, 0.5], [0.2, 1, -1], [-1, 0.3, 0.1]], dtype=torch.float64)
    x, y = torch.tensor([[1, 0.2, 0.3]], dtype=torch.float64), torch.tensor([0])
    x_adv = locally_linear(lambda v: v @ W.T, x, y, Linf(0.1, **WIDE), steps=1)
    # pair 1 ends at a margin of -.72, pair 2 at -1.79
    assert (x_adv - x).tolist()[0] == pytest.approx([-0.1, 0.1, -0.1])
    assert margin(x_adv @ W.T, y).item() == pytest.approx(-0.72)


def test_the_slope_of_two_layers_by_hand():
    hidden, out = nn.Linear(2, 3), nn.Linear(3, 2)
    hidden.weight.data = torch.tensor([[1.0, -1], [2, 1], [-1, 3]])
    hidden.bias.data = -torch.tensor([0.5, 1, 0])
    out.weight.data = torch.tensor([[0.0, 0, 0], [1, -2, 0.5]])
    out.bias.data = torch.zeros(2)
    model, x = nn.Sequential(hidden, nn.ReLU(), out), torch.tensor([[1.0, 0.2]])
    assert model(x)[0, 1].item() == pytest.approx(-2.1)
    # w_eq = (-3, -3)
    x_adv = locally_linear(model, x, torch.tensor([0]), Linf(0.05, **WIDE), steps=1)
    assert (x_adv - x).tolist()[0] == pytest.approx([-0.05, -0.05])


@pytest.mark.parametrize("epsilon", [0.003, 0.01])
def test_for_two_classes_one_step_is_fgsm(epsilon):
    model, x, y = network(2)
    threat = Linf(epsilon)
    assert torch.equal(locally_linear(model, x, y, threat, steps=1), fgsm(model, x, y, threat))
    by_pairs = locally_linear(model, x, y, threat, steps=8, step_size=0.001)
    assert torch.equal(by_pairs, iterative_fgsm(model, x, y, threat, steps=8, step_size=0.001))


def test_for_more_classes_it_breaks_more():
    model, x, y = network(6, n=300)
    broken = []
    for attack, options in ((fgsm, {}), (locally_linear, {"steps": 1}), (locally_linear, {"steps": 20})):
        x_adv = attack(model, x, y, Linf(0.02), **options)
        broken.append(int((model(x_adv).argmax(1) != y).sum()))
    assert broken[0] < broken[1] <= broken[2] and broken[1] >= 1.05 * broken[0]


def test_a_step_is_one_step():
    model, x, y = network(4, n=6)
    x = 0.2 + 0.6 * x
    y = model(x).argmax(1)
    x_adv = locally_linear(model, x, y, Linf(0.2), steps=1, step_size=1e-4)
    torch.testing.assert_close((x_adv - x).abs(), torch.full_like(x, 1e-4))


def test_rivals_are_the_likeliest_first():
    model, x, y = network(5, seed=1)
    order = model(x).argsort(1, descending=True)
    tiny = Linf(1e-6)
    one = locally_linear(model, x, y, tiny, steps=1, rivals=1)
    for i in range(len(x)):
        leaf = x[i : i + 1].clone().requires_grad_()
        z = model(leaf)[0]
        (slope,) = torch.autograd.grad(z[order[i, 1]] - z[y[i]], leaf)
        assert torch.equal((one[i] - x[i]).sign(), slope[0].sign())
    everyone = [locally_linear(model, x, y, tiny, steps=1, rivals=r) for r in (4, 99, None)]
    assert torch.equal(everyone[0], everyone[1]) and torch.equal(everyone[0], everyone[2])
