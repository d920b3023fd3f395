"""Guided exchange on a linear model, where what each exchange brings is known."""

from __future__ import annotations

import pytest
import torch

from zeronorm import L0
from zeronorm.attacks import guided_exchange

WEIGHT = torch.tensor([0.1, -3.0, 0.5, 2.0, -0.2, 1.0], dtype=torch.float64)


class Linear:
    """A score that no one may raise enough, which notes what one example is shown; `passes` counts backward ones."""

    def __init__(self, weight=WEIGHT, lead=1000.0):
        self.weight, self.lead, self.seen, self.passes = weight, lead, [], 0

    def __call__(self, x):
        self.seen.append(x[0].detach().flatten().clone())
        z = (x * self.weight.view(1, *x.shape[1:])).flatten(1).sum(1) - self.lead
        z = torch.stack([torch.zeros_like(z), z], dim=1)
        if z.requires_grad:
            z.register_hook(lambda _: setattr(self, "passes", self.passes + 1))
        return z


CLEAN = torch.full((1, 6), 0.5, dtype=torch.float64)


def search(model, x=CLEAN, k=2, **options):
    return guided_exchange(model, x, torch.zeros(len(x), dtype=torch.int64), L0(k), **options)


def test_without_noise_the_steepest_exchanges_come_first():
    """k=2 of a linear score: pixel 1 to its low end gains 1.5, pixel 3 to its high end 1.0; then nothing is left."""
    model = Linear()
    result = search(model, steps=6, temperature=0.0)
    clean, untouched, first, kept, second, *rest = model.seen
    assert torch.equal(clean, CLEAN[0]) and torch.equal(untouched, CLEAN[0])
    assert (first - 0.5).tolist() == [0, -0.5, 0, 0, 0, 0]
    assert torch.equal(kept, first), "for its gradient"
    assert (second - 0.5).tolist() == [0, -0.5, 0, 0.5, 0, 0]
    best = (torch.stack(model.seen) @ WEIGHT).max()
    expected = pytest.approx((CLEAN[0] @ WEIGHT).item() + 2.5)
    assert (result[0] @ WEIGHT).item() == expected and best.item() == expected
    assert rest, "it goes on trying"


def test_a_gradient_is_taken_only_where_something_is_kept():
    model = Linear()
    search(model, steps=13, temperature=0.0)  # too few to start anew
    improvements = 0
    best = -torch.inf
    for shown in model.seen[1:]:
        value = float(shown @ WEIGHT)
        improvements += value > best
        best = max(best, value)
    # the starting point has one, every improvement another; each of these shows its iterate again
    assert model.passes == improvements
    assert len(model.seen) == 2 + 13 + (improvements - 1)


def test_after_all_pairs_in_vain_it_starts_anew():
    """k=1 of six pixels: one is kept, six are tried in vain, then the clean input is where it goes on from."""
    model = Linear()
    result = search(model, k=1, steps=40, temperature=0.0)
    shown = torch.stack(model.seen)
    kept, again = shown[2], (shown == CLEAN[0]).all(1).nonzero().flatten().tolist()
    assert torch.equal(result[0], kept), "the best of all is not forgotten"
    # clean and untouched; one kept and shown for its gradient, six in vain, the clean input; and so on
    assert again == [0, 1, 10, 19, 28, 37, 46][: len(again)] and len(again) >= 4
    assert model.passes == 1 + 2 * (len(again) - 2) + (len(shown) > again[-1] + 2)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_with_noise_every_pixel_is_tried(temperature):
    model = Linear()
    search(model, steps=400, temperature=temperature)
    assert (torch.stack(model.seen) != 0.5).any(0).all()


def test_every_iterate_changes_at_most_k_to_corners():
    model = Linear(torch.randn(3, 12, dtype=torch.float64))
    x = torch.rand(1, 3, 12, dtype=torch.float64)
    search(model, x, k=3, steps=60)
    for shown in model.seen:
        moved = shown.view(3, 12) != x[0]
        assert int(moved.any(0).sum()) <= 3
        assert set(shown.view(3, 12)[moved].tolist()) <= {0.0, 1.0}


def test_all_pixels_may_change():
    """With k of all pixels nothing leaves, and each goes to its best corner."""
    model = Linear()
    result = search(model, k=6, steps=60, temperature=0.3)
    assert torch.equal(result[0], (WEIGHT > 0).double())


def test_starts_from_what_is_given():
    start = CLEAN.clone()
    start[0, [0, 4]] = torch.tensor([1.0, 0.25], dtype=torch.float64)
    model = Linear()
    search(model, steps=0, start=start)
    assert torch.equal(model.seen[1], start[0])


def test_what_was_tried_in_vain_waits_until_all_else_was():
    """Without noise, where every pixel promises the same and none keeps it."""
    weight = torch.full((6,), 1.0, dtype=torch.float64)

    class Capped(Linear):
        """The gradient promises what the score does not keep."""

        def __call__(self, x):
            z = super().__call__(x)
            moved = (x.detach() != 0.5).flatten(1).sum(1, keepdim=True)
            return z - 9.0 * moved * torch.tensor([0.0, 1.0], dtype=z.dtype)

    model = Capped(weight)
    search(model, k=1, steps=6, temperature=0.0, penalty=10.0)
    tried = torch.stack([shown != 0.5 for shown in model.seen[2:]])
    assert tried.sum(0).tolist() == tried.sum(1).tolist() == [1] * 6
    model = Capped(weight)
    search(model, k=1, steps=6, temperature=0.0, penalty=0.0)
    tried = torch.stack([shown != 0.5 for shown in model.seen[2:]])
    assert tried[:, tried[0]].all(), "and without a penalty the same one for ever"


def test_goes_on_from_where_the_warm_up_has_come():
    """The best of sparse-PGD's iterates is where the exchanges begin; who it breaks is done."""
    options = {"seed": 3, "ids": torch.tensor([7])}
    model = Linear()
    search(model, steps=9, warm_up=5, **options)
    shown = torch.stack(model.seen)
    before, begin = shown[1:7], shown[7]  # six iterates of five steps, after the clean input
    assert torch.equal(begin, before[(before @ WEIGHT).argmax()])
    assert (shown @ WEIGHT).max().item() == pytest.approx((CLEAN[0] @ WEIGHT).item() + 2.5)
    easy = Linear(lead=float(CLEAN[0] @ WEIGHT) + 0.4)
    broken = search(easy, steps=50, warm_up=20, **options)
    assert easy(broken).argmax(1).item() == 1 and len(easy.seen) < 24
