"""The median number of changes that breaks a model."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeronorm import ArgumentError
from zeronorm.metrics import median_magnitude, robust_accuracy

INF = math.inf


@pytest.mark.parametrize(
    ("smallest", "median"),
    [
        ([5], 5),
        ([0, 9], 0),  # the lower of the two
        ([3, 1, 2], 2),
        ([4, 1, 3, 2], 2),
        ([0, 0, 1, 2, 3], 1),  # clean errors count
        ([0, 0, 0, 2], 0),
        ([1, 2, INF, INF], 2),
        ([1, INF, INF], INF),
    ],
)
def test_median_by_hand(smallest, median):
    assert median_magnitude(smallest).median == median


def test_interval_by_hand():
    # n = 6: P(Bin(6, 1/2) = 0) = 1/64 <= 0.025 < 7/64, so the extremes; n = 5: 1/32 is too much
    assert median_magnitude([6, 5, 4, 3, 2, 1]) == (3, 1, 6)
    assert median_magnitude([5, 4, 3, 2, 1]) == (3, 0, INF)
    # n = 10: P(<= 1) = 11/1024 <= 0.025 < 56/1024 = P(<= 2): second smallest and second largest
    assert median_magnitude(list(range(1, 11))) == (5, 2, 9)
    assert median_magnitude([1, 2, 3, 4, 5, 6, 7, 8, INF, INF]) == (5, 2, INF)


@given(st.lists(st.integers(0, 9) | st.just(INF), min_size=1, max_size=60))
def test_half_of_the_examples_fall_within_the_median_and_not_before(smallest):
    distances = np.array(smallest, dtype=float)
    median, low, high = median_magnitude(distances)
    assert median in smallest
    assert low <= median <= high
    if median < INF:
        assert robust_accuracy(distances, [int(median)]) <= 0.5
    if 0 < median < INF:
        assert robust_accuracy(distances, [int(median) - 1]) > 0.5


@pytest.mark.parametrize("n", [7, 30, 101])
def test_interval_covers_whatever_the_distribution(n):
    rng = np.random.default_rng(0)
    values = np.array([0.0, 1, 2, 3, 5, 8, INF])
    chances = np.array([0.1, 0.2, 0.1, 0.2, 0.2, 0.1, 0.1])
    truth = values[np.searchsorted(np.cumsum(chances), 0.5)]
    assert truth == 3
    found = [median_magnitude(rng.choice(values, n, p=chances)) for _ in range(2000)]
    assert np.mean([low <= truth <= high for _, low, high in found]) >= 0.94


def test_bad_input_is_named():
    with pytest.raises(ArgumentError, match=r"^smallest: expected one distance per example, at least one"):
        median_magnitude([])
    with pytest.raises(ArgumentError, match=r"^smallest: expected distances of at least 0, got -1.0"):
        median_magnitude([2, -1])
    with pytest.raises(ArgumentError, match=r"^confidence: expected a number between 0 and 1, got 0.0"):
        median_magnitude([2], confidence=0.0)
