"""Certified accuracy and the median with the papers' N/A."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeronorm.errors import ArgumentError
from zeronorm.metrics import certified_accuracy, median_certified

NA = -math.inf


def test_the_papers_example():
    assert median_certified([NA, NA, 1, 2, 3]) == 1
    assert median_certified([NA, 5]) == NA and median_certified([4, 5]) == 4
    assert certified_accuracy([NA, NA, 1, 2, 3], [0, 1, 2, 4]).tolist() == [0.6, 0.6, 0.4, 0.0]
    assert certified_accuracy([math.inf, NA], [10**9]).tolist() == [0.5]


@given(st.lists(st.integers(-1, 9).map(lambda r: NA if r < 0 else r), min_size=1, max_size=30))
def test_over_half_withstand_the_median(radii):
    median = median_certified(radii)
    if median >= 0:
        assert certified_accuracy(radii, [int(median)])[0] > 0.5
        assert certified_accuracy(radii, [int(median) + 1])[0] <= 0.5
    else:
        assert certified_accuracy(radii, [0])[0] <= 0.5


@pytest.mark.parametrize("radii", [[], [math.nan], [-1]])
def test_refusals(radii):
    for figure in (median_certified, lambda r: certified_accuracy(r, [1])):
        with pytest.raises(ArgumentError, match="radii: expected"):
            figure(radii)
    with pytest.raises(ArgumentError, match="budgets: expected"):
        certified_accuracy([1], [-1])
