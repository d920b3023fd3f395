"""FMN-l0 against the published algorithm written out for one example, and what is ours."""

from __future__ import annotations

import math

import pytest
import torch
from watched_models import net, watched

from zeronorm import L0
from zeronorm.attacks import fmn_l0

Y = torch.tensor([0])


def published(model, x, steps, step_size, γ_first=0.05):
    """The iterates of one example of features in [0, 1], and its budgets: Algorithm 1 for p = 0."""
    v, ε, best, fewest, iterates, budgets = x.clone(), 1, x, math.inf, [], []
    for step in range(steps):
        iterates.append(v.flatten())
        cosine = (1 + math.cos(math.pi * step / steps)) / 2
        α = step_size / 100 + (step_size - step_size / 100) * cosine
        γ = 0.001 + (γ_first - 0.001) * cosine
        leaf = v.clone().requires_grad_()
        z = model(leaf)[0]
        (g,) = torch.autograd.grad(z[1] - z[0], leaf)
        if z[1] > z[0]:
            if int((v != x).sum()) < fewest:
                best, fewest = v, int((v != x).sum())
            ε = min(ε - 1, math.floor(ε * (1 - γ)), fewest)
        else:
            ε = max(ε + 1, math.floor(ε * (1 + γ)))
        ε = min(max(ε, 0), x.numel())
        budgets.append(ε)
        moved = v + α * g / g.norm()
        cut = moved.clamp(0, 1)
        saved = ((moved - x).square() - (moved - cut).square()).flatten()
        kept = sorted(range(x.numel()), key=lambda i: (-float(saved[i]), i))[:ε]
        v = x.clone()
        v[0, kept] = cut[0, kept]
    return iterates, best, budgets


@pytest.mark.parametrize("step_size", [1.0, 5.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_published_algorithm(seed, step_size):
    model, seen = net(20, seed), []
    x = torch.rand(1, 20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x_adv = fmn_l0(watched(model, seen), x, Y, L0(None), steps=60, step_size=step_size)
    iterates, best, budgets = published(model, x, 60, step_size)
    assert max(budgets) > 3 and budgets != sorted(budgets), "it grew and it shrank"
    for ours, theirs in zip(seen[1:], iterates, strict=False):
        assert torch.allclose(ours, theirs, atol=1e-9)
    if len(seen) == 62:  # not left at one feature
        assert torch.allclose(x_adv, best, atol=1e-9) or (x_adv != x).sum() < (best != x).sum()
    assert model(x_adv).argmax() == 1


def linear(g, lead=1000.0):
    def model(x):
        z = x.flatten(1) @ g - lead
        return torch.stack([torch.zeros_like(z), z], dim=1)

    return model


def test_the_budget_grows_by_one_from_two_on():
    """Nothing is broken: the iterates change 0, 2, 3, 4, ... features, the steepest first."""
    g = torch.tensor([5.0, 1.0, -4.0, 3.0, -2.0, 0.5], dtype=torch.float64)
    seen, x = [], torch.full((1, 6), 0.5, dtype=torch.float64)
    fmn_l0(watched(linear(g), seen), x, Y, L0(None), steps=4, budget_step_size=0.05)
    assert [int((v != 0.5).sum()) for v in seen[1:]] == [0, 2, 3, 4, 5]
    assert torch.equal(seen[2], torch.tensor([1.0, 0.5, 0.0, 0.5, 0.5, 0.5], dtype=torch.float64))


def test_the_budget_does_not_outgrow_that_of_the_threat_model():
    g = torch.arange(1.0, 9.0, dtype=torch.float64)
    seen, x = [], torch.full((1, 8), 0.5, dtype=torch.float64)
    fmn_l0(watched(linear(g), seen), x, Y, L0(3), steps=6)
    assert max(int((v != 0.5).sum()) for v in seen) == 3


def test_equal_changes_do_not_overspend_the_budget():
    """All features tie: the published code keeps them all."""
    seen, x = [], torch.full((1, 9), 0.5, dtype=torch.float64)
    fmn_l0(watched(linear(torch.ones(9, dtype=torch.float64)), seen), x, Y, L0(None), steps=3)
    assert [int((v != 0.5).sum()) for v in seen[1:]] == [0, 2, 3, 4]


def test_a_step_into_nothing_is_taken_back_and_halved():
    seen, x = [], torch.full((1, 2), 0.5, dtype=torch.float64)

    def model(x):
        z = linear(torch.tensor([1.0, 0.0], dtype=torch.float64))(x)
        return torch.where(x[:, :1] > 0.8, torch.nan, z)

    fmn_l0(watched(model, seen), x, Y, L0(1), steps=4, step_size=1.0)
    cosines = [(1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    α = [0.01 + 0.99 * cosine for cosine in cosines]
    expected = [0.5, 1.0, 0.5 + α[1] / 2, 0.5 + α[2] / 4, 0.5 + α[2] / 4 + α[3] / 4]
    assert expected[2] > 0.8, "lost twice"
    assert [v[0].item() for v in seen[1:]] == pytest.approx(expected)


def test_pixels_are_kept_by_all_their_channels():
    """Three channels of 0.3 each are a longer change than one of 0.5."""
    g = torch.tensor([[3.0, 5.0], [3.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    seen, x = [], torch.full((1, 3, 1, 2), 0.5, dtype=torch.float64)
    step = 0.1 * float(g.norm())
    fmn_l0(watched(linear(g.flatten()), seen), x, Y, L0(1), steps=1, step_size=step)
    assert torch.allclose(seen[-1].view(3, 2) - 0.5, torch.tensor([[0.3, 0.0]] * 3, dtype=torch.float64))
    fmn_l0(watched(linear(g.flatten()), seen), x, Y, L0(1, unit="feature"), steps=1, step_size=step)
    moved = torch.zeros(3, 2, dtype=torch.float64)
    moved[0, 1] = 0.5
    assert torch.allclose(seen[-1].view(3, 2) - 0.5, moved)


def test_steps_are_measured_in_widths_of_the_box():
    """A model of scaled inputs, in a scaled box, is searched in the same way."""
    model = net(18)
    x = torch.rand(6, 2, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = model(x).argmax(1)
    options = {"steps": 40, "step_size": 2.0}
    x_adv = fmn_l0(model, x, y, L0(None), **options)
    scaled = fmn_l0(lambda v: model((v - 4) / 4), 4 + 4 * x, y, L0(None, low=4.0, high=8.0), **options)
    assert (x_adv != x).any() and torch.allclose(scaled, 4 + 4 * x_adv, atol=1e-9)
