"""Radii from votes: the sheet's vectors, a twin in rationals, and attacks by brute force on tiny images."""

from __future__ import annotations

import itertools
from fractions import Fraction
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zeronorm.certification import (
    ABSTAIN,
    UNBOUNDED,
    ablation_radius,
    ablation_radius_by_margin,
    ablation_radius_in_top,
    share_touched,
)
from zeronorm.errors import ArgumentError


def touched(d: int, k: int, changed: int) -> Fraction:
    return 1 - Fraction(comb(d - changed, k), comb(d, k))


def tail(successes: int, n: int, p: Fraction) -> Fraction:
    return sum((comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(successes, n + 1)), Fraction(0))


def exact_radius(count: int, n: int, d: int, k: int, alpha: Fraction) -> int:
    """Corollary 1 without an inverse: p > 1/2 + Δ exactly if so many votes are unlikely enough at 1/2 + Δ."""
    radius = ABSTAIN
    for changed in range(d + 1):
        p = Fraction(1, 2) + touched(d, k, changed)
        if p >= 1 or tail(count, n, p) >= alpha:
            break
        radius = changed
    return radius


def test_share_touched_vectors():
    np.testing.assert_allclose(share_touched(5, 3), [0, 0.6, 0.9, 1, 1, 1], atol=1e-15)
    expected = [
        0.05739796, 0.11157049, 0.16269495, 0.21093916, 0.25646190, 0.29941340, 0.33993576, 0.37816342,
        0.41422353, 0.44823635, 0.48031564,
    ]  # fmt: skip
    np.testing.assert_allclose(share_touched(784, 45)[1:12], expected, atol=6e-9)
    assert share_touched(50176, 1000)[16] == pytest.approx(0.2754080754, abs=1e-10)
    assert share_touched(1024, 75)[7] == pytest.approx(0.41378517, abs=5e-9)


@given(st.integers(1, 40), st.data())
def test_share_touched_is_rounded_up_and_no_further(d, data):
    k = data.draw(st.integers(1, d))
    for changed, share in enumerate(share_touched(d, k).tolist()):
        exact = touched(d, k, changed)
        assert exact <= Fraction(share) <= exact + Fraction(1, 10**15)


def test_radius_vectors():
    counts = [5082, 5083, 6000, 7000, 8000, 9000, 9500, 9900, 9990, 10000]
    expected = [ABSTAIN, 0, 1, 3, 5, 8, 9, 11, 11, 11]
    assert ablation_radius(counts, 10_000, 784, 45).tolist() == expected
    for at_least, pixels, retained in (
        ([5083, 5657, 6197, 6706, 7185, 7636, 8061, 8460, 8836, 9189, 9520, 9827], 784, 45),
        ([5083, 5815, 6492, 7118, 7698, 8233, 8728, 9185, 9604, 9981], 1024, 75),
    ):
        for radius, votes in enumerate(at_least):
            below = ABSTAIN if radius == 0 else radius - 1
            assert ablation_radius([votes - 1, votes], 10_000, pixels, retained).tolist() == [below, radius]


@pytest.mark.parametrize(
    ("pixels", "retained", "ceiling"),
    [
        (784, 5, 101), (784, 40, 13), (784, 45, 11), (784, 100, 5), (1024, 75, 9), (1024, 150, 4),
        (50176, 500, 69), (50176, 1000, 34), (50176, 2000, 17),
    ],
)  # fmt: skip
def test_ceilings(pixels, retained, ceiling):
    assert ablation_radius(10_000, 10_000, pixels, retained) == ceiling


@settings(max_examples=60)
@given(st.integers(2, 40), st.integers(1, 30), st.data())
def test_the_rational_twin_agrees(n, d, data):
    k = data.draw(st.integers(1, d))
    count = data.draw(st.integers(0, n))
    assert ablation_radius(count, n, d, k, 0.05) == exact_radius(count, n, d, k, Fraction("0.05"))


def test_shapes_and_types():
    assert isinstance(ablation_radius(90, 100, 64, 8), int)
    of_tensor = ablation_radius(torch.tensor([[90, 10]]), 100, 64, 8)
    assert of_tensor.dtype == np.int64 and of_tensor.shape == (1, 2) and of_tensor[0, 1] == ABSTAIN
    assert ablation_radius(np.zeros(0, np.int64), 100, 64, 8).shape == (0,)
    assert ablation_radius_by_margin(np.zeros((0, 3), np.int64), 64, 8).shape == (0,)
    # all pixels are seen: nothing is certified beyond the answer itself
    assert ablation_radius(100, 100, 64, 64) == 0


MARGINS = [
    ([7000, 2500, 500], 4, 3),
    ([9000, 500, 500], 9, 8),
    ([6000, *[500] * 7, 250, 250], 5, 1),
    ([4800, *[1000] * 3, 700, 700, 400, 200, 100, 100], 3, ABSTAIN),
]


