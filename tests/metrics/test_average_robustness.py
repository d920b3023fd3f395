"""r_∞ and r_2 by hand, and the ways they are not to be confused."""

from __future__ import annotations

import math

import jaxtyping
import numpy as np
import pytest

from zeronorm import ArgumentError
from zeronorm.metrics import mean_distance_of_right, median_distance, r_2, r_inf


def test_the_vector_by_hand():
    """w = (1, -2, 0), ε = 0.1: |scores| 1, 0.2, 1.2, 1 over √5; the last is misclassified."""
    right = np.array([True, True, True, False])
    distances = np.array([1, 0.2, 1.2, 1]) / math.sqrt(5)
    assert r_2(right, distances) == pytest.approx(0.2683282, abs=1e-7)
    assert r_inf(np.array([True, False, True, False])) == 0.5


def test_errors_count_zero_and_stay_in_the_denominator():
    right, distances = np.array([True, False, True, False]), np.array([2.0, 9.0, 4.0, math.nan])
    assert r_2(right, distances) == 1.5
    assert mean_distance_of_right(right, distances) == 3.0
    assert median_distance(right, distances) == 1.0


def test_the_unfooled_need_a_rule():
    right, distances = np.array([True, True, False]), np.array([1.0, math.inf, math.inf])
    with pytest.raises(
        ArgumentError, match="expected an adversarial for each right example, got none for 1 of 2"
    ):
        r_2(right, distances)
    assert r_2(right, distances, unfooled=5.0) == 2.0
    assert median_distance(right, distances) == 1.0


def test_bad_input(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    right = np.array([True, False])
    for distances in ([1.0], [[1.0, 2.0]], [math.nan, 1.0], [-1.0, 0.0]):
        with pytest.raises(ArgumentError, match="distances: expected"):
            r_2(right, np.array(distances))
    for bad in (np.array([], dtype=bool), np.array([1, 0])):
        with pytest.raises(ArgumentError, match="right_under_attack: expected a boolean"):
            r_inf(bad)
    with pytest.raises(ArgumentError, match="right: expected an example that is answered right"):
        mean_distance_of_right(np.array([False]), np.array([0.0]))
