"""Truncated inner products of the patches of images with all weights: the convolutions of truncated layers.

b       images
p       patches of an image, one for each position of a filter
o       outputs (filters)
d       coordinates of a patch

As in `truncated_products`, of the d products of a patch with a filter the `bottom` smallest and the `top` largest are
dropped, in the order of a stable ascending sort.  There a kernel lays the d products of one row in lanes, which suits
long rows; patches are short and many, so here 64 patches stand in the lanes.

(1) The k largest and smallest products of each lane come from sorting networks: groups of products, a power of two
and at least k, are sorted, and the better half of each with the best so far is kept.  (2) A second pass adds up what
lies between, and notes what does not, a bit for each patch.  (3) Only where several products equal the last one to go
are they counted, all 64 lanes at once in binary digits.  Backward the bits say what to leave out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from zeronorm.kernels.numba import compiled, part, serves
from zeronorm.kernels.truncated_products import truncated_products
from zeronorm.kernels.vectors import (
    FEW_LANES,
    LANES,
    add_unless,
    broadcast,
    greater,
    greater_equal,
    less,
    less_equal,
    load,
    load_few,
    load_padded_products,
    load_products,
    merge_largest,
    merge_smallest,
    multiply,
    multiply_add_unless,
    popcount,
    reduce_sum,
    sort_lanes,
    store,
    store_rows,
)

MOST = 16  # dropped at one end, beyond which the networks do not stay in registers

_DIGITS = 5  # of counts up to MOST
_TOGETHER = 8  # blocks of patches added up before the sum is written
_ONE = np.uint64(1)


def truncated_patches(
    patches: Float[Tensor, "b d p"], weight: Float[Tensor, "o d"], bottom: int, top: int
) -> Float[Tensor, "b o p"]:
    """Σ_i weight_oi patches_bip without the `bottom` smallest and the `top` largest terms.

    `patches` as `torch.nn.functional.unfold` gives them.  Gradients flow to both factors.
    """
    if bottom == top == 0:
        return weight @ patches
    b, d, p = patches.shape
    if (
        serves(patches.detach(), weight.detach())
        and patches.dtype == weight.dtype
        and max(bottom, top) <= MOST
        and min(b, p, len(weight)) > 0
    ):
        sums: Tensor = _TruncatedPatches.apply(patches, weight, bottom, top)
        return sums
    rows = truncated_products(patches.transpose(1, 2).reshape(b * p, d), weight, bottom, top)
    return rows.view(b, p, len(weight)).transpose(1, 2)


class _TruncatedPatches(torch.autograd.Function):
    """The kernels' forward and backward: patches padded to blocks of 64, the blocks numbered across images."""

    @staticmethod
    def forward(ctx: Any, patches: Tensor, weight: Tensor, bottom: int, top: int) -> Tensor:
        (b, d, p), o = patches.shape, len(weight)
        # copies of the last patch, which drop what it drops
        x = F.pad(patches.detach(), (0, -p % LANES), mode="replicate").view(b * d, -1)
        blocks = x.shape[1] // LANES
        weight = weight.detach()
        out = x.new_empty(b * o, x.shape[1])
        dropped = torch.empty(b * blocks, o, d, dtype=torch.int64)
        size = (0,) * (1 << (max(bottom, top, 1) - 1).bit_length())
        _sums(dropped.numpy().view(np.uint64), out, x, weight, bottom, top, size)
        ctx.save_for_backward(x, weight, dropped)
        ctx.patches = p
        return out.view(b, o, -1)[:, :, :p]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight, dropped = ctx.saved_tensors
        (b, o, p), d = gradient.shape, weight.shape[1]
        g = F.pad(gradient, (0, -p % LANES)).contiguous().view(b * o, -1)
        words = dropped.numpy().view(np.uint64)
        to_patches = to_weight = None
        if ctx.needs_input_grad[0]:
            to_x = torch.empty_like(x)
            _to_patches(words, to_x, g, weight)
            to_patches = to_x.view(b, d, -1)[:, :, :p]
        if ctx.needs_input_grad[1]:
            to_weight = torch.zeros_like(weight)
            _to_weight(words.transpose(1, 0, 2), to_weight, g, x)
        return to_patches, to_weight, None, None


# -- the kernels -------------------------------------------------------------------------------------------


@compiled
def _sums(
    start: int, stop: int, dropped: Any, out: Any, x: Any, weight: Any, bottom: int, top: int, size: Any
) -> None:
    """Truncated products in the blocks start..stop-1; a bit of `dropped[block, o, i]` for each patch."""
    number = x.dtype.type
    infinity, zero = number(np.inf), broadcast(number(0))
    outputs, d, blocks, k = weight.shape[0], weight.shape[1], x.shape[1] // LANES, len(size)
    rest = (d - 1) % k + 1  # of the first group, so that the others are whole
    most, least = np.empty((k, FEW_LANES), x.dtype), np.empty((k, FEW_LANES), x.dtype)
    border_above, border_below = np.empty((1, LANES), x.dtype), np.empty((1, LANES), x.dtype)
    full = ~np.uint64(0)
    for block in range(start, stop):
        image, column = block // blocks, block % blocks * LANES
        row = image * d
        for o in range(outputs):
            for few in range(0, LANES, FEW_LANES):
                at = column + few
                high = sort_lanes(load_padded_products(size, x, row, at, weight, o, 0, rest, -infinity))
                low = sort_lanes(load_padded_products(size, x, row, at, weight, o, 0, rest, infinity))
                for i in range(rest, d, k):
                    group = sort_lanes(load_products(size, x, row, at, weight, o, i, k, infinity))
                    high, low = merge_largest(high, group), merge_smallest(low, group)
                store_rows(most, high)
                store_rows(least, low)
                # where none is to go, any will do
                store(border_above, 0, few, load_few(most, k - max(top, 1), 0))
                store(border_below, 0, few, load_few(least, max(bottom, 1) - 1, 0))
            above_here, below_here = load(border_above, 0, 0), load(border_below, 0, 0)
            kept, gone_above, gone_below = zero, 0, 0
            with_above, with_below = full if top else np.uint64(0), full if bottom else np.uint64(0)
            for i in range(d):
                p = multiply(load(x, row + i, column), broadcast(weight[o, i]))
                high_word = greater_equal(p, above_here) & with_above
                low_word = less_equal(p, below_here) & with_below
                gone_above += popcount(high_word)
                gone_below += popcount(low_word)
                dropped[block, o, i] = high_word | low_word
                kept = add_unless(kept, p, high_word | low_word)
            if gone_above != top * LANES or gone_below != bottom * LANES:
                kept = zero
                _among_equals(
                    dropped, block, x, row, column, weight, o, border_above, border_below, bottom, top
                )
                for i in range(d):
                    p = multiply(load(x, row + i, column), broadcast(weight[o, i]))
                    kept = add_unless(kept, p, dropped[block, o, i])
            store(out, image * outputs + o, column, kept)


