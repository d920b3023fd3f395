"""By how much a pass in floating point may miss the real numbers, whatever the order of its sums.

A sum of n products, in any order and with fused multiplication or without, errs by at most γ_n Σ |products| with
γ_n = n u / (1 - n u) (Higham, "Accuracy and stability of numerical algorithms", 2002, section 3.1) and, where a
product is too small for a normal number, by at most the smallest of these each.  u is half the distance of 1 to the
next number.  This holds of IEEE arithmetic in the type itself: not of TF32 or bfloat16 inside a float32 product, nor
of convolutions by Winograd's method or by Fourier transforms.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zeronorm.errors import ArgumentError

TYPES = (torch.float32, torch.float64)


class Rounding:
    """Of a pass in `dtype`, bounded by computations in float64."""

    def __init__(self, dtype: torch.dtype) -> None:
        if dtype not in TYPES:
            raise ArgumentError(f"model: expected float32 or float64, got {dtype}")
        info = torch.finfo(dtype)
        self.unit, self.tiny, self.largest = info.eps / 2, info.tiny, info.max

    def error(self, terms: int, magnitude: Tensor) -> Tensor:
        """Of sums of so many terms whose absolute values add up to `magnitude`; infinite where one may overflow.

        Counts the rounding of the computation in float64 that it is added to as well.
        """
        n = terms + 2
        bound = (_gamma(n, self.unit) + 8 * _gamma(n, 2.0**-53)) * magnitude + 4 * n * self.tiny
        return torch.where(2 * magnitude + bound < self.largest, bound, math.inf)


def _gamma(n: int, unit: float) -> float:
    return n * unit / (1 - n * unit) if n * unit < 1 else math.inf
