"""σ-zero against the published algorithm written out for one example, and what is ours: pixels and boxes."""

from __future__ import annotations

import math

import pytest
import torch
from watched_models import net, watched

from zeronorm import L0
from zeronorm.attacks import sigma_zero
from zeronorm.attacks.batch_under_attack import TILE

Y = torch.tensor([0])


def published(model, x, steps, step_size=1.0, sigma=1e-3, threshold=0.3, t=0.01):
    """The iterates of one example of features in [0, 1], with torch's own Adam: Algorithm 1."""
    δ = torch.zeros_like(x).requires_grad_()
    adam = torch.optim.Adam([δ], lr=step_size)
    τ, best, fewest, iterates = threshold, x, math.inf, []
    for step in range(steps):
        iterates.append((x + δ).detach().flatten())
        z = model(x + δ)[0]
        broken = bool(z[1] > z[0])
        if broken and int((δ != 0).sum()) < fewest:
            best, fewest = (x + δ).detach(), int((δ != 0).sum())
        loss = (z[0] - z[1]).clamp_min(0) + (δ.square() / (δ.square() + sigma)).mean()
        (gradient,) = torch.autograd.grad(loss, δ)
        δ.grad = gradient / gradient.abs().max()
        adam.step()
        adam.param_groups[0]["lr"] = step_size * (
            0.1 + 0.9 * (1 + math.cos(math.pi * (step + 1) / steps)) / 2
        )
        τ = min(1.0, max(0.0, τ + (t if broken else -t) * adam.param_groups[0]["lr"]))
        with torch.no_grad():
            δ.copy_((x + δ).clamp(0, 1) - x)
            δ[δ.abs() < τ] = 0
    return iterates, best


@pytest.mark.parametrize("seed", range(4))
def test_the_published_algorithm(seed):
    model, seen = net(20, seed), []
    x = torch.rand(1, 20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x_adv = sigma_zero(watched(model, seen), x, Y, L0(None), steps=60)
    iterates, best = published(model, x, 60)
    clean, seen = seen[0], seen[1:]
    assert torch.equal(clean, x[0])
    for ours, theirs in zip(seen, iterates, strict=False):
        assert torch.allclose(ours, theirs, atol=1e-9)
    if len(seen) == 61:  # not left at one feature
        assert torch.allclose(x_adv, best, atol=1e-9) or (x_adv != x).sum() < (best != x).sum()
    assert (best != x).sum() > 0 and model(x_adv).argmax() == 1


def test_the_first_step_by_hand():
    """From 0 the smooth count has no slope, and Adam's first step has the length η in every entry."""
    seen = []
    g = torch.tensor([1.0, -2.0, 4.0, 0.0], dtype=torch.float64)

    def model(x):
        z = x.flatten(1) @ g - 1000
        return torch.stack([torch.zeros_like(z), z], dim=1)

    x = torch.full((1, 4), 0.5, dtype=torch.float64)
    sigma_zero(watched(model, seen), x, Y, L0(None), steps=1, step_size=0.35)
    assert torch.allclose(seen[-1], torch.tensor([0.85, 0.15, 0.85, 0.5], dtype=torch.float64), atol=1e-6)
    # below the threshold of 0.3 it is put back
    sigma_zero(watched(model, seen), x, Y, L0(None), steps=1, step_size=0.25)
    assert torch.equal(seen[-1], x[0])


def test_a_pixel_is_put_back_as_a_whole():
    """By the root mean square over its channels: (0.4, 0, 0) is 0.23, and (0.4, 0.4, 0) is 0.33."""
    seen = []
    g = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)  # of 3 channels and 2 pixels

    def model(x):
        z = (x.flatten(2) * g).sum((1, 2)) - 1000
        return torch.stack([torch.zeros_like(z), z], dim=1)

    x = torch.full((1, 3, 1, 2), 0.5, dtype=torch.float64)
    for unit in ("pixel", "feature"):
        sigma_zero(watched(model, seen), x, Y, L0(None, unit=unit), steps=1, step_size=0.4)
        moved = torch.zeros(3, 2, dtype=torch.float64)
        moved[0, 1] = moved[1, 1] = 0.4
        if unit == "feature":
            moved[0, 0] = 0.4
        assert torch.allclose(seen[-1].view(3, 2) - 0.5, moved, atol=1e-6)


def test_after_a_success_only_the_count_falls():
    """A broken iterate is pulled back towards clean, however steep the model."""
    seen = []

    def model(x):
        z = 1e6 * (x.flatten(1)[:, :2].sum(1) - 1.2)
        return torch.stack([torch.zeros_like(z), z], dim=1)

    x = torch.full((1, 8), 0.5, dtype=torch.float64)
    sigma_zero(watched(model, seen), x, Y, L0(None), steps=2, step_size=0.4)
    first, second = seen[2][:2], seen[3][:2]
    assert torch.allclose(first, torch.tensor([0.9, 0.9], dtype=torch.float64), atol=1e-6)
    assert (second < 0.9).all()


def test_who_is_broken_by_one_pixel_leaves():
    model = net(20, sure=0.3)
    x = torch.rand(48, 20, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y = model(x).argmax(1)
    sizes = []

    def counted(x):
        sizes.append(len(x))
        return model(x)

    x_adv = sigma_zero(counted, x, y, L0(None), steps=100)
    alone = int(((x_adv != x).sum(1) == 1).sum())
    assert alone >= 20 and sizes[0] == 48 and sizes[-1] < 48 - alone + TILE


def test_a_larger_budget_changes_nothing_but_who_is_returned():
    model = net(20)
    x = torch.rand(12, 20, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y = model(x).argmax(1)
    free = sigma_zero(model, x, y, L0(None), steps=80)
    count = (free != x).sum(1)
    assert count.max() >= 3 and count.unique().numel() >= 3
    for k in (1, 2, 3):
        x_adv = sigma_zero(model, x, y, L0(k), steps=80)
        assert torch.equal(x_adv, torch.where((count <= k)[:, None], free, x))


def test_steps_are_measured_in_widths_of_the_box():
    """A model of scaled inputs, in a scaled box, is searched in the same way."""
    model = net(18)
    x = torch.rand(6, 2, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = model(x).argmax(1)
    x_adv = sigma_zero(model, x, y, L0(None), steps=40)
    scaled = sigma_zero(lambda v: model((v - 4) / 4), 4 + 4 * x, y, L0(None, low=4.0, high=8.0), steps=40)
    assert (x_adv != x).any() and torch.allclose(scaled, 4 + 4 * x_adv, atol=1e-9)
