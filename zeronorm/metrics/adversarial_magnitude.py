"""The median number of changed positions that breaks a model: one number for the whole curve over k."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from zeronorm.metrics.accuracy import Distances, check_confidence, check_smallest


class Magnitude(NamedTuple):
    """A median with its interval; infinite where fewer than half of the examples were broken."""

    median: float
    low: float
    high: float


def median_magnitude(smallest: Distances, confidence: float = 0.95) -> Magnitude:
    """The median adversarial magnitude: the fewest changes that break half of the examples.

    Schott et al., "Towards the first adversarially robust neural network model on MNIST" (2019), and Levine &
    Feizi, "Robustness certificates for sparse adversarial attacks by randomized ablation" (2020): clean errors
    count 0 (they need no adversary), examples never broken count infinity.  Of an even number of examples the
    lower middle one is taken, so that the median is a distance that was found; papers that average the two
    middle ones report up to half a step between them more (16.5, say).

    The interval needs no assumption on the distribution (David & Nagaraja, Order Statistics, 3rd ed., 7.1):
    the number of examples at or below the true median is at least, below it at most, a binomial with
    probability 1/2, so the r-th smallest and the r-th largest distance enclose it at least `confidence` of the
    time when r - 1 is the largest count whose lower tail is at most (1 - confidence) / 2.  With too few
    examples for any such r it is (0, inf).
    """
    distances = np.sort(check_smallest(smallest))
    n = len(distances)
    tail = (1 - check_confidence(confidence)) / 2
    from scipy.special import bdtr  # slow to import

    # the lower tail at a count reaches 1/2 by the middle, so r never passes it
    r = int(np.sum(bdtr(np.arange(n // 2 + 1, dtype=np.float64), n, 0.5) <= tail))
    low, high = (float(distances[r - 1]), float(distances[n - r])) if r else (0.0, math.inf)
    return Magnitude(float(distances[(n - 1) // 2]), low, high)
