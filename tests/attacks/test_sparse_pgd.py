"""sparse-PGD step by step, driven through the public function: the vectors of the fact sheet, by hand."""

from __future__ import annotations

import pytest
import torch
from watched_models import CLEAN, G, Linear

from zeronorm import L0
from zeronorm.attacks import sparse_pgd
from zeronorm.attacks import sparse_pgd as module_function
from zeronorm.seeding import Streams

MODULE = __import__("sys").modules[module_function.__module__]
P = torch.tensor([0.2, -0.3, 0.4, 0.1], dtype=torch.float64)
MASK = torch.tensor([1.0, 0.5, -0.5, 0.0], dtype=torch.float64)


@pytest.fixture
def given(monkeypatch):
    """The search starts from P and MASK, draws the masks given, and notes every mask it ranks."""
    masks = []
    draws = {1: MASK}

    def draw(streams, step, allowed, pixels, dtype):
        return draws[step][None].clone()

    def uniform(self, step, n, dtype):
        return ((P + 1) / 2)[None]

    def top_k(scores, k, real=MODULE.top_k):
        masks.append(scores[0].clone())
        return real(scores, k)

    def choose(mask, support, stuck, real=MODULE.choose):
        masks.append(mask[0].clone())
        return real(mask, support, stuck)

    monkeypatch.setattr(MODULE, "_draw", draw)
    monkeypatch.setattr(Streams, "uniform", uniform)
    monkeypatch.setattr(MODULE, "top_k", top_k)
    monkeypatch.setattr(MODULE, "choose", choose)
    return draws, masks


def attack(model, **options):
    y = torch.tensor([0])
    return sparse_pgd(model, CLEAN, y, L0(options.pop("k", 1)), **options)


def close(a, b):
    return a == pytest.approx(torch.as_tensor(b).tolist(), abs=1e-6)


def test_the_mask_follows_its_normalised_gradient(given):
    _, masks = given
    attack(Linear(), steps=1)
    assert close(masks[0].tolist(), MASK)
    assert close(masks[1].tolist(), [1.0618317, 0.7217163, -0.0565675, 0.0196554])


@pytest.mark.parametrize("gradient", ["unprojected", "projected"])
def test_the_iterate_is_the_magnitude_under_the_mask(given, gradient):
    model = Linear()
    attack(model, steps=2, gradient=gradient)
    clean, first, second, third = model.seen
    assert close(clean, [0.5] * 4)
    assert close(first, [0.5 + 0.2, 0.5, 0.5, 0.5])
    assert close(second, [0.5 + 0.45, 0.5, 0.5, 0.5])  # a step of 1/4 along the sign
    assert close(third, [1.0, 0.5, 0.5, 0.5])  # and no further than the box


@pytest.mark.parametrize(
    ("gradient", "p"),
    [
        (
            "unprojected",
            [0.5, -0.5, 0.5, 0.35],
        ),  # everywhere (0.45 after one step, 0.7 cut at the box after two)
        ("projected", [0.5, -0.3, 0.4, 0.1]),  # in the mask only
    ],
)
@pytest.mark.parametrize("entering", [1, 2, 3])
def test_which_magnitudes_move(given, gradient, p, entering):
    """Stuck for one step, the mask is drawn anew: the pixel that enters shows its magnitude."""
    draws, _ = given
    drawn = torch.zeros(4, dtype=torch.float64)
    drawn[entering] = 9.0
    draws[3] = drawn  # at the second iterate
    model = Linear()
    attack(model, steps=2, tolerance=1, gradient=gradient)
    expected = [0.5] * 4
    # two steps were made on the way; that of pixel 3 is 0.1 + 2/4
    expected[entering] += 0.5 if (gradient, entering) == ("unprojected", 3) else p[entering]
    assert close(model.seen[-1], expected)


def test_a_drawn_mask_is_evaluated_before_it_moves(given):
    draws, masks = given
    draws[4] = torch.tensor([-1.0, 0.0, 0.25, 3.0], dtype=torch.float64)
    model = Linear()
    attack(model, steps=3, tolerance=2)
    # unchanged after two updates, so the third iterate is at the drawn mask itself
    assert torch.equal(masks[3], draws[4])
    assert close(model.seen[-1][:3], [0.5] * 3) and model.seen[-1][3] > 0.5


@pytest.mark.parametrize("tolerance", [1, 2, 5])
def test_stuck_means_unchanged_steps_in_a_row(given, tolerance):
    """All pixels in the mask never change: a draw every `tolerance` steps, counted from the last draw."""
    draws, masks = given
    draws.update({step: torch.full((4,), float(step), dtype=torch.float64) for step in range(2, 40)})
    attack(Linear(), k=4, steps=20, tolerance=tolerance)
    drawn = [i for i, mask in enumerate(masks) if i and torch.equal(mask, draws[i + 1])]
    assert drawn == list(range(tolerance + 1, 21, tolerance + 1))


def test_the_first_iterate_is_tested(given):
    lead = float(G @ CLEAN.flatten()) + 0.1  # p under the mask adds 0.2
    model = Linear(lead)
    x_adv = attack(model, steps=0)
    assert close(x_adv.flatten().tolist(), [0.7, 0.5, 0.5, 0.5])
    assert len(model.seen) == 2, "the clean input and this one"


def test_passes_are_as_many_as_promised(given):
    for steps in (0, 1, 7):
        model = Linear()
        attack(model, steps=steps, k=4, tolerance=100)
        assert len(model.seen) == 1 + steps + 1


def test_a_gradient_that_vanishes_moves_nothing(given):
    """No direction: the mask stays, and so is drawn anew in time."""
    _, masks = given

    def flat(x):
        return torch.stack([torch.ones(len(x)), 0 * x.flatten(1).sum(1)], dim=1)

    attack(flat, steps=3, tolerance=9)
    assert all(torch.equal(mask, MASK) for mask in masks)


def test_a_sure_model_still_gives_a_direction():
    """In float32 the cross-entropy of a label that leads by 100 has gradient 0; the search must not stop there."""
    weight = torch.randn(1, 36, generator=torch.Generator().manual_seed(0))

    def sure(x):
        z = 60 * (x.flatten(1) @ weight.T)
        return torch.cat([z, torch.zeros_like(z)], dim=1)

    x = (weight > 0).float().view(1, 1, 6, 6)
    assert torch.nn.functional.cross_entropy(sure(x), torch.tensor([0])) == 0
    gains = weight.abs().flatten().sort(descending=True).values
    k = int((gains.cumsum(0) < weight.clamp_min(0).sum()).sum()) + 1
    x_adv = sparse_pgd(sure, x, torch.tensor([0]), L0(k), steps=300)
    assert sure(x_adv).argmax() == 1


def test_starts_from_what_is_given():
    model = Linear(lead=2.6)  # 1.25 clean; pixel 2 adds up to 1.5
    start = CLEAN.clone()
    start[0, 0, 1, 0] = 1.0
    x_adv = sparse_pgd(model, CLEAN, torch.tensor([0]), L0(1), steps=0, start=start)
    assert torch.equal(x_adv, start)
