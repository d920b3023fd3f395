"""From counts to bounds that hold with a stated confidence."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from zeronorm.certification.certificate import ABSTAIN
from zeronorm.errors import ArgumentError
from zeronorm.metrics.clopper_pearson import at_least, at_most

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

ROUNDING = 1e-12
"""Taken off every bound that floats decide: the inverse of the beta function errs by less (tests measure it)."""


def lower_bound(successes: Any, n: int, failure_probability: float = 0.05) -> Floats:
    """A number that the chance of success exceeds, but for `failure_probability`: one-sided.

    Clopper & Pearson (1934), `metrics.clopper_pearson`; 0 without successes.  A rounding allowance of 1e-12 is taken
    off.

    **Arguments:**

    - `successes`: integers in 0..n, of any shape.
    - `n`: trials.
    - `failure_probability`: in (0, 1).
    """
    bound = at_least(*_checked(successes, n, failure_probability))
    return np.asarray(np.maximum(bound - ROUNDING, 0.0))


def upper_bound(successes: Any, n: int, failure_probability: float = 0.05) -> Floats:
    """A number that the chance of success stays below, but for `failure_probability`; see `lower_bound`."""
    bound = at_most(*_checked(successes, n, failure_probability))
    return np.asarray(np.minimum(bound + ROUNDING, 1.0))


def leading_class(counts: Any, failure_probability: float = 0.05, alike: bool = True) -> Ints:
    """The class most votes are for, or `ABSTAIN` where a fair coin could have separated the first two.

    Levine & Feizi 2020, PREDICT (after Cohen et al. 2019): the two-sided binomial test of the largest count
    against the second largest; the answer differs from the smoothed classifier's with probability at most
    `failure_probability`.  Of equal counts the first class leads, and the test abstains.

    **Arguments:**

    - `counts`: votes (b, classes).
    - `alike`: whether it is an error if examples have different numbers of votes.
    """
    votes = check_counts(counts, alike)
    alpha = check_probability(failure_probability)
    from scipy.special import bdtr

    top = np.sort(votes, axis=1)[:, ::-1][:, :2]
    total = top.sum(1)
    p_value = np.minimum(1.0, 2 * bdtr(top[:, 1].astype(np.float64), total, 0.5))
    return np.where((total > 0) & (p_value <= alpha), votes.argmax(1), ABSTAIN)


def check_counts(counts: Any, alike: bool = True) -> Ints:
    """Votes (b, classes) as int64; `alike`: as many for each example."""
    votes = np.asarray(counts)
    if votes.ndim != 2 or votes.shape[1] < 2 or not np.issubdtype(votes.dtype, np.integer):
        raise ArgumentError(
            f"counts: expected integers (batch, classes) of at least 2 classes, got {votes.dtype} of shape "
            f"{votes.shape}"
        )
    if votes.size and votes.min() < 0:
        raise ArgumentError(f"counts: expected at least 0 votes for each class, got {votes.min()}")
    sums = votes.sum(1)
    if alike and (wrong := sums[sums != sums[:1]]).size:
        raise ArgumentError(f"counts: expected {sums[0]} votes for each example, got {wrong[0]}")
    return votes.astype(np.int64)


def check_probability(value: float, name: str = "failure_probability") -> float:
    """`value` if strictly between 0 and 1, else `ArgumentError`."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not 0 < number < 1:
        raise ArgumentError(f"{name}: expected a number between 0 and 1, got {value!r}")
    return number


def _checked(successes: Any, n: int, failure_probability: float) -> tuple[Ints, int, float]:
    from zeronorm import checks

    number = checks.integer("n", n, 1)
    counts = np.asarray(successes)
    if not np.issubdtype(counts.dtype, np.integer):
        raise ArgumentError(f"counts: expected integers, got {counts.dtype}")
    if counts.size and not (counts.min() >= 0 and counts.max() <= number):
        worst = counts.min() if counts.min() < 0 else counts.max()
        raise ArgumentError(f"counts: expected between 0 and n = {number} votes, got {worst}")
    return counts.astype(np.int64), number, check_probability(failure_probability)
