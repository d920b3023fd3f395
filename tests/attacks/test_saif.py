"""SAIF step by step, driven through the public function: the vectors of the fact sheet, and its invariants."""

from __future__ import annotations

import math

import pytest
import torch

from zeronorm import L0
from zeronorm.attacks import saif
from zeronorm.attacks import saif as module_function
from zeronorm.attacks.batch_under_attack import attacking
from zeronorm.projections import top_k

MODULE = __import__("sys").modules[module_function.__module__]
G = torch.tensor([0.2, 0.4, 1.0, 0.6], dtype=torch.float64)
CLEAN = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
UP = torch.ones(4, dtype=torch.float64)
LEFT = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)


class Linear:
    """Two classes, of which the other trails far behind: the log-odds are G x - lead.  Notes what it sees."""

    def __init__(self, lead=1000.0, g=G):
        self.lead, self.g, self.seen = lead, g, []

    def __call__(self, x):
        self.seen.append(x[0].detach().flatten().tolist())
        z = x.flatten(1) @ self.g - self.lead
        return torch.stack([torch.zeros_like(z), z], dim=1)


@pytest.fixture
def drawn(monkeypatch):
    """Every run begins at these values and this mask, by the step that draws them."""
    starts = {0: (UP, LEFT)}

    def _drawn(batch, of, draw):
        v, s = starts[draw]
        return v.expand(len(of), 1, -1).clone(), s.expand(len(of), -1).clone()

    monkeypatch.setattr(MODULE, "_drawn", _drawn)
    return starts


def attack(model, k=2, **options):
    return saif(model, CLEAN, torch.tensor([0]), L0(k), **options)


def close(a, b):
    return a == pytest.approx(b, abs=1e-9)


def changes(seen):
    return [2 * (v - 0.5) for v in seen]  # of pixels that go to 1: their mask


def test_the_mask_moves_towards_the_k_best_pixels(drawn):
    """From (1, 1, 0, 0) to (0, 0, 1, 1), by 1/2, then 1/(2 sqrt 2), ...: continuous, not binary."""
    model = Linear()
    attack(model, steps=4)
    clean, attempt, iterate, *rest = model.seen
    assert close(clean, [0.5] * 4)
    assert close(changes(attempt), [1, 1, 0, 0]) and close(changes(iterate), [1, 1, 0, 0])
    s = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    for t, iterate in enumerate(rest[1::2], start=1):
        s += (torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64) - s) / (2 * math.sqrt(t))
        assert close(changes(iterate), s.tolist())
        assert t > 1 or close(changes(iterate), [0.5] * 4)


def test_attempts_are_the_k_largest_at_full_magnitude(drawn):
    model = Linear()
    attack(model, steps=4)
    attempts = [changes(seen) for seen in model.seen[1::2]]
    assert close(attempts[0], [1, 1, 0, 0])
    assert close(attempts[1], [1, 1, 0, 0])  # all of 1/2: the first
    assert all(close(attempt, [0, 0, 1, 1]) for attempt in attempts[2:])


@pytest.mark.parametrize(
    ("k", "slope", "s"),
    [
        (2, [0.1, -0.2, 0.5, 0.3], [0.0, 0.0, 1.0, 1.0]),
        (3, [0.1, -0.2, 0.5, 0.3], [1.0, 0.0, 1.0, 1.0]),
        (4, [0.1, -0.2, 0.5, 0.3], [1.0, 0.0, 1.0, 1.0]),  # what promises nothing is not asked for
        (2, [0.1, 0.0, -0.5, -0.3], [1.0, 0.0, 0.0, 0.0]),
    ],
)
def test_vertices(k, slope, s):
    """Where the linearised objective is largest: by hand, and no other vertex is better."""
    change = torch.tensor([[[0.5, -0.25, 0.5, -0.25]]], dtype=torch.float64)
    slope = torch.tensor(slope, dtype=torch.float64)
    g = slope / change
    y = torch.tensor([0])
    with attacking("saif", Linear(), CLEAN, y, L0(k), targeted=None, seed=0, ids=None) as batch:
        v_best, s_best = MODULE._vertices(batch, g, batch.x + change)
    assert s_best.tolist() == [s]
    up = torch.where(g > 0, 1.0, torch.where(g < 0, 0.0, batch.x + change))
    assert torch.equal(v_best, up)
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 4)
    every = every[every.sum(1) <= k]
    assert float(s_best @ slope) == pytest.approx(float((every @ slope).max()))


