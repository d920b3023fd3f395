"""The extreme-value fit on laws whose end is known, the score by hand, and where it must not be believed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from zeronorm import ArgumentError
from zeronorm.metrics import clever_score, weibull_end


@pytest.mark.parametrize("shape", [1.5, 3.0])
def test_the_end_of_a_law_that_has_one(shape):
    rng = np.random.default_rng(0)
    maxima = [5 - 0.5 * rng.weibull(shape, 50) for _ in range(4)]
    ends = [weibull_end(row) for row in maxima]
    assert all(end.fitted and end.value >= row.max() for end, row in zip(ends, maxima, strict=True))
    assert np.mean([end.value for end in ends]) == pytest.approx(5, abs=0.06)
    # in other units
    assert weibull_end(1000 * maxima[0]).value == pytest.approx(1000 * ends[0].value, rel=1e-6)


def test_without_a_tail_the_largest_stands_for_the_end():
    assert weibull_end(np.full(50, 2.5)).value == 2.5
    assert not weibull_end(np.full(50, 2.5)).fitted
    assert weibull_end(np.array([1.0, 2.0, 3.0])).value == 3.0
    two_heaps = weibull_end(np.repeat([1.0, 9.0], 60))
    assert not two_heaps.fitted and two_heaps.value == 9.0


def test_scores_by_hand():
    maxima = np.array([np.full(50, 2.0), np.full(50, 4.0), np.zeros(50)])
    assert clever_score(np.array([3.0, 2.0, 1.0]), maxima, 5.0)[0] == 0.5
    assert clever_score(np.array([3.0, 2.0, 1.0]), maxima, 0.3)[0] == 0.3, "no further than was sampled"
    assert clever_score(np.array([-1.0, 2.0, 1.0]), maxima, 5.0)[0] == 0.0


def test_bad_input():
    with pytest.raises(ArgumentError, match="a dead network has no score"):
        clever_score(np.array([1.0]), np.zeros((1, 9)), 1.0)
    with pytest.raises(ArgumentError, match="expected finite gradient norms"):
        clever_score(np.array([1.0]), np.array([[1.0, math.nan]]), 1.0)
    with pytest.raises(ArgumentError, match="maxima: expected a row for each of 2 classes"):
        clever_score(np.array([1.0, 2.0]), np.ones((1, 9)), 1.0)
