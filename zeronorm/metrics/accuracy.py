"""Accuracy as a share of the examples, with its confidence interval.

`smallest` stands for one number per example: the fewest changed positions found to break it, 0 where the
clean prediction is already wrong, infinity where no search broke it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import index
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from zeronorm.errors import ArgumentError
from zeronorm.metrics.clopper_pearson import at_least, at_most

Distances = Sequence[float | int] | npt.NDArray[Any]


def interval(successes: SupportsIndex, n: SupportsIndex, confidence: float = 0.95) -> tuple[float, float]:
    """The exact confidence interval of a share: it misses the truth in at most 1 - `confidence` of all samples.

    Clopper & Pearson, "The use of confidence or fiducial limits", Biometrika 26 (1934), in its beta form
    (Brown, Cai & DasGupta, Statistical Science 16 (2001)).  Each side errs at most half of the time
    allowed; at 0 and n successes the other side keeps its half.  Without examples nothing is known: (0, 1).

    It covers the draw of the examples only, not that a stronger attack may break more of them.
    """
    successes, n = index(successes), index(n)
    if n < 0:
        raise ArgumentError(f"n: expected an integer of at least 0, got {n}")
    if not 0 <= successes <= n:
        raise ArgumentError(f"successes: expected an integer between 0 and {n}, got {successes}")
    tail = (1 - check_confidence(confidence)) / 2
    return float(at_least(successes, n, tail)), float(at_most(successes, n, tail))


def robust_accuracy(
    smallest: Distances, budgets: Sequence[int] | npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """Share of examples that no search broke within each budget: those with `smallest` above it.

    Budget 0 gives the clean accuracy.  An upper bound of the truth: a stronger attack may find fewer changes.
    """
    distances = np.sort(check_smallest(smallest))
    k = np.asarray(budgets)
    if k.ndim != 1 or (k < 0).any():
        raise ArgumentError(f"budgets: expected a list of integers of at least 0, got {budgets!r}")
    broken = np.searchsorted(distances, k, side="right")
    return (len(distances) - broken) / len(distances)


def check_confidence(confidence: float) -> float:
    """`confidence` if it lies strictly between 0 and 1, else `ArgumentError`."""
    if not 0 < confidence < 1:
        raise ArgumentError(f"confidence: expected a number between 0 and 1, got {confidence!r}")
    return confidence


def check_smallest(smallest: Distances) -> npt.NDArray[np.float64]:
    """`smallest` as an array of one distance per example, else `ArgumentError`."""
    distances = np.asarray(smallest, dtype=np.float64)
    if distances.ndim != 1 or not len(distances):
        raise ArgumentError(
            f"smallest: expected one distance per example, at least one, got shape {distances.shape}"
        )
    if not (distances >= 0).all():
        worst = next(d for d in distances if math.isnan(d) or d < 0)
        raise ArgumentError(f"smallest: expected distances of at least 0, got {worst}")
    return distances
