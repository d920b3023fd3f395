"""Bounds from counts: the sheet's vectors, the definition in rationals, and their coverage."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeronorm.certification import ABSTAIN, leading_class, lower_bound, upper_bound
from zeronorm.certification.confidence import ROUNDING
from zeronorm.errors import ArgumentError


def tail(successes: int, n: int, p: Fraction) -> Fraction:
    """P(Binomial(n, p) >= successes), exactly."""
    return sum((comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(successes, n + 1)), Fraction(0))


def test_known_bounds():
    counts = [5082, 5083, 6000, 7000, 8000, 9000, 9500, 9900, 9990, 10000]
    expected = [
        0.49992584, 0.50002585, 0.59187110, 0.69236987, 0.79330629, 0.89492888, 0.94626682, 0.98820277,
        0.99830437, 0.99970047,
    ]  # fmt: skip
    np.testing.assert_allclose(lower_bound(counts, 10_000, 0.05), expected, atol=6e-9, rtol=0)


@given(st.integers(1, 60), st.data(), st.sampled_from(["0.05", "0.001", "0.3"]))
def test_bounds_solve_their_equation(n, data, alpha):
    successes = data.draw(st.integers(1, n))
    p = Fraction(float(lower_bound(successes, n, float(alpha))))
    exact = Fraction(alpha)
    # on the safe side of the solution, and not far from it
    assert tail(successes, n, p) <= exact
    assert tail(successes, n, p + 3 * Fraction(ROUNDING)) >= exact
    assert upper_bound(n - successes, n, float(alpha)) == pytest.approx(1 - float(p), abs=5 * ROUNDING)


def test_ends():
    assert lower_bound(0, 10) == 0.0 and upper_bound(10, 10) == 1.0
    assert lower_bound([[0, 3]], 10).shape == (1, 2)


@pytest.mark.parametrize("p", [0.06, 0.5, 0.93])
def test_the_statement_holds_as_often_as_stated(p):
    n, alpha = 80, 0.05
    counts = np.random.default_rng(0).binomial(n, p, 20_000)
    for wrong in (lower_bound(counts, n, alpha) > p, upper_bound(counts, n, alpha) < p):
        # exact intervals err at most alpha of the time; three standard errors for the draw
        assert 0 < wrong.mean() <= alpha + 3 * (alpha * (1 - alpha) / len(counts)) ** 0.5


def test_leading_class_vectors():
    pairs = [[5099, 4901], [5098, 4902], [6, 0], [5, 0], [0, 6], [3, 3]]
    answers = [0, ABSTAIN, 0, ABSTAIN, 1, ABSTAIN]
    for pair, answer in zip(pairs, answers, strict=True):
        assert leading_class([pair], 0.05).tolist() == [answer]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((11, 10), "counts: expected between 0 and n = 10 votes, got 11"),
        ((-1, 10), "counts: expected between 0 and n = 10 votes, got -1"),
        ((2.5, 10), "counts: expected integers, got float64"),
        ((2, 0), "n: expected an integer of at least 1, got 0"),
        ((2, 10, 1.0), "failure_probability: expected a number between 0 and 1, got 1.0"),
    ],
)
def test_refusals(arguments, says):
    for bound in (lower_bound, upper_bound):
        with pytest.raises(ArgumentError, match=says.replace("(", r"\(")):
            bound(*arguments)


def test_votes_that_do_not_add_up():
    with pytest.raises(ArgumentError, match="counts: expected 10 votes for each example, got 9"):
        leading_class([[6, 4], [6, 3]])
    with pytest.raises(ArgumentError, match="counts: expected integers"):
        leading_class([[0.6, 0.4]])
    with pytest.raises(ArgumentError, match="at least 0 votes for each class, got -1"):
        leading_class([[11, -1]])
