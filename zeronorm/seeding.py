"""Random numbers named by (seed, example id, purpose, step): blind to the batch, the device and the worker.

A counter-based generator: each number is a hash of its name, so an example draws the same numbers alone, in
any batch and after a resume, on a CPU and on a GPU, and no global random state is read or moved.  The hash is
SplitMix64 (Steele, Lea & Flood 2014), the finaliser of which passes BigCrush, started from a hashed name.
"""

from __future__ import annotations

import hashlib
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15


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
        """n times 64 random bits for each example."""
        start = _mix(self._keys + _signed(_GOLDEN * (2 * step + 1)))
        slots = torch.arange(1, n + 1, device=start.device) * _signed(_GOLDEN)
        return _mix(start[:, None] + slots)

    def integers(self, step: int, n: int, high: int | Tensor) -> Int[Tensor, "b n"]:
        """n integers in [0, high) for each example; high < 2^31 (bias below high / 2^31)."""
        return (_shift(self.bits(step, n), 33) * high) >> 31

    def uniform(self, step: int, n: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "b n"]:
        """n numbers in (0, 1) for each example."""
        if dtype == torch.float64:
            return (_shift(self.bits(step, n), 11).to(dtype) + 0.5) * 2.0**-53
        # two numbers from each word; 23 bits and the half are exact in float32
        words = self.bits(step, (n + 1) // 2)
        both = torch.cat([_shift(words, 41), words & 0x7FFFFF], dim=1)[:, :n]
        return ((both.to(torch.float32) + 0.5) * 2.0**-23).to(dtype)

    def normal(self, step: int, n: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "b n"]:
        """n standard normal numbers for each example (Box-Muller)."""
        half = (n + 1) // 2
        u, v = self.uniform(step, 2 * half, dtype).split(half, dim=1)
        radius = u.log().mul_(-2.0).sqrt_()
        angle = v * (2.0 * math.pi)
        return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :n]


def _signed(number: int) -> int:
    number &= 0xFFFFFFFFFFFFFFFF
    return number - (1 << 64) if number >> 63 else number


def _shift(z: Tensor, by: int) -> Tensor:
    """Logical (not arithmetic) right shift of int64."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift(z, 31)
