"""Several attacks on the same examples: what they break together, and what only one of them does.

`smallest` stands for one row per attack and one number per example, as in `accuracy`: the fewest changes found,
0 where the clean prediction is already wrong, infinity where that attack did not break it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import index
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import numpy.typing as npt

from zeronorm.errors import ArgumentError
from zeronorm.metrics.accuracy import Distances, check_confidence, check_smallest

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


class Difference(NamedTuple):
    """A difference of two shares of the same examples, with its interval."""

    value: float
    low: float
    high: float


def worst_case(smallest: Sequence[Distances]) -> npt.NDArray[np.float64]:
    """The fewest changes that any of the attacks needs for each example.

    Zhong, Huang & Liu (2024), Table 1: an example is robust only if it withstands every attack.
    """
    return _table(smallest).min(axis=0)


def broken_within(smallest: Sequence[Distances], k: int) -> Bools:
    """Which attack broke which example with at most k changes; a clean error counts for no attack."""
    table = _table(smallest)
    return (table > 0) & (table <= k)


def broken_alone(broken: npt.NDArray[Any]) -> Bools:
    """Which examples of each attack no other attack broke."""
    broken = _matrix(broken)
    return broken & (broken.sum(axis=0) == 1)


def broken_by_first_only(broken: npt.NDArray[Any]) -> Ints:
    """For every pair of attacks, [i, j] examples that i broke and j did not."""
    broken = _matrix(broken).astype(np.int64)
    return broken @ (1 - broken).T


def paired_difference(
    only_first: SupportsIndex, only_second: SupportsIndex, n: SupportsIndex, confidence: float = 0.95
) -> Difference:
    """The difference of two shares of the same n examples, from the examples that count for one share only.

    Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17 (1998), equations 12 and 13: every difference that the score test does
    not refuse.  As examples are shared, it is far narrower than two intervals side by side suggest.
    """
    b, c, n = index(only_first), index(only_second), index(n)
    if min(b, c) < 0 or n < 1 or b + c > n:
        raise ArgumentError(
            f"only_first, only_second: expected counts of disjoint examples out of n, got {b}, {c} and n = {n}"
        )
    tail = (1 - check_confidence(confidence)) / 2
    from scipy.special import ndtri  # slow to import

    z = float(-ndtri(tail))

    def score(difference: float) -> float:
        """How many standard errors the measured difference lies above this one."""
        # the likeliest share of only_second under this difference: root of 2n q² + linear q + constant
        linear = (2 * n - b + c) * difference - b - c
        constant = -c * difference * (1 - difference)
        q = (math.sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
        variance = n * (2 * q + difference * (1 - difference))
        above = b - c - n * difference
        return above / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, above)

    found = (b - c) / n
    low = -1.0 if b - c == -n else _root(lambda d: score(d) - z, -1.0, found)
    high = 1.0 if b - c == n else _root(lambda d: score(d) + z, found, 1.0)
    return Difference(found, low, high)


def paired_p_value(only_first: SupportsIndex, only_second: SupportsIndex) -> float:
    """The exact two-sided p-value of two shares being one, by the examples that count for one share alone.

    McNemar's test in its binomial form (Psychometrika 12, 1947): each of these is of either share with chance 1/2.
    """
    b, c = index(only_first), index(only_second)
    if min(b, c) < 0:
        raise ArgumentError(f"only_first, only_second: expected counts of examples, got {b} and {c}")
    from scipy.special import bdtr  # slow to import

    return min(1.0, 2 * float(bdtr(min(b, c), b + c, 0.5)))


def holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which of several hypotheses are refused, so that the chance to refuse any true one is `level` at most.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979).
    """
    refused = [False] * len(p_values)
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[i] > level / (len(p_values) - rank):
            break
        refused[i] = True
    return refused


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Bisect for the point at which a falling function crosses 0."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def _table(smallest: Sequence[Distances]) -> npt.NDArray[np.float64]:
    if len(smallest) == 0:
        raise ArgumentError("smallest: expected the distances of at least one attack, got none")
    rows = [check_smallest(row) for row in smallest]
    if len({len(row) for row in rows}) > 1:
        raise ArgumentError(
            f"smallest: expected the same examples of every attack, got {[len(row) for row in rows]}"
        )
    return np.stack(rows)


def _matrix(broken: npt.NDArray[Any]) -> Bools:
    broken = np.asarray(broken)
    if broken.ndim != 2 or broken.dtype != np.bool_:
        raise ArgumentError(
            f"broken: expected booleans (attack, example), got {broken.dtype} of shape {broken.shape}"
        )
    return broken
