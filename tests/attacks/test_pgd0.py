"""PGD₀ step by step, driven through the public function: iterates by hand."""

from __future__ import annotations

import pytest
import torch
from watched_models import CLEAN, G, Linear

from zeronorm import L0
from zeronorm.attacks import pgd0
from zeronorm.seeding import Streams


@pytest.fixture
def starts(monkeypatch):
    """The points of the unit box that runs begin at, by restart."""
    points = {0: torch.tensor([0.9, 0.1, 0.6, 0.55], dtype=torch.float64)}
    monkeypatch.setattr(Streams, "uniform", lambda self, step, n, dtype: points[step][None].clone())
    return points


def attack(model, k=1, **options):
    return pgd0(model, CLEAN, torch.tensor([0]), L0(k), **{"restarts": 1, **options})


def close(a, b):
    return a == pytest.approx(b, abs=1e-9)


def test_the_start_is_projected_and_tested(starts):
    model = Linear()
    attack(model, steps=0)
    assert close(model.seen[1], [0.9, 0.5, 0.5, 0.5])  # the first of two equal changes
    assert len(model.seen) == 2, "the clean input and this one"


def test_a_step_has_the_length_given_and_leaves_from_the_projected_iterate(starts):
    model = Linear()
    attack(model, steps=2, step_size=0.65)
    # 0.65 G / 6.5 = (0.1, -0.2, 0.3, 0.05) is added to (0.4, 0, 0, 0), then to (0.5, 0, 0, 0) of the box
    assert close(model.seen[2], [1.0, 0.5, 0.5, 0.5])
    assert close(model.seen[3], [1.0, 0.5, 0.5, 0.5])
    # a longer one: (0.6, -0.4, 0.6, 0.1) on the way, cut to (0.5, -0.4, 0.5, 0.1)
    model = Linear()
    attack(model, steps=1, step_size=1.3, k=2)
    assert close(model.seen[1], [0.9, 0.1, 0.5, 0.5])
    # on (0.4, -0.4, 0, 0), so (0.6, -0.8, 0.6, 0.1): cut, changes of 0.5 save 0.35, 0.55, 0.35 and 0.01
    assert close(model.seen[2], [1.0, 0.0, 0.5, 0.5])


def test_the_published_step_goes_to_the_end_of_the_box(starts):
    model = Linear()
    attack(model, k=4, steps=1)
    assert close(model.seen[2], [1.0, 0.0, 1.0, 1.0])


@pytest.mark.parametrize("restarts", [1, 2, 3])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_passes_are_as_many_as_promised(starts, steps, restarts):
    starts.update({i: torch.full((4,), i / 4, dtype=torch.float64) for i in (1, 2)})
    model = Linear()
    attack(model, steps=steps, restarts=restarts)
    assert len(model.seen) == 1 + restarts * (steps + 1)


def test_restarts_begin_at_points_of_their_own():
    model = Linear()
    pgd0(model, CLEAN, torch.tensor([0]), L0(4), steps=0, restarts=3)
    first, second, third = model.seen[1:]
    assert first != second != third != first


def test_the_last_iterate_is_tested(starts):
    lead = float(G @ CLEAN.flatten()) + 1.4  # pixel 2 adds up to 1.5: the start's 0.4 is not enough
    starts[0] = torch.full((4,), 0.5, dtype=torch.float64)
    assert attack(Linear(lead), steps=0).equal(CLEAN)
    x_adv = attack(Linear(lead), steps=1)
    assert close(x_adv.flatten().tolist(), [0.5, 0.5, 1.0, 0.5])


def test_who_holds_comes_back_as_the_best_attempt(starts):
    """Not clean, not black, and not the last: here the start is better than what follows."""

    def misleading(x):
        # the slope says up, all the way; the score falls beyond 0.9
        score = x.flatten(1)[:, 0]
        z = torch.where(score > 0.95, score - 50, score - 10)
        return torch.stack([torch.zeros_like(z), z], dim=1)

    x_adv = attack(misleading, steps=5)
    assert close(x_adv.flatten().tolist(), [0.9, 0.5, 0.5, 0.5])


def test_ties_keep_k_pixels_and_no_more():
    """Every change ends at the same corner, at the same gain: the published code keeps all nine."""

    def even(x):
        z = x.flatten(1).sum(1) - 1000
        return torch.stack([torch.zeros_like(z), z], dim=1)

    x = torch.full((2, 1, 3, 3), 0.5)
    x_adv = pgd0(even, x, torch.tensor([0, 0]), L0(4), steps=3, restarts=1)
    assert ((x_adv != x).flatten(1).sum(1) == 4).all()


def test_a_step_into_nothing_is_taken_back_and_halved(starts):
    starts[0] = torch.full((4,), 0.5, dtype=torch.float64)

    class Brittle(Linear):
        def __call__(self, x):
            z = super().__call__(x)
            return torch.where(x.flatten(1)[:, 2:3] > 0.7, torch.nan, z)

    model = Brittle()
    attack(model, steps=3, step_size=1.3)
    # pixel 2 moves by 0.6, cut to 0.5, which is nothing; by 0.3, nothing too; by 0.15, from the same place
    assert close([seen[2] for seen in model.seen[1:]], [0.5, 1.0, 0.8, 0.65])


def test_steps_are_measured_in_widths_of_the_box():
    """A model of scaled inputs, in a scaled box, is searched in the same way."""
    weight = torch.randn(3, 18, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight[0] += 1.0
    x = torch.rand(6, 2, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = (x.flatten(1) @ weight.T).argmax(1)
    options = {"steps": 5, "step_size": 0.5, "restarts": 2}
    x_adv = pgd0(lambda x: x.flatten(1) @ weight.T, x, y, L0(2), **options)
    scaled = pgd0(
        lambda x: (x / 4 - 1).flatten(1) @ weight.T, 4 + 4 * x, y, L0(2, low=4.0, high=8.0), **options
    )
    assert torch.allclose(scaled, 4 + 4 * x_adv, atol=1e-12)
