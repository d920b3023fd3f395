"""Paired tests and what several of them may say together."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from zeronorm.errors import ArgumentError
from zeronorm.metrics import holm, paired_p_value


@pytest.mark.parametrize("b, c", [(0, 0), (3, 0), (0, 5), (4, 4), (12, 3), (40, 61)])
def test_the_exact_test(b, c):
    expected = binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert paired_p_value(b, c) == pytest.approx(expected, abs=1e-12)
    assert paired_p_value(b, c) == paired_p_value(c, b)


def test_no_counts():
    with pytest.raises(
        ArgumentError, match=r"^only_first, only_second: expected counts of examples, got -1 and 2"
    ):
        paired_p_value(-1, 2)


def test_holm_by_hand():
    """Holm's own order: 0.05 / 4, / 3, / 2, / 1; the first that is kept keeps all that follow."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert holm([0.012, 0.016, 0.024, 0.049]) == [True] * 4
    assert holm([0.013, 0.001, 0.9]) == [True, True, False] and holm([]) == []
    assert holm([0.2, 0.06]) == [False, False]


def test_holm_refuses_no_less_than_bonferroni_and_no_more_than_each_alone():
    generator = np.random.default_rng(0)
    for _ in range(200):
        p = (generator.random(6) ** 3).tolist()
        refused = holm(p)
        assert all(r for r, value in zip(refused, p, strict=True) if value <= 0.05 / 6)
        assert not any(r for r, value in zip(refused, p, strict=True) if value > 0.05)
