"""Bounds of a chance, from how often it came true (Clopper & Pearson, Biometrika 26 (1934))."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def at_least(successes: Any, n: int, error: float) -> npt.NDArray[np.float64]:
    """The chance of which so many successes of n, or more, have probability `error`; 0 without successes.

    In its beta form (Brown, Cai & DasGupta, Statistical Science 16 (2001)); integers in 0..n of any shape.
    """
    from scipy.special import betaincinv  # slow to import, and reading the definition needs none of it

    counts = np.asarray(successes)
    bound = betaincinv(np.maximum(counts, 1), n - counts + 1.0, error)
    return np.where(counts > 0, bound, 0.0)


def at_most(successes: Any, n: int, error: float) -> npt.NDArray[np.float64]:
    """The chance of which so few successes of n, or fewer, have probability `error`; 1 where all are."""
    from scipy.special import betaincinv

    counts = np.asarray(successes)
    bound = betaincinv(counts + 1.0, np.maximum(n - counts, 1), 1 - error)
    return np.where(counts < n, bound, 1.0)
