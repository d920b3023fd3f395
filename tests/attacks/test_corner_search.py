"""CornerSearch: every corner of every pixel, orderings by hand, and combinations that the orderings do not show."""

from __future__ import annotations

import pytest
import torch
from brute_force import fewest_changes
from small_problems import BOXES, KINDS, inputs, network, predictions, problem, threat_model

from zeronorm import L0, ArgumentError
from zeronorm.attacks import corner_search
from zeronorm.attacks.corner_search import _Corners, ranks
from zeronorm.attacks.minimal_search import searching_minimal
from zeronorm.evaluation.query_counter import QueryCounter
from zeronorm.seeding import Streams
from zeronorm.theory import minimal_changes


class Watched:
    """Two classes, of which the other has the score `score(x)`; notes all that it is shown."""

    differentiable = False

    def __init__(self, score):
        self.score, self.seen = score, []

    def __call__(self, x):
        self.seen.append(x.clone())
        z = self.score(x)
        return torch.stack([torch.zeros_like(z), z], dim=1)


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_ranks_have_the_published_probabilities(n):
    """P(r) = (2 (N - r) - 1) / N², exactly: each u of 0 .. N² - 1 once."""
    words = (torch.arange(n * n) * 2**31 + n * n - 1) // (n * n) << 33  # the smallest word that draws u
    counts = ranks(words[None], n)[0].bincount(minlength=n)
    assert counts.tolist() == [2 * (n - r) - 1 for r in range(n)]


