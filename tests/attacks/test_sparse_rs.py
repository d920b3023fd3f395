"""Sparse-RS, query by query: what it exchanges, with which colours, and how often it asks."""

from __future__ import annotations

import pytest
import torch

from zeronorm import L0
from zeronorm.attacks import sparse_rs
from zeronorm.attacks.sparse_rs import exchanged

VECTORS = [
    (20, 0.8, 10_000, [(1, 8), (51, 4), (201, 3), (501, 2), (2001, 1)]),
    (10, 0.8, 10_000, [(1, 4), (51, 2), (201, 1)]),
    (12, 0.8, 500, [(1, 4), (3, 2), (11, 1)]),
    (10, 0.8, 300, [(1, 4), (2, 2), (7, 1)]),
    (150, 0.3, 10_000, [(1, 22), (51, 11), (201, 9), (501, 7), (1001, 5), (2001, 4), (4001, 3), (8001, 2)]),
    (
        200,
        0.3,
        3000,
        [(1, 30), (16, 15), (61, 12), (151, 10), (301, 7), (601, 6), (1201, 5), (1801, 4), (2401, 3)],
    ),
]


@pytest.mark.parametrize(("k", "fraction", "queries", "changes"), VECTORS)
def test_the_schedule_of_the_fact_sheet(k, fraction, queries, changes):
    sizes = [exchanged(i, queries, k, fraction) for i in range(1, queries)]
    found = [(i + 1, size) for i, size in enumerate(sizes) if i == 0 or size != sizes[i - 1]]
    assert found == changes


class Watched:
    """A linear model that no one breaks, which notes what one example is shown and how it scores."""

    differentiable = False

    def __init__(self, pixels, channels, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(channels, pixels, generator=generator, dtype=torch.float64)
        self.seen, self.rows = [], 0

    def __call__(self, x):
        assert len(x) > 0, "never asked about nobody"
        self.seen.append(x[0].clone())
        self.rows += len(x)
        z = (x * self.weight).flatten(1).sum(1) - 1000
        return torch.stack([torch.zeros_like(z), z], dim=1)


@pytest.mark.parametrize(
    ("k", "pixels", "channels"), [(1, 6, 1), (3, 20, 1), (6, 30, 3), (6, 8, 2), (5, 5, 1)]
)
@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_every_query_is_a_legal_move(k, pixels, channels, loss):
    """From the best so far, exactly as many pixels move as the schedule says; the others keep their colours."""
    model, queries = Watched(pixels, channels), 200
    x = torch.full((1, channels, pixels), 0.5, dtype=torch.float64)  # every corner colour shows
    result = sparse_rs(model, x, torch.tensor([0]), L0(k), queries=queries, loss=loss)
    clean, best, *candidates = model.seen
    assert torch.equal(clean, x[0]) and len(candidates) == queries - 1

    def pixels_of(v):
        return set((v != x[0]).any(0).nonzero().flatten().tolist())

    accepted = 0
    for i, candidate in enumerate(candidates, start=1):
        assert set(candidate.unique().tolist()) <= {0.0, 0.5, 1.0}
        before, after = pixels_of(best), pixels_of(candidate)
        assert len(before) == len(after) == k
        moved = exchanged(i, queries, k, 0.8)
        if k < pixels:
            assert len(after - before) == min(moved, pixels - k)
        else:
            assert int((candidate != best).any(0).sum()) <= moved
        for pixel in before & after if k < pixels else ():
            assert torch.equal(candidate[:, pixel], best[:, pixel])
        if (candidate * model.weight).sum() > (best * model.weight).sum():
            best, accepted = candidate, accepted + 1
    assert accepted > 0
    assert torch.equal(result[0], best)


def test_a_tie_is_no_improvement():
    """Where nothing matters, every candidate is one move away from the first."""
    model = Watched(30, 1)
    model.weight.zero_()
    x = torch.full((1, 1, 30), 0.5, dtype=torch.float64)
    sparse_rs(model, x, torch.tensor([0]), L0(4), queries=100)
    first = model.seen[1] != x[0]
    for i, candidate in enumerate(model.seen[2:], start=1):
        assert int((first & (candidate != x[0])).sum()) == 4 - exchanged(i, 100, 4, 0.8)


def test_moves_keep_to_the_pixels_allowed():
    allowed = torch.arange(20) % 2 == 0
    model = Watched(20, 1)
    x = torch.full((1, 1, 20), 0.5, dtype=torch.float64)
    sparse_rs(model, x, torch.tensor([0]), L0(4, allowed=allowed), queries=60)
    for shown in model.seen:
        assert not (shown != 0.5)[0, ~allowed].any()
    assert (torch.stack(model.seen) != 0.5).any(0)[0, allowed].all(), "all of them are tried"


@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("queries", [1, 2, 50])
def test_asks_as_often_as_promised(queries, restarts):
    model = Watched(20, 1)
    x = torch.full((5, 1, 20), 0.5, dtype=torch.float64)
    sparse_rs(model, x, torch.zeros(5, dtype=torch.int64), L0(3), queries=queries, restarts=restarts)
    assert len(model.seen) == 1 + queries * restarts
    assert model.rows == 5 * (1 + queries * restarts), "a model that is only called is asked for no filling"


def test_stops_asking_once_broken():
    """The linear model is broken by any two bright pixels: found within a few queries, and then left alone."""
    model = Watched(20, 1)
    model.weight = torch.ones(1, 20, dtype=torch.float64)
    calls = []

    def weak(x):
        calls.append(len(x))
        return model(x) + torch.tensor([0.0, 1000 - 10.6])

    weak.differentiable = False
    x = torch.full((16, 1, 20), 0.5, dtype=torch.float64)
    sparse_rs(weak, x, torch.zeros(16, dtype=torch.int64), L0(2), queries=1000)
    assert calls[0] == 16 and sorted(calls, reverse=True) == calls and len(calls) < 60


def test_restarts_search_anew():
    model = Watched(30, 1)
    x = torch.full((1, 1, 30), 0.5, dtype=torch.float64)
    sparse_rs(model, x, torch.tensor([0]), L0(3), queries=5, restarts=4)
    first = [model.seen[1 + 5 * restart] for restart in range(4)]
    assert len({tuple(v.flatten().tolist()) for v in first}) == 4


def test_starts_from_what_is_given():
    model = Watched(20, 2)
    x = torch.full((1, 2, 20), 0.5, dtype=torch.float64)
    start = x.clone()
    start[0, :, [3, 8]] = torch.tensor([[0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    sparse_rs(model, x, torch.tensor([0]), L0(2), queries=2, start=start)
    assert torch.equal(model.seen[1], start[0])
    sparse_rs(wider := Watched(20, 2), x, torch.tensor([0]), L0(5), queries=2, start=start)
    shown = wider.seen[1]
    assert torch.equal(shown[:, [3, 8]], start[0][:, [3, 8]]) and int((shown != 0.5).any(0).sum()) == 5