@pytest.mark.parametrize(("counts", "by_margin", "by_half"), MARGINS)
def test_margin_vectors(counts, by_margin, by_half):
    assert ablation_radius_by_margin([counts], 784, 45).tolist() == [by_margin]
    assert ablation_radius(counts[0], 10_000, 784, 45) == by_half
    assert ablation_radius_in_top([counts], 784, 45)[0] >= by_margin


votes = st.lists(st.integers(0, 60), min_size=2, max_size=6).filter(lambda c: sum(c) > 0)


@given(votes, st.integers(1, 50), st.data())
def test_in_top_is_never_below_the_margin_and_grows_with_top(counts, d, data):
    k = data.draw(st.integers(1, d))
    radii = [ablation_radius_in_top([counts], d, k, top=t)[0] for t in range(1, len(counts) + 1)]
    assert radii[0] >= ablation_radius_by_margin([counts], d, k)[0]
    assert radii == sorted(radii) and radii[-1] == UNBOUNDED


def brute_top_radius(truth: list[list[int]], d: int, k: int, label: int, top: int) -> int:
    """Of a classifier known in full, the radius against any change, by trying all sets of changed pixels.

    `truth` names the class of each subset.  On subsets that hold a changed pixel the adversary chooses freely; the
    worst it can do is all to rivals, dealt out evenly among any `top` of them.
    """
    subsets = list(itertools.combinations(range(d), k))
    classes = 1 + max(map(max, truth))
    radius = ABSTAIN
    for changed in range(d + 1):
        for where in itertools.combinations(range(d), changed):
            votes, free = [0] * classes, 0
            for subset, (cls,) in zip(subsets, truth, strict=True):
                if set(subset) & set(where):
                    free += 1
                else:
                    votes[cls] += 1
            for rivals in itertools.combinations([c for c in range(classes) if c != label], top):
                needed = sum(max(votes[label] - votes[c], 0) for c in rivals)
                if needed <= free:  # equal votes count as overtaken
                    return radius
        radius = changed
    return UNBOUNDED


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 6), st.data())
def test_certificates_hold_for_classifiers_known_in_full(d, data):
    k = data.draw(st.integers(1, 2))
    m = comb(d, k)
    truth = [[data.draw(st.sampled_from([0, 0, 0, 1, 2, 3]))] for _ in range(m - 1)] + [[3]]
    # many voters, drawn in the very proportions: the bounds are then close to the truth, and below it
    counts = np.bincount([cls for (cls,) in truth], minlength=4) * 10**6
    for top in (1, 2):
        certified = ablation_radius_in_top([counts], d, k, label=[0], top=top, failure_probability=0.05)[0]
        assert certified <= brute_top_radius(truth, d, k, 0, top)
    assert ablation_radius(int(counts[0]), int(counts.sum()), d, k) <= brute_top_radius(truth, d, k, 0, 1)


def test_in_top_is_tight_where_the_adversary_can_do_its_worst():
    # one class holds all subsets: changing c pixels frees those that hold one of them
    for d, k in ((8, 2), (9, 1)):
        counts = np.array([[comb(d, k), 0, 0]]) * 10**8
        truth = [[0]] * (comb(d, k) - 1) + [[2]]
        brute = brute_top_radius(truth, d, k, 0, 1)
        assert ablation_radius_in_top(counts, d, k)[0] in (brute, brute + 1)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ablation_radius(5, 10, 4, 5), "retained: expected an integer between 1 and 4, got 5"),
        (lambda: ablation_radius(5, 10, 0, 1), "pixels: expected an integer of at least 1, got 0"),
        (lambda: ablation_radius(50, 10, 4, 2), "counts: expected between 0 and n = 10 votes, got 50"),
        (lambda: ablation_radius(5, 10, 4, 2, 0.0), "failure_probability: expected a number between 0 and 1"),
        (lambda: ablation_radius_in_top([[5, 4], [5, 5]], 4, 2), "counts: expected 9 votes for each example, got 10"),
        (lambda: ablation_radius_in_top([[5, 4]], 4, 2, label=[2]), "label: expected classes between 0 and 1"),
        (lambda: ablation_radius_in_top([[5, 4]], 4, 2, label=[0, 1]), "label: expected 1 classes"),
        (lambda: ablation_radius_in_top([[5, 4]], 4, 2, top=0), "top: expected an integer of at least 1, got 0"),
        (lambda: ablation_radius_by_margin([5, 4], 4, 2), "counts: expected integers"),
    ],
)  # fmt: skip
def test_refusals(call, says):
    with pytest.raises(ArgumentError, match=says):
        call()