def test_twenty_draws_of_a_hundred():
    """The fact sheet's expectation: 17.67 different ranks."""
    drawn = ranks(Streams(0, torch.arange(20_000), "test").bits(0, 20), 100).sort(1).values
    assert float(1 + (drawn.diff(dim=1) > 0).sum(1).double().mean()) == pytest.approx(17.67, abs=0.04)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_every_corner_of_every_pixel_once(channels):
    allowed = torch.tensor([1, 0, 1, 1, 0, 1]).bool()
    low, high = torch.full((channels, 1), -1.0), torch.arange(1.0, channels + 1)[:, None]
    threat = L0(1, low=low, high=high, allowed=allowed)
    x = torch.full((1, channels, 6), 0.25)
    model = Watched(lambda v: v.flatten(1).sum(1) - 1000)
    x_adv = corner_search(model, x, torch.tensor([0]), threat)
    assert torch.equal(x_adv, x)
    shown = torch.cat(model.seen[1:])
    assert len(shown) == len(shown.flatten(1).unique(dim=0)) == 4 * 2**channels
    changed = (shown != x).any(1)
    assert (changed.sum(1) == 1).all() and not changed[:, ~allowed].any()
    assert ((shown == x) | (shown == low) | (shown == high)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("box", BOXES)
def test_exact_at_one_pixel(kind, box):
    """Against all corners of all pixels, on a network."""
    threat = threat_model(box, kind, k=1)
    model = network("mlp", kind, torch.float64).eval()
    x = inputs(400, kind, threat, torch.float64)
    with torch.no_grad():
        lead = model(x).topk(2, dim=1).values.diff(dim=1).squeeze(1)
        x = x[lead.argsort(descending=True)[::10]]  # at the boundary, and ever farther from it
        y = predictions(model, x)
        best = [fewest_changes(model, x[i], y[i], threat, at_most=1) for i in range(len(x))]
    assert None in best and (1 in best or box == "cap")
    x_adv = corner_search(model, x, y, threat)
    assert threat.distance(x, x_adv).tolist() == [n or 0 for n in best]
    assert (predictions(model, x_adv) != y).tolist() == [n == 1 for n in best]


def test_many_classes_and_oblong_images():
    """The published code knows ten classes and square images."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(30, 3, 4, 7, generator=generator, dtype=torch.float64)
    bias = 4 * torch.randn(30, generator=generator, dtype=torch.float64)
    x = torch.rand(20, 3, 4, 7, generator=generator, dtype=torch.float64)

    def model(v):
        return v.flatten(1) @ weight.flatten(1).T + bias

    y = model(x).argmax(1)
    optimum, _ = minimal_changes(weight, bias, x, y, L0(None))
    x_adv = corner_search(model, x, y, L0(4), samples=1)
    found = (model(x_adv).argmax(1) != y).long() * L0(4).distance(x, x_adv)
    assert torch.equal(found, optimum.where(optimum <= 4, 0)) and set(found.tolist()) == {1, 2, 3}


def test_logits_far_below_zero():
    """The label's own logit is masked by -infinity; -1000, as published, would be the largest of these."""
    model, x, y, threat = problem("grey", k=3, n=12, dtype=torch.float64)
    model[3].weight.data.mul_(64).round_().div_(64)
    y = predictions(model, x)

    def lower(v):
        return model(v).mul(64).round() / 64 - 4096

    def plain(v):
        return model(v).mul(64).round() / 64

    x_adv = corner_search(plain, x, y, threat, queries=400)
    assert (x_adv != x).flatten(1).any(1).sum() > 4
    assert torch.equal(corner_search(lower, x, y, threat, queries=400), x_adv)


def test_the_best_changes_of_an_ordering_come_first_and_together():
    """Of two classes both orderings are that of the gains: its best two, three, four pixels."""
    weight = torch.tensor([0.1, -3.0, 0.2, 2.0, -0.4, 1.0, 0.3])
    x = torch.tensor([[0.5, 0.9, 0.5, 0.1, 0.5, 0.5, 0.0]])  # gains of 0.05, 2.7, 0.1, 1.8, 0.2, 0.5, 0.3
    model = Watched(lambda v: v @ weight - 1000)
    corner_search(model, x, torch.tensor([0]), L0(4), samples=1)
    assert len(model.seen[1]) == 14
    for n, shown in zip((2, 3, 4), model.seen[2:], strict=False):
        expected = x[0].clone()
        expected[torch.tensor([1, 3, 5, 6])[:n]] = torch.tensor([0.0, 1.0, 1.0, 1.0])[:n]
        assert torch.equal(shown, expected.expand(2, -1))


def test_combinations_that_no_ordering_shows():
    """Two pixels that help together only: alone eight others are better, and drawing finds them."""

    def score(v):
        return v @ torch.linspace(1.0, 0.0, 10) + 400 * (v[:, 8] - 0.5) * (v[:, 9] - 0.5) - 60

    x = torch.full((3, 10), 0.5)
    x_adv = corner_search(Watched(score), x, torch.zeros(3, dtype=torch.int64), L0(None))
    assert ((x_adv != x).long() == torch.tensor([0] * 8 + [1] * 2)).all()


@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_as_sparse_as_any_corners(kind):
    """All supports of up to three pixels, on a network."""
    model, x, y, _ = problem(kind, n=8, dtype=torch.float64)
    threat = L0(2 if kind == "colour" else 3)
    with torch.no_grad():
        best = [fewest_changes(model, x[i], y[i], threat, at_most=threat.k) or 0 for i in range(8)]
    assert len(set(best)) > 2
    x_adv = corner_search(model, x, y, threat)
    assert threat.distance(x, x_adv).tolist() == best


def test_of_several_changes_of_one_pixel_the_last_stays():
    model = Watched(lambda v: v.flatten(1).sum(1) - 1000)
    x, y = torch.full((2, 2, 3), 0.5), torch.zeros(2, dtype=torch.int64)
    with searching_minimal("test", model, x, y, L0(None), targeted=None, seed=0, ids=None) as minimal:
        corners = _Corners(minimal, 1024)
        # an entry is pixel * 4 + colour, a colour is red + 2 green
        entries = torch.tensor([[[1, 6, 2], [9, 9, 11]], [[0, 8, 0], [3, 4, 1]]])
        shown = corners._inputs(torch.tensor([1, 0]), entries)
    expected = [
        [[0.0, 0.0, 0.5], [1.0, 1.0, 0.5]],
        [[0.5, 0.5, 1.0], [0.5, 0.5, 1.0]],
        [[0.0, 0.5, 0.0], [0.0, 0.5, 0.0]],
        [[1.0, 0.0, 0.5], [0.0, 0.0, 0.5]],
    ]
    assert shown.tolist() == expected


@pytest.mark.parametrize("queries", [1, 2, 9, 50, 131, 700])
@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_never_asks_more_than_it_may(kind, queries):
    model, x, y, threat = problem(kind, "cap", k=4, n=6)
    counter = QueryCounter(model, 6, x.device)
    corner_search(counter, x, y, threat, queries=queries)
    asked = counter.forwards - 1
    assert (asked <= queries).all()
    hold = (asked > 0).nonzero().flatten()
    assert len(hold) > 0 and (asked[hold] >= 0.7 * queries).all(), "and makes use of them"


def test_without_a_limit_it_asks_as_often_as_published():
    """H W 2^C + classes N_iter (k - 1) times, and once for each number of pixels and class before that."""
    x, y = torch.full((1, 1, 4, 4), 0.5), torch.tensor([0])
    counter = QueryCounter(Watched(lambda v: v.flatten(1).sum(1) - 1000), 1, x.device)
    corner_search(counter, x, y, L0(4), samples=200)
    assert int(counter.forwards) == 1 + 16 * 2 + 2 * 3 + 2 * 200 * 3


def test_what_one_pass_holds_does_not_matter():
    model, x, y, threat = problem("colour", k=3, n=8, dtype=torch.float64)
    expected = corner_search(model, x, y, threat, queries=900)
    for pass_size in (1, 500, 10_000):
        assert torch.equal(corner_search(model, x, y, threat, queries=900, pass_size=pass_size), expected)

    sizes = []

    def watched(v):
        sizes.append(len(v))
        return model(v)

    corner_search(watched, x, y, threat, queries=900, pass_size=256)
    assert max(sizes) == 256


def test_too_many_channels():
    x = torch.rand(2, 9, 5)
    with pytest.raises(ArgumentError, match=r"^x: corner_search tries all .* at most 8 channels, got 9"):
        corner_search(lambda v: v.flatten(1)[:, :3], x, torch.tensor([0, 1]), L0(1))
