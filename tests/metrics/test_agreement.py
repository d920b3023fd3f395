"""What several attacks say together, by hand and against slow twins."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize_scalar

from zeronorm import ArgumentError
from zeronorm.metrics import (
    broken_alone,
    broken_by_first_only,
    broken_within,
    paired_difference,
    worst_case,
)

INF = math.inf
# five examples: a clean error, broken by both, by the first, by the second, by none
FIRST, SECOND = [0, 2, 1, INF, INF], [0, 1, INF, 4, INF]


def test_worst_case_by_hand():
    assert worst_case([FIRST, SECOND]).tolist() == [0, 1, 1, 4, INF]
    assert worst_case([FIRST]).tolist() == FIRST


@pytest.mark.parametrize(
    ("k", "first", "second"),
    [
        (0, [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]),  # a clean error is nobody's success
        (1, [0, 0, 1, 0, 0], [0, 1, 0, 0, 0]),
        (2, [0, 1, 1, 0, 0], [0, 1, 0, 0, 0]),
        (4, [0, 1, 1, 0, 0], [0, 1, 0, 1, 0]),
    ],
)
def test_broken_by_hand(k, first, second):
    broken = broken_within([FIRST, SECOND], k)
    assert broken.dtype == np.bool_
    assert broken.astype(int).tolist() == [first, second]


def test_agreement_by_hand():
    broken = broken_within([FIRST, SECOND, [0, 2, 1, INF, INF]], 4)
    assert broken_alone(broken).sum(axis=1).tolist() == [0, 1, 0]  # example 2 fell to two of them
    assert broken_by_first_only(broken).tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    alone = broken_alone(broken[:2])
    assert [np.flatnonzero(row).tolist() for row in alone] == [[2], [3]]


@given(
    st.integers(1, 4).flatmap(lambda a: st.lists(st.tuples(*[st.booleans()] * a), min_size=1, max_size=12))
)
def test_agreement_against_loops(examples):
    broken = np.array(examples).T
    alone, only = broken_alone(broken), broken_by_first_only(broken)
    for i, mine in enumerate(broken):
        others = [row for j, row in enumerate(broken) if j != i]
        assert alone[i].tolist() == [b and not any(row[e] for row in others) for e, b in enumerate(mine)]
        for j, theirs in enumerate(broken):
            assert only[i, j] == sum(bool(a and not b) for a, b in zip(mine, theirs, strict=True))


def test_paired_difference_by_hand():
    # nobody differs: score² = n d² / (d (1 - d)) = z² at d = z² / (n + z²), as Wilson's bound
    z2 = stats.norm.ppf(0.975) ** 2
    assert paired_difference(0, 0, 50) == pytest.approx((0, -z2 / (50 + z2), z2 / (50 + z2)))
    # all differ: score² = n (1 - d) / (1 + d)
    assert paired_difference(5, 0, 5) == pytest.approx((1, (5 - z2) / (5 + z2), 1))


@given(
    st.integers(1, 60).flatmap(
        lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n)).filter(
            lambda t: t[0] + t[1] <= n
        )
    )
)
def test_paired_difference_is_antisymmetric_and_holds_what_was_found(counts):
    b, c, n = counts
    value, low, high = paired_difference(b, c, n)
    assert value == (b - c) / n
    assert -1 <= low <= value <= high <= 1
    assert paired_difference(c, b, n) == pytest.approx((-value, -high, -low), abs=1e-9)
    wider = paired_difference(b, c, n, confidence=0.99)
    assert wider.low <= low and high <= wider.high


@pytest.mark.parametrize(("b", "c", "n"), [(9, 2, 40), (1, 6, 30), (12, 0, 100), (20, 15, 60)])
def test_paired_difference_against_the_likelihood(b, c, n):
    """At either end, the score of the multinomial at its constrained maximum is the quantile."""
    _, low, high = paired_difference(b, c, n)
    for end, sign in ((low, 1), (high, -1)):

        def refused(q, d=end):
            """Negative log likelihood of shares q + d, q and the rest."""
            shares = np.array([q + d, q, 1 - 2 * q - d])
            return -sum(x * math.log(p) for x, p in zip((b, c, n - b - c), shares, strict=True) if x)

        edge = (max(0.0, -end) + 1e-12, (1 - end) / 2 - 1e-12)
        q = minimize_scalar(refused, bounds=edge, method="bounded", options={"xatol": 1e-12}).x
        score = (b - c - n * end) / math.sqrt(n * (2 * q + end - end**2))
        assert score == pytest.approx(sign * stats.norm.ppf(0.975), abs=1e-4)


@pytest.mark.parametrize("shares", [(0.1, 0.05), (0.02, 0.02), (0.3, 0.1)])
def test_paired_difference_covers_the_truth(shares):
    p, q = shares
    draws = np.random.default_rng(0).multinomial(80, [p, q, 1 - p - q], 400)
    ends = [paired_difference(int(b), int(c), 80) for b, c, _ in draws]
    covered = np.mean([end.low <= p - q <= end.high for end in ends])
    assert 0.92 <= covered <= 1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: worst_case([]), "smallest: expected the distances of at least one attack, got none"),
        (lambda: worst_case([[1, 2], [1]]), "smallest: expected the same examples of every attack, got [2, 1]"),
        (lambda: broken_within([[-1]], 2), "smallest: expected distances of at least 0, got -1.0"),
        (lambda: broken_alone(np.zeros(3, bool)), "broken: expected booleans (attack, example), got bool of shape"),
        (lambda: paired_difference(3, 3, 5), "only_first, only_second: expected counts of disjoint examples"),
        (lambda: paired_difference(0, 0, 0), "only_first, only_second: expected counts of disjoint examples"),
        (lambda: paired_difference(0, 0, 9, 1.0), "confidence: expected a number between 0 and 1, got 1.0"),
    ],
)  # fmt: skip
def test_refused(call, said):
    with pytest.raises(ArgumentError) as error:
        call()
    assert str(error.value).startswith(said)
