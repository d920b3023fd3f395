"""How an attack acts through a front end: which coefficients and which ReLUs it changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from zeronorm.errors import ArgumentError


def support_overlap(kept: npt.NDArray[Any], kept_attacked: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """How many coefficients are kept both before and under attack, for each example.

    Gopalakrishnan et al. 2020, Fig. 8: |S_K(x) ∩ S_K(x + e)|; both are masks (example, ...).
    """
    both = _mask("kept", kept) & _matching("kept_attacked", kept_attacked, kept)
    return both.reshape(len(both), -1).sum(axis=1).astype(np.int64)


def flipped_share(on: npt.NDArray[Any], on_attacked: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The share of ReLUs that an attack turns on or off, for each example.

    Gopalakrishnan et al. 2020, Figs. 9 and 10; both are masks (example, ...) of the units above 0.
    """
    flipped = _mask("on", on) ^ _matching("on_attacked", on_attacked, on)
    return flipped.reshape(len(flipped), -1).mean(axis=1)


def _mask(name: str, mask: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    mask = np.asarray(mask)
    if mask.ndim < 2 or mask.dtype != np.bool_ or mask[:1].size == 0:
        raise ArgumentError(
            f"{name}: expected booleans (example, unit), got {mask.dtype} of shape {mask.shape}"
        )
    return mask


def _matching(name: str, mask: npt.NDArray[Any], other: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    mask = _mask(name, mask)
    if mask.shape != np.asarray(other).shape:
        raise ArgumentError(
            f"{name}: expected the shape of the first, {np.asarray(other).shape}, got {mask.shape}"
        )
    return mask
