"""Certified accuracy and its median radius.

`radii` stands for one number per example: how many changes are proved harmless, -infinity where the prediction is
wrong or nothing is proved ("N/A" in the papers), infinity where no number of changes can move it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from zeronorm.errors import ArgumentError
from zeronorm.metrics.accuracy import Distances


def certified_accuracy(radii: Distances, budgets: Sequence[int]) -> npt.NDArray[np.float64]:
    """Share of examples proved right under any k changes, for each budget k: a lower bound of the true share.

    Levine & Feizi, "Robustness certificates for sparse adversarial attacks by randomized ablation" (2020).
    """
    ascending, k = np.sort(_checked(radii)), np.asarray(budgets)
    if k.ndim != 1 or (k < 0).any():
        raise ArgumentError(f"budgets: expected a list of integers of at least 0, got {budgets!r}")
    return (len(ascending) - np.searchsorted(ascending, k, side="left")) / len(ascending)


def median_certified(radii: Distances) -> float:
    """The largest number of changes that over half of the examples are proved to withstand.

    With N/A as -infinity: of {N/A, N/A, 1, 2, 3} it is 1 (Levine & Feizi 2020, section 4).  Of an even number of
    examples the lower middle one is taken; -infinity where half of them have no certificate.
    """
    ascending = np.sort(_checked(radii))
    return float(ascending[(len(ascending) - 1) // 2])


def _checked(radii: Distances) -> npt.NDArray[np.float64]:
    values = np.asarray(radii, dtype=np.float64)
    if values.ndim != 1 or not len(values) or np.isnan(values).any():
        raise ArgumentError(
            f"radii: expected one number per example, at least one, got shape {values.shape}"
            + (" with NaN" if np.isnan(values).any() else "")
        )
    if (wrong := values[np.isfinite(values) & (values < 0)]).size:
        raise ArgumentError(
            f"radii: expected at least 0, or -infinity without a certificate, got {wrong[0]:g}"
        )
    return values
