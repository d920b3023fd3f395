"""Random numbers named by (seed, example id, purpose, step): blind to the batch, the device and the worker.

A counter-based generator: each number is a hash of its name, so an example draws the same numbers alone, in
any batch and after a resume, on a CPU and on a GPU, and no global random state is read or moved.  The hash is
SplitMix64 (Steele, Lea & Flood 2014), the finaliser of which passes BigCrush, started from a hashed name.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from zeronorm.kernels.numba import compiled, serves

_GOLDEN = 0x9E3779B97F4A7C15
_LEAST = 2.0**-32


class Streams:
    """One random stream per example.

    `purpose` keeps the streams of different attacks apart; `step` in each draw names the draw, so that
    drawing is a pure function: the same call gives the same numbers.
    """

    def __init__(self, seed: int, ids: Int[Tensor, "b"], purpose: str) -> None:
        digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
        self._keys = _mix(_mix(ids.to(torch.int64) * _signed(_GOLDEN)) ^ int.from_bytes(digest, signed=True))

    def select(self, rows: Tensor) -> Streams:
        """The streams of some of the examples: an index or boolean mask into the batch."""
        chosen = Streams.__new__(Streams)
        chosen._keys = self._keys[rows]
        return chosen

    def bits(self, step: int, n: int) -> Int[Tensor, "b n"]:
        """n random words of 64 bits for each example; n < 2^32."""
        # places in the example's sequence of 2^64: steps are 2^32 apart
        if serves(self._keys):
            words = self._keys.new_empty(len(self._keys), n)
            _words(words, self._keys, step)
            return words
        first = (step << 32) + 1
        places = torch.arange(first, first + n, device=self._keys.device).mul_(_signed(_GOLDEN))
        return _mix(self._keys[:, None] + places)

    def uniform(self, step: int, n: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "b n"]:
        """n numbers in [0, 1] for each example."""
        return self._centred(step, n, dtype).add_(0.5)

    def normal(self, step: int, n: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "b n"]:
        """n standard normal numbers for each example (Box & Muller 1958); in float32 none is beyond 6.7."""
        half = (n + 1) // 2
        u = self._centred(step, 2 * half, dtype)
        # of either end of the unit interval, so that the logarithm is finite
        radius = u[:, :half].abs().mul_(2.0).add_(_LEAST).clamp_max_(1.0).log_().mul_(-2.0).sqrt_()
        angle = u[:, half:] * (2 * math.pi)
        return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :n]

    def order(self, step: int) -> Int[Tensor, "b"]:
        """A random order of the batch's rows; two examples come in the same order in every batch."""
        return self.bits(step, 1)[:, 0].argsort(stable=True)

    def _centred(self, step: int, n: int, dtype: torch.dtype) -> Tensor:
        """n numbers in [-1/2, 1/2] for each example: from half a word each, or in float64 from a whole one."""
        if dtype == torch.float64:
            return self.bits(step, n).to(dtype).mul_(2.0**-64)
        halves = self.bits(step, (n + 1) // 2).view(torch.int32)[:, :n]
        return halves.to(torch.float32).mul_(2.0**-32).to(dtype)


@compiled
def _words(start: int, stop: int, words: Any, keys: Any, step: int) -> None:
    # the twin of `bits` and `_mix`
    golden = np.uint64(0x9E3779B97F4A7C15)
    first = golden * (np.uint64(step) << np.uint64(32))
    for row in range(start, stop):
        for i in range(words.shape[1]):
            z = np.uint64(keys[row]) + first + golden * np.uint64(i + 1)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            words[row, i] = np.int64(z ^ (z >> np.uint64(31)))


def below(bits: Int[Tensor, "*shape"], high: int | Int[Tensor, "..."]) -> Int[Tensor, "*shape"]:
    """Integers in [0, high) from 64-bit words; high < 2^31 (one, or one for each), with a bias below high / 2^31."""
    return (_shift(bits, 33) * high) >> 31


def _signed(number: int) -> int:
    number &= 0xFFFFFFFFFFFFFFFF
    return number - (1 << 64) if number >> 63 else number


def _shift(z: Tensor, by: int) -> Tensor:
    """Logical (not arithmetic) right shift of int64."""
    return (z >> by).bitwise_and_((1 << (64 - by)) - 1)


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser."""
    z = _shift(z, 30).bitwise_xor_(z)
    z.mul_(_signed(0xBF58476D1CE4E5B9)).bitwise_xor_(_shift(z, 27))
    z.mul_(_signed(0x94D049BB133111EB)).bitwise_xor_(_shift(z, 31))
    return z
