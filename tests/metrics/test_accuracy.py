"""Shares and their intervals."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeronorm import ArgumentError
from zeronorm.metrics import interval, robust_accuracy

DISTANCES = st.lists(st.integers(0, 12) | st.just(math.inf), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (0, 1, 0.0, 0.975),  # 1 - 0.025
        (1, 1, 0.025, 1.0),
        (0, 10, 0.0, 1 - 0.025**0.1),
        (10, 10, 0.025**0.1, 1.0),
        (1, 2, 1 - math.sqrt(0.975), math.sqrt(0.975)),  # (1-p)² = 0.975 and p² = 0.975
    ],
)
def test_interval_by_hand(successes, n, low, high):
    assert interval(successes, n) == pytest.approx((low, high), abs=1e-12)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_is_where_the_binomial_tails_are_half_of_what_is_allowed(case):
    successes, n = case
    low, high = interval(successes, n, 0.9)

    def at_least(p: float) -> float:  # the slow twin: exact sums
        q = Fraction(p)
        return float(sum(math.comb(n, i) * q**i * (1 - q) ** (n - i) for i in range(successes, n + 1)))

    def at_most(p: float) -> float:
        q = Fraction(p)
        return float(sum(math.comb(n, i) * q**i * (1 - q) ** (n - i) for i in range(successes + 1)))

    assert 0 <= low <= successes / n <= high <= 1
    assert low == 0 if successes == 0 else at_least(low) == pytest.approx(0.05, rel=1e-6)
    assert high == 1 if successes == n else at_most(high) == pytest.approx(0.05, rel=1e-6)


def test_interval_without_examples_says_nothing():
    assert interval(0, 0) == (0.0, 1.0)


def test_interval_takes_numpy_integers():
    assert interval(np.int64(3), np.int64(9)) == interval(3, 9)


@pytest.mark.parametrize("truth", [0.02, 0.5, 0.93])
def test_interval_covers(truth):
    drawn = np.random.default_rng(0).binomial(80, truth, 4000)
    bounds = np.array([interval(s, 80) for s in range(81)])[drawn]
    covered = (bounds[:, 0] <= truth) & (truth <= bounds[:, 1])
    assert covered.mean() >= 0.945  # at least 0.95, less the error of 4000 draws


def test_robust_accuracy_by_hand():
    shares = robust_accuracy([0, 1, 1, 3, math.inf], [0, 1, 2, 3, 100])
    assert shares.tolist() == [0.8, 0.4, 0.4, 0.2, 0.2]


@given(DISTANCES, st.lists(st.integers(0, 15), max_size=8))
def test_robust_accuracy_is_the_share_above_each_budget(smallest, budgets):
    expected = [sum(d > k for d in smallest) / len(smallest) for k in budgets]
    assert robust_accuracy(np.array(smallest, dtype=float), budgets).tolist() == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interval(3, 2), "successes: expected an integer between 0 and 2, got 3"),
        (lambda: interval(0, -1), "n: expected an integer of at least 0, got -1"),
        (lambda: interval(1, 2, 1.0), "confidence: expected a number between 0 and 1, got 1.0"),
        (lambda: robust_accuracy([], [1]), "smallest: expected one distance per example, at least one"),
        (lambda: robust_accuracy([1, math.nan], [1]), "smallest: expected distances of at least 0, got nan"),
        (lambda: robust_accuracy([1], [-1]), "budgets: expected a list of integers of at least 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        call()
