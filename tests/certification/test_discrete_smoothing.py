"""Lee et al. 2019: the sheet's vectors, the worst case by enumeration, and the noise."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zeronorm.certification import (
    ABSTAIN,
    UNBOUNDED,
    discrete_noise,
    discrete_smoothing_radius,
    information_left,
    lower_bound,
    share_touched,
    vote_threshold,
)
from zeronorm.errors import ArgumentError


def test_threshold_vectors():
    assert vote_threshold(1, 0.1, 256) == Fraction(507, 850)
    assert [round(float(vote_threshold(r, 0.1, 256)), 7) for r in (2, 3, 4)] == [
        0.6829536,
        0.7605512,
        0.8302373,
    ]
    assert [float(vote_threshold(r, 0.8, 2)) for r in (1, 2, 3, 4)] == [0.875, 0.96875, 0.9921875, 0.99275]
    assert vote_threshold(0, 0.3, 5) == Fraction(1, 2)


def test_the_papers_comparison():
    # how much more ablation may retain at the threshold of one changed coordinate, and what it tells
    room = float(vote_threshold(1, 0.1, 256)) - 0.5
    d = 150_528
    touched = [share_touched(d, k)[1] for k in (14_521, 14_522)]
    assert touched[0] < room < touched[1]
    assert information_left(d, 256, retained=14_521) == 116_168
    assert information_left(d, 256, keep=0.1) == pytest.approx(50_590.4006, abs=1e-4)
    assert information_left(10, 2, keep=1.0) == 10 and information_left(10, 2, keep=0.5) == 0


def by_enumeration(r: int, kappa: Fraction, levels: int) -> Fraction:
    """The threshold from every single outcome of r coordinates: Neyman & Pearson by hand."""
    beta = (1 - kappa) / (levels - 1)
    masses = []
    for outcome in itertools.product(range(levels), repeat=r):  # x is all 0, x' all 1
        here, there = Fraction(1), Fraction(1)
        for value in outcome:
            here *= kappa if value == 0 else beta
            there *= kappa if value == 1 else beta
        masses.append((here, there))
    masses.sort(key=lambda m: m[0] / m[1] if m[1] else Fraction(10**9), reverse=True)
    share, left = Fraction(0), Fraction(1, 2)
    for here, there in masses:
        if there >= left:
            return share + here * left / there
        share, left = share + here, left - there
    return Fraction(2)


@pytest.mark.parametrize(("levels", "most"), [(2, 5), (3, 4), (4, 3)])
@pytest.mark.parametrize("kappa", [Fraction(1, 10), Fraction(2, 5), Fraction(9, 10)])
def test_threshold_by_enumeration(levels, most, kappa):
    for r in range(most + 1):
        assert vote_threshold(r, kappa, levels) == by_enumeration(r, kappa, levels)


@given(st.integers(1, 50), st.data(), st.sampled_from([(0.1, 256), (0.8, 2), (0.05, 3), (0.6, 4)]))
def test_radius_is_the_last_threshold_passed(n, data, noise):
    keep, levels = noise
    count = data.draw(st.integers(0, n))
    bound = Fraction(float(lower_bound(count, n)))
    radius = discrete_smoothing_radius(count, n, levels, keep, most=20)
    if radius == ABSTAIN:
        assert bound <= Fraction(1, 2)
    else:
        assert bound > vote_threshold(radius, keep, levels)
        assert radius == 20 or bound <= vote_threshold(radius + 1, keep, levels)


def test_noise_that_keeps_nothing_certifies_everything():
    assert discrete_smoothing_radius([50, 100], 100, 4, 0.25).tolist() == [ABSTAIN, UNBOUNDED]


def test_noise_has_its_distribution_and_is_blind_to_the_batch():
    x = torch.tensor([0.0, 1 / 3, 2 / 3, 1.0]).repeat(2, 500)
    noisy = discrete_noise(x, 4, 0.7, seed=3)
    value, kept = (noisy * 3).round().long(), (x * 3).round().long()
    assert torch.allclose(noisy * 3, value.float(), atol=1e-6)
    assert float((value == kept).float().mean()) == pytest.approx(0.7, abs=0.03)
    moved = (value - kept)[value != kept] % 4
    assert np.bincount(moved, minlength=4)[1:].min() > len(moved) / 3 * 0.8
    alone = discrete_noise(x[1:], 4, 0.7, seed=3, ids=torch.tensor([1]))
    assert torch.equal(alone, noisy[1:])
    assert not torch.equal(discrete_noise(x, 4, 0.7, seed=3, draw=1), noisy)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: vote_threshold(1, 1.5, 4), "keep: expected a number in"),
        (lambda: vote_threshold(1, 0.5, 1), "levels: expected an integer of at least 2, got 1"),
        (lambda: vote_threshold(-1, 0.5, 2), "changed: expected an integer of at least 0, got -1"),
        (lambda: information_left(4, 2), "retained, keep: expected one of the two"),
        (lambda: information_left(4, 2, retained=5), "retained: expected an integer between 0 and 4, got 5"),
    ],
)
def test_refusals(call, says):
    with pytest.raises(ArgumentError, match=says):
        call()
