"""Average robustness of a classifier: r_∞ and r_2 of Guo et al., and variants that are not the same.

Guo, Zhang, Zhang & Chen, "Sparse DNNs with improved adversarial robustness", NeurIPS 2018, equations 1 and 5.

`right` says which clean predictions are right.  `distances` are how far each example had to move until it was
misclassified, infinity where an attack found no way; of those wrong already they are not looked at.  Such
figures depend on the attack: compare those of one attack only.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from zeronorm.errors import ArgumentError

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def r_inf(right_under_attack: Bools) -> float:
    """Share of all examples still answered right after an ℓ∞ attack of a given ε; FGS in the paper.

    The paper counts whoever is right then, also if the clean prediction was wrong and the attack put it right.  The
    attacks of this library leave such examples as they are, so that they count as wrong.
    """
    return float(_bools("right_under_attack", right_under_attack).mean())


def r_2(right: Bools, distances: Floats, *, unfooled: float | None = None) -> float:
    """Mean distance to the adversarial found, over *all* examples; those misclassified from the start count 0.

    **Arguments:**

    - `unfooled`: what an example counts that no adversarial was found for.  The paper does not say what it does with
      those; None refuses them.

    **Raises:** `ArgumentError` for NaN or negative distances, and for unfooled examples without a rule.
    """
    right, moved = _checked(right, distances)
    lost = right & np.isinf(moved)
    if lost.any():
        if unfooled is None:
            raise ArgumentError(
                f"distances: expected an adversarial for each right example, got none for {int(lost.sum())} of "
                f"{int(right.sum())}; unfooled=DISTANCE says what they count"
            )
        moved = np.where(lost, unfooled, moved)
    return float(np.where(right, moved, 0.0).sum() / len(right))


def mean_distance_of_right(right: Bools, distances: Floats, *, unfooled: float | None = None) -> float:
    """`r_2` over the examples answered right only, and so larger: `r_2` divided by the accuracy."""
    if not right.any():
        raise ArgumentError("right: expected an example that is answered right, got none")
    return r_2(right, distances, unfooled=unfooled) * len(right) / float(right.sum())


def median_distance(right: Bools, distances: Floats) -> float:
    """Median distance over all examples: 0 where the model errs already, infinity where no adversarial was found."""
    right, moved = _checked(right, distances)
    return float(np.median(np.where(right, moved, 0.0)))


def _checked(right: Bools, distances: Floats) -> tuple[Bools, Floats]:
    right, moved = _bools("right", right), np.asarray(distances, dtype=np.float64)
    if moved.shape != right.shape:
        raise ArgumentError(f"distances: expected {len(right)}, one per example, got shape {moved.shape}")
    if bool((np.isnan(moved) | (moved < 0))[right].any()):
        raise ArgumentError("distances: expected numbers of at least 0, got NaN or negative ones")
    return right, np.where(right, moved, math.inf)


def _bools(name: str, values: Bools) -> Bools:
    values = np.asarray(values)
    if values.ndim != 1 or values.dtype != np.bool_ or not len(values):
        raise ArgumentError(
            f"{name}: expected a boolean for each example, at least one, got {values.dtype} of shape {values.shape}"
        )
    return values