class Bumpy(Linear):
    """Log-odds that fall where the gradient says they rise."""

    def __call__(self, x):
        self.seen.append(x[0].detach().flatten().tolist())
        score = x.flatten(1) @ G
        z = score - 2 * (score.detach() - 1.1).abs().mul(20).floor() / 20 - 1000
        return torch.stack([torch.zeros_like(z), z], dim=1)


def test_the_objective_never_falls_and_runs_begin_anew(drawn, monkeypatch):
    """A step that would lower the loss is refused; after so many, values and mask are drawn again."""
    draws = []

    def _drawn(batch, of, draw):
        draws.append(draw)
        return UP.expand(len(of), 1, -1).clone(), LEFT.expand(len(of), -1).clone()

    monkeypatch.setattr(MODULE, "_drawn", _drawn)
    model = Bumpy()
    attack(model, steps=12, halvings=2)
    score = [float(torch.tensor(seen, dtype=torch.float64) @ G) for seen in model.seen[2::2]]
    loss = [s - 2 * math.floor(abs(s - 1.1) * 20) / 20 for s in score]
    assert draws[0] == 0 and len(draws) > 1
    # one is taken, three are refused (r = 1, 2, 3), and the run begins anew
    assert draws[:3] == [0, 4, 8]
    for start in draws[:2]:
        assert all(refused < loss[start] for refused in loss[start + 1 : start + 4])
        assert close(score[start], score[0])
        # halves of the way: what is refused comes nearer
        way = [abs(s - score[start]) for s in score[start + 1 : start + 4]]
        assert way[0] > way[1] > way[2]


def test_passes_are_as_many_as_promised(drawn):
    for steps in (0, 1, 7):
        model = Linear()
        attack(model, steps=steps)
        assert len(model.seen) == 1 + 2 * steps + 1


@pytest.mark.parametrize("unit", ["pixel", "feature"])
def test_invariants_of_every_step(monkeypatch, unit):
    """0 <= s <= 1 and Σ s <= k, whatever the model; the iterate is in the box."""
    masks, elsewhere = [], []

    def watched(scores, k):
        if not elsewhere:
            masks.append(scores.clone())
        return top_k(scores, k)

    def apart(function):
        def called(*arguments):
            elsewhere.append(function)
            result = function(*arguments)
            elsewhere.pop()
            return result

        return called

    for name in ("_vertices", "_drawn"):
        monkeypatch.setattr(MODULE, name, apart(getattr(MODULE, name)))
    monkeypatch.setattr(MODULE, "top_k", watched)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(48, 20, generator=generator, dtype=torch.float64)
    out = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    seen = []

    def model(x):
        seen.append(x.detach().clone())
        z = (x.flatten(1) @ hidden).tanh() @ out
        return torch.cat([z[:, :1] + 100, z[:, 1:]], dim=1)

    x = torch.rand(8, 3, 4, 4, generator=generator, dtype=torch.float64)
    saif(model, x, torch.zeros(8, dtype=torch.int64), L0(3, unit=unit), steps=40)
    assert len(masks) == 41 and len(seen) == 1 + 81
    masks = torch.stack(masks)
    assert masks.min() >= 0 and masks.max() <= 1 + 1e-12 and masks.sum(2).max() <= 3 + 1e-9
    assert ((masks > 0) & (masks < 1)).any(), "not made binary on the way"
    assert all(((v >= 0) & (v <= 1)).all() for v in seen)
