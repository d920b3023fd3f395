"""The proposals of Sparse-RS: which pixels leave the set, which enter it, and in what colours.

a       examples under attack
g       channels that change together
k, m    pixels of the set, and those exchanged
n       pixels that may be changed, by number 0..n-1
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zeronorm.attacks.batch_under_attack import BatchUnderAttack
from zeronorm.kernels.numba import compiled, helper, serves
from zeronorm.seeding import below


def propose(
    batch: BatchUnderAttack,
    step: int,
    M: Int[Tensor, "a k"],
    colours: Float[Tensor, "a g k"],
    table: Int[Tensor, "n"],
    moved: int,
) -> tuple[Int[Tensor, "a k"], Float[Tensor, "a g k"]]:
    """Propose M and its colours with `moved` pixels exchanged for others, in random corners of the box.

    With all n pixels in M, the colours alone are drawn anew.  A single pixel gets a colour unlike its clean one:
    such an exchange must not waste its query.  `table` names the n pixels by their positions.
    """
    k, n = M.shape[1], len(table)
    channels = batch.x.shape[1]
    slots = 1 if moved == 1 else k
    # words for slots, for pixels and for their colours
    words = batch.streams.bits(step, slots + moved * (1 + -(-channels // 32)))
    if isinstance(batch.low, float) and channels <= 30 and serves(M, colours, batch.x):
        M, colours = M.clone(), colours.clone()
        _propose(M, colours, words, batch.x, table, moved, batch.low, batch.high)
        return M, colours
    leaving = below(words[:, :1], k) if moved == 1 else words[:, :k].topk(moved, dim=1).indices
    entering = outside(words[:, slots : slots + moved], M, n) if n > k else M.gather(1, leaving)
    bits = coins(words[:, slots + moved :], channels, moved)
    if moved == 1:
        bits = _unlike_clean(batch, words[:, slots + moved :], bits, table[entering])
    fresh = batch.corners(bits, table[entering])
    return M.scatter(1, leaving, entering), colours.scatter(2, leaving[:, None].expand_as(fresh), fresh)


def outside(words: Int[Tensor, "a m"], taken: Int[Tensor, "a t"], n: int) -> Int[Tensor, "a m"]:
    """Draw distinct numbers of 0..n-1 outside `taken`, uniformly, one for each word.

    The j-th word says which of the numbers that are left, after `taken` and the words before it.  Resolved by halves:
    a block of numbers drawn after another is among those the other leaves, whatever came before both.
    """
    m = words.shape[1]
    left = n - taken.shape[1] - torch.arange(m, device=words.device)
    chosen, size = below(words, left), 1
    chosen = F.pad(chosen, (0, (1 << (m - 1).bit_length()) - m)) if m else chosen
    while size < m:
        first, second = chosen.unflatten(1, (-1, 2, size)).unbind(2)
        chosen = torch.stack([first, _left_by(first, second)], 2).flatten(1)
        size *= 2
    return _left_by(taken, chosen[:, :m])


def _left_by(taken: Int[Tensor, "*b t"], r: Int[Tensor, "*b m"]) -> Int[Tensor, "*b m"]:
    """The r-th number (from 0) outside a set: r plus how many members of the set come before it."""
    before = taken.sort(-1).values - torch.arange(taken.shape[-1], device=taken.device)
    return r + torch.searchsorted(before, r.contiguous(), right=True)


def coins(words: Int[Tensor, "a w"], channels: int, m: int) -> Bool[Tensor, "a g m"]:
    """A fair bit for every channel of each of m pixels."""
    if channels == 1:
        return (words & 1).bool()[:, None]
    shifts = torch.arange(channels, device=words.device)
    return ((words.unflatten(1, (-1, m))[:, shifts // 32] >> (shifts % 32)[:, None]) & 1).bool()


def _unlike_clean(
    batch: BatchUnderAttack,
    words: Int[Tensor, "a w"],
    bits: Bool[Tensor, "a g 1"],
    positions: Int[Tensor, "a 1"],
) -> Bool[Tensor, "a g 1"]:
    """Bits of a colour that differs from the clean one."""
    channels = bits.shape[1]
    if channels > 30:
        return bits  # equal with probability below 1e-9
    clean = batch.at(batch.x, positions)
    low, high = batch.box_at(positions)
    is_high = clean == high
    is_corner = is_high | (clean == low)
    # uniform over the other corners: flip the clean corner's bits by a non-zero pattern
    pattern = 1 + below(words[:, :1], (1 << channels) - 1)
    flips = ((pattern >> torch.arange(channels, device=bits.device)) & 1).bool()
    return torch.where(is_corner.all(1, keepdim=True), is_high ^ flips[:, :, None], bits)


@helper
def _below(word: Any, high: int) -> Any:
    # the twin of seeding.below
    return ((word >> 33) & ((1 << 31) - 1)) * high >> 31


@compiled
def _propose(
    start: int, stop: int, M: Any, colours: Any, words: Any, x: Any, table: Any, moved: int, low: float, high: float
) -> None:  # fmt: skip
    k, n, channels = M.shape[1], len(table), x.shape[1]
    low, high = x.dtype.type(low), x.dtype.type(high)
    slots = 1 if moved == 1 else k
    taken = np.empty(k + moved, np.int64)
    for row in range(start, stop):
        taken[:k] = M[row]
        stays = np.ones(k, np.bool_)
        for i in range(moved):
            if moved == 1:
                leaving = _below(words[row, 0], k)
            else:  # the slots of the largest words
                leaving = -1
                for j in range(k):
                    if stays[j] and (leaving < 0 or words[row, j] > words[row, leaving]):
                        leaving = j
                stays[leaving] = False
            if n > k:
                # the r-th number outside a set is r plus how many of the set come before it
                r = _below(words[row, slots + i], n - k - i)
                entering, before = r, -1
                while before != entering - r:
                    before = entering - r
                    entering = r
                    for j in range(k + i):
                        entering += taken[j] <= r + before
                taken[k + i] = entering
                M[row, leaving] = entering
            position = table[M[row, leaving]]
            pattern = words[row, slots + moved + i]
            if moved == 1:
                # uniform over the corners other than the clean colour, if that is one
                corner, clean = True, np.int64(0)
                for c in range(channels):
                    is_high = x[row, c, position] == high
                    corner = corner and (is_high or x[row, c, position] == low)
                    clean |= np.int64(is_high) << c
                if corner:
                    pattern = clean ^ (1 + _below(pattern, (1 << channels) - 1))
            for c in range(channels):
                colours[row, c, leaving] = high if (pattern >> c) & 1 else low
