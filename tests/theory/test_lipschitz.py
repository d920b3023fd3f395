"""The theorems against samples, the lemma against gradients, the radius against attempts to leave it."""

from __future__ import annotations

import math
from itertools import pairwise

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zeronorm import ArgumentError
from zeronorm.theory.lipschitz import (
    binary_robustness,
    certified_radius,
    lipschitz_bound,
    multiclass_robustness,
)


def test_theorem_31_on_samples():
    """Two Gaussian classes that mirror each other: equal chances and accuracies."""
    mu, w, epsilon = torch.tensor([1.0, 0.5]).double(), torch.tensor([1.0, 0.2]).double(), 0.1
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(200_000, 2, generator=generator, dtype=torch.float64)
    x, y = torch.cat([mu + z, -mu - z]), torch.cat([torch.ones(len(z)), -torch.ones(len(z))])
    score = y * (x @ w)
    right = score > 0
    means = [x[(y == side) & right].mean(0) for side in (1, -1)]
    said = binary_robustness(w, means[0], means[1], float(right.double().mean()), epsilon)
    r_2 = float((right * score.abs() / w.norm()).mean())
    r_inf = float((score - epsilon * w.abs().sum() > 0).double().mean())
    assert said.r_2 == pytest.approx(r_2, rel=1e-12), "an identity, whatever the samples"
    assert r_2 == pytest.approx(1.147463, abs=5e-3)
    assert r_inf == pytest.approx(0.8316, abs=3e-3) and said.r_inf == pytest.approx(9.75, abs=0.05)
    assert r_inf <= said.r_inf


def test_the_vector_by_hand():
    """w = (1, -2, 0): scores 1, 0.2, -1.2, -1 of labels 1, 1, -1, 1."""
    w = torch.tensor([1.0, -2.0, 0.0])
    x = torch.tensor([[2, 0.5, 3], [0.2, 0, 1], [-1, 0.1, 0], [1, 1, 1]])
    y = torch.tensor([1.0, 1.0, -1.0, 1.0])
    score = x @ w
    assert score.tolist() == pytest.approx([1, 0.2, -1.2, -1])
    right = (score.sign() == y).double()
    assert float((right * score.abs() / w.norm()).mean()) == pytest.approx(2.4 / (4 * math.sqrt(5)), abs=1e-7)
    fgs = x - 0.1 * y[:, None] * w.sign()
    assert ((fgs @ w).sign() == y).double().mean() == 0.5


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_theorem_32_on_samples(seed):
    """Weights and data that a rotation of the classes leaves as they are, so that its assumptions hold."""
    generator = torch.Generator().manual_seed(seed)
    c, n, epsilon = 3, 4000, 0.15
    template, rule = torch.randn(c, 4, generator=generator), torch.randn(c, 4, generator=generator)
    noise = torch.randn(n, c, 4, generator=generator)
    x = torch.cat([(template + noise).roll(k, dims=1) for k in range(c)]).double().flatten(1)
    weight = torch.stack([rule.roll(k, dims=0) for k in range(c)]).double().flatten(1)
    y = torch.arange(c).repeat_interleave(n)
    z = x @ weight.T
    right = z.argmax(1) == y
    if not 0.2 < float(right.double().mean()) < 1:
        return
    means = torch.stack([x[(y == k) & right].mean(0) for k in range(c)])
    said = multiclass_robustness(weight, means, float(right.double().mean()), epsilon)

    difference = weight[y][:, None] - weight
    distance = ((x[:, None] * difference).sum(2) / difference.norm(dim=2)).nan_to_num(math.inf)
    assert float((right * distance.amin(1).clamp_min(0)).mean()) <= said.r_2 + 1e-9
    # the weaker perturbation of assumption I
    centred = weight - weight.mean(0)
    fooled = x - epsilon * centred[y].sign()
    r_inf = float((right & ((fooled @ weight.T).argmax(1) == y)).double().mean())
    assert r_inf <= said.r_inf + 1e-9


def network(seed, sizes):
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for inputs, outputs in pairwise(sizes):
        layer = nn.Linear(inputs, outputs).double()
        layer.weight.data = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
        layer.weight.data *= torch.rand(outputs, inputs, generator=generator) < 0.6
        layer.bias.data = torch.randn(outputs, generator=generator, dtype=torch.float64)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def gradients(model, x, y):
    x = x.clone().requires_grad_()
    z = model(x)
    lead = z.gather(1, y[:, None]) - z
    return torch.stack(
        [torch.autograd.grad(lead[:, k].sum(), x, retain_graph=True)[0] for k in range(z.shape[1])], 1
    ).detach()