@part
def _among_equals(
    dropped: Any, block: int, x: Any, row: int, column: int, weight: Any, o: int,
    border_above: Any, border_below: Any, bottom: int, top: int,
) -> None:  # fmt: skip
    """Decide anew what is dropped where several products equal the border: the outermost of them."""
    d = weight.shape[1]
    above_here, below_here = load(border_above, 0, 0), load(border_below, 0, 0)
    left_above, left_below = np.zeros(_DIGITS, np.uint64), np.zeros(_DIGITS, np.uint64)
    for digit in range(_DIGITS):
        left_above[digit] = ~np.uint64(0) if top >> digit & 1 else np.uint64(0)
        left_below[digit] = ~np.uint64(0) if bottom >> digit & 1 else np.uint64(0)
    for i in range(d):
        p = multiply(load(x, row + i, column), broadcast(weight[o, i]))
        high_word = greater(p, above_here) if top else np.uint64(0)
        low_word = less(p, below_here) if bottom else np.uint64(0)
        _count_down(left_above, high_word)
        _count_down(left_below, low_word)
        dropped[block, o, i] = high_word | low_word
    for i in range(d):
        p = multiply(load(x, row + i, column), broadcast(weight[o, i]))
        wanted = less_equal(p, below_here) & greater_equal(p, below_here) & _any(left_below)
        _count_down(left_below, wanted)
        dropped[block, o, i] |= wanted
    for i in range(d - 1, -1, -1):
        p = multiply(load(x, row + i, column), broadcast(weight[o, i]))
        wanted = less_equal(p, above_here) & greater_equal(p, above_here) & _any(left_above)
        _count_down(left_above, wanted)
        dropped[block, o, i] |= wanted


@part
def _count_down(digits: Any, word: Any) -> None:
    """Subtract 1 in each lane of the mask; the binary digits of a lane's number are bits of different words."""
    for digit in range(_DIGITS):
        before = digits[digit]
        digits[digit] = before ^ word
        word &= ~before


@part
def _any(digits: Any) -> Any:
    """A mask of the lanes whose number is not 0."""
    word = digits[0]
    for digit in range(1, _DIGITS):
        word |= digits[digit]
    return word


@compiled
def _to_patches(start: int, stop: int, dropped: Any, out: Any, g: Any, weight: Any) -> None:
    """out[i, patch] = Σ_o g[o, patch] weight[o, i] where kept, in the blocks start..stop-1."""
    outputs, d, blocks = weight.shape[0], weight.shape[1], g.shape[1] // LANES
    zero = broadcast(g.dtype.type(0))
    for block in range(start, stop):
        image, column = block // blocks, block % blocks * LANES
        for i in range(0, d, 4):
            # past the end the last coordinate is done again
            i2, i3, i4 = min(i + 1, d - 1), min(i + 2, d - 1), min(i + 3, d - 1)
            a, b, c, e = zero, zero, zero, zero
            for o in range(outputs):
                here = load(g, image * outputs + o, column)
                a = multiply_add_unless(a, weight[o, i], here, dropped[block, o, i])
                b = multiply_add_unless(b, weight[o, i2], here, dropped[block, o, i2])
                c = multiply_add_unless(c, weight[o, i3], here, dropped[block, o, i3])
                e = multiply_add_unless(e, weight[o, i4], here, dropped[block, o, i4])
            store(out, image * d + i, column, a)
            store(out, image * d + i2, column, b)
            store(out, image * d + i3, column, c)
            store(out, image * d + i4, column, e)


@compiled
def _to_weight(start: int, stop: int, dropped: Any, out: Any, g: Any, x: Any) -> None:
    """out[o, i] = Σ_patch g[o, patch] x[i, patch] where kept, for the outputs start..stop-1."""
    outputs, d, blocks = out.shape[0], out.shape[1], g.shape[1] // LANES
    zero = broadcast(g.dtype.type(0))
    for first in range(0, dropped.shape[1], _TOGETHER):
        last = min(first + _TOGETHER, dropped.shape[1])
        for o in range(start, stop):
            for i in range(d):
                sums = zero
                for block in range(first, last):
                    image, column = block // blocks, block % blocks * LANES
                    sums = multiply_add_unless(
                        sums,
                        load(g, image * outputs + o, column),
                        load(x, image * d + i, column),
                        dropped[o, block, i],
                    )
                out[o, i] += reduce_sum(sums)
