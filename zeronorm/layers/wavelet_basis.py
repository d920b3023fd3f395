"""Orthonormal wavelet bases of images, separable: two small matrix products for each level.

n, h, w     length of a signal, height and width of an image
c           coefficients of an image, in the image's own shape (as `pywt.coeffs_to_array` arranges them)
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pywt
import torch
from jaxtyping import Float
from torch import Tensor

from zeronorm import checks
from zeronorm.errors import ArgumentError

Floats = npt.NDArray[np.float64]

_ORTHONORMAL = 1e-9  # how far from 1 or 0 an inner product of two basis functions may be


class WaveletBasis:
    """The functions ψ_k of a wavelet transform of `height` by `width` images, with periodic borders.

    Each level halves both sides: averages in the upper left quarter, which the next level takes apart, and
    details in the other three.  Equal to `pywt.wavedec2(x, wavelet, "periodization", level)`.

    **Arguments:**

    - `wavelet`: of PyWavelets, an orthogonal one: haar, db5, coif1, sym9, ...
    - `height`, `width`: even, and even again after each level.
    - `level`: at least 1.

    **Raises:** `ArgumentError` for a wavelet that is unknown or not orthogonal, and a side that is odd at a level.
    """

    def __init__(self, wavelet: str, height: int, width: int, level: int = 1) -> None:
        check_wavelet(wavelet)
        checks.integer("level", level, 1)
        for name, side in (("height", height), ("width", width)):
            if checks.integer(name, side, 1) % 2**level:
                raise ArgumentError(
                    f"level: expected a {name} that can be halved {level} times, got {side}: choose another level, "
                    "or images of another size"
                )
        self.wavelet, self.height, self.width, self.level = wavelet, height, width, level
        # of each level: the transforms of columns and of rows
        self._steps = [(_step(wavelet, height >> i), _step(wavelet, width >> i)) for i in range(level)]
        self._tensors: dict[tuple[torch.dtype, torch.device], list[tuple[Tensor, Tensor]]] = {}

    def analyse(self, x: Float[Tensor, "*b h w"]) -> Float[Tensor, "*b h w"]:
        """The coefficients ψ_kᵀ x of images."""
        c = x
        for down, across in self._like(x):
            c = _with_corner(c, down @ (c[..., : len(down), : len(across)] @ across.T))
        return c

    def synthesise(self, c: Float[Tensor, "*b h w"]) -> Float[Tensor, "*b h w"]:
        """Images Σ_k c_k ψ_k: the inverse of `analyse`, and its transpose."""
        for down, across in reversed(self._like(c)):
            c = _with_corner(c, down.T @ (c[..., : len(down), : len(across)] @ across))
        return c

    def functions(self) -> Float[Tensor, "n n"]:
        """All ψ_k, one in each row, in the order of flattened coefficients; float64, for small images."""
        n = self.height * self.width
        unit = torch.eye(n, dtype=torch.float64).view(n, self.height, self.width)
        return self.synthesise(unit).flatten(1)

    def largest_l1(self) -> float:
        """max_k ‖ψ_k‖₁: how much a change of size 1 in all entries can move a coefficient."""
        largest, averages = 0.0, [np.eye(self.height), np.eye(self.width)]
        for number, step in enumerate(self._steps, start=1):
            # lengths of this level's functions of one side, averages first
            lengths = []
            for side, matrix in enumerate(step):
                functions = matrix @ averages[side]
                half = len(functions) // 2
                lengths.append([np.abs(part).sum(1).max() for part in (functions[:half], functions[half:])])
                averages[side] = functions[:half]
            products = [a * b for a in lengths[0] for b in lengths[1]]
            # products[0] is of the averages, which only the last level keeps
            largest = max(largest, *products[0 if number == self.level else 1 :])
        return float(largest)

    def _like(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        key = x.dtype, x.device
        if key not in self._tensors:
            with torch.inference_mode(False):
                self._tensors[key] = [
                    (torch.tensor(down).to(x), torch.tensor(across).to(x)) for down, across in self._steps
                ]
        return self._tensors[key]

    def __repr__(self) -> str:
        return f"WaveletBasis({self.wavelet!r}, {self.height}, {self.width}, level={self.level})"


@lru_cache(maxsize=32)
def basis_of(wavelet: str, height: int, width: int, level: int) -> WaveletBasis:
    """The basis, made once."""
    return WaveletBasis(wavelet, height, width, level)


def check_wavelet(wavelet: str) -> str:
    """The name of an orthogonal wavelet, else `ArgumentError`."""
    known = pywt.wavelist(kind="discrete")
    if wavelet not in known:
        raise ArgumentError(
            f"wavelet: expected an orthogonal wavelet of PyWavelets, such as haar, db5, coif1 or sym9, got {wavelet!r}"
        )
    matrix = _step(wavelet, 32)
    off = float(np.abs(matrix @ matrix.T - np.eye(32)).max())
    if off > _ORTHONORMAL:
        raise ArgumentError(
            f"wavelet: expected an orthogonal one, got {wavelet}, of which two functions of length 1 have an inner "
            f"product off by {off:.2g}"
        )
    return wavelet


@lru_cache(maxsize=64)
def _step(wavelet: str, n: int) -> Floats:
    """The matrix of one level of the transform: n/2 rows of averages, then n/2 rows of details."""
    matrix = np.concatenate(pywt.dwt(np.eye(n), wavelet, "periodization", axis=0))
    matrix.flags.writeable = False
    return matrix


def _with_corner(c: Float[Tensor, "*b h w"], corner: Float[Tensor, "*b i j"]) -> Float[Tensor, "*b h w"]:
    """A copy of c with its upper left corner replaced."""
    if corner.shape == c.shape:
        return corner
    c = c.clone()
    c[..., : corner.shape[-2], : corner.shape[-1]] = corner
    return c