@pytest.mark.parametrize("q", [1, 2])
@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_no_gradient_is_longer(q, seed):
    model = network(seed, (5, 7, 6, 4))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(50, 5, generator=generator, dtype=torch.float64)
    y = model(x).argmax(1)
    weights = [layer.weight.detach() for layer in model if isinstance(layer, nn.Linear)]
    bound = lipschitz_bound(weights[:-1], weights[-1], y, q)
    found = torch.linalg.vector_norm(gradients(model, x, y), ord=q, dim=2)
    assert (found <= bound + 1e-9).all() and not bound.gather(1, y[:, None]).any()
    # at a point, the units that are off there may be left out
    off, a = [], x
    for layer in model[:-1]:
        a = layer(a)
        if isinstance(layer, nn.ReLU):
            off.append(a == 0)
    sharper = lipschitz_bound(weights[:-1], weights[-1], y, q, off)
    assert (found <= sharper + 1e-9).all() and (sharper <= bound + 1e-9).all()


def test_column_sums_and_not_row_sums():
    """The counterexample: W = [[1, 0], [1, 0], [1, 0]] in the paper's layout, all units on."""
    W, last = torch.tensor([[1.0, 0], [1, 0], [1, 0]]).T, torch.tensor([[1.0, 0], [0, 0]])
    bound = lipschitz_bound([W], last, torch.tensor([0]), 1)
    assert bound.tolist() == [[0, 3]], "‖∇‖₁ = 3, and a row sum would say 1"
    assert lipschitz_bound([W], last, torch.tensor([0]), 2)[0, 1] == pytest.approx(math.sqrt(3))
    everything = [torch.tensor([[True, True]])]
    assert not lipschitz_bound([W], last, torch.tensor([0]), 1, everything).any(), "all units are off"


@pytest.mark.parametrize(("q", "norm"), [(1, math.inf), (2, 2)])
@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_nothing_within_the_radius_moves_the_prediction(q, norm, seed):
    model = network(seed, (4, 6, 3))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 4, generator=generator, dtype=torch.float64)
    z = model(x).detach()
    y = z.argmax(1)
    weights = [layer.weight.detach() for layer in model if isinstance(layer, nn.Linear)]
    radius = certified_radius(z, lipschitz_bound(weights[:-1], weights[-1], y, q))
    # along the gradients, which is where it would break first
    steps = gradients(model, x, y)
    steps = -steps.sign() if q == 1 else -steps
    length = torch.linalg.vector_norm(steps, ord=norm, dim=2, keepdim=True).clamp_min(1e-12)
    reached = x[:, None] + steps / length * radius[:, None, None] * (1 - 1e-9)
    assert (model(reached.flatten(0, 1)).argmax(1).view(8, -1) == y[:, None]).all()


def test_the_radius_is_exact_for_a_linear_classifier():
    weight, bias = torch.tensor([[1.0, 0], [0, 1], [-1, -1]]), torch.zeros(3)
    x = torch.tensor([[2.0, 1.0]])
    z = x @ weight.T + bias
    bound = lipschitz_bound([], weight, z.argmax(1), 2)
    assert certified_radius(z, bound).tolist() == pytest.approx([0.70711], abs=1e-5)
    assert certified_radius(z, bound, 0.5).tolist() == [0.5]
    assert certified_radius(z, lipschitz_bound([], weight, z.argmax(1), 1)).tolist() == [0.5]


def test_bad_input(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ArgumentError, match="q: expected one of 1, 2, got 3"):
        lipschitz_bound([], torch.zeros(2, 3), torch.tensor([0]), 3)
    with pytest.raises(ArgumentError, match="hidden: expected matrices"):
        lipschitz_bound([torch.zeros(4, 5)], torch.zeros(2, 3), torch.tensor([0]), 1)
    with pytest.raises(ArgumentError, match="got all equal: a dead classifier"):
        multiclass_robustness(torch.ones(3, 4), torch.ones(3, 4), 0.5, 0.1)
    with pytest.raises(ArgumentError, match=r"epsilon: expected a number in \(0, inf\), got 0"):
        binary_robustness(torch.ones(2), torch.ones(2), torch.ones(2), 0.5, 0.0)
    with pytest.raises(ArgumentError, match="lipschitz: expected shape"):
        certified_radius(torch.zeros(2, 3), torch.zeros(2, 2))
