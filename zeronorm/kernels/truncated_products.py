"""Truncated inner products of all rows with all weights, forward and back, without the tensor of all products.

r       rows: examples, or patches of images
o       outputs
d       coordinates of a row and of a weight
n       of the d products of a row with a weight, the `bottom` smallest and the `top` largest are dropped, n in all

Which ones is decided on the products as rounded in their type, in the order of a stable ascending sort: of
equal products the lower coordinate counts as the smaller, so that no coordinate is dropped twice.  On a CPU
numba's kernels do the work, on a GPU Triton's (`truncated_products_gpu`); elsewhere their twin in torch does,
which sorts and judges both in the tests.

The kernels never sort.  (1) The d products fall into groups, 64 of them unless many are dropped, and only each
group's largest and smallest are kept: at least k products reach the k-th largest of the group maxima, and few
more do.  (2) A second pass marks the products beyond that threshold, one bit each; among those few the k
largest are found exactly.  (3) A third pass sums what was not dropped: nothing is subtracted, so that a
dropped product of 1e30 leaves no trace.  Backward, the dropped coordinates are set to 0 in a copy of each
row, for the same reason.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from zeronorm.kernels.numba import compiled, part, serves
from zeronorm.kernels.vectors import (
    LANES,
    add_unless,
    broadcast,
    first_set_bit,
    greater,
    greater_equal,
    last_set_bit,
    less,
    less_equal,
    load,
    maximum,
    minimum,
    multiply,
    multiply_add,
    negate,
    popcount,
    reduce_max,
    reduce_min,
    reduce_sum,
    store,
    where_at_least,
)

_CHUNK = 1 << 24  # products that the twin holds at a time
_TILE = 1 << 18  # bytes of weights that the kernel goes over before it takes the next row
_TOGETHER = 1 << 18  # bytes of rows that the kernel adds up before it takes the next sum
_ONE = np.uint64(1)


def truncated_products(
    x: Float[Tensor, "r d"], weight: Float[Tensor, "o d"], bottom: int, top: int
) -> Float[Tensor, "r o"]:
    """Σ_i weight_oi x_ri without the `bottom` smallest and the `top` largest terms, for every row and output.

    Together they are at most d; ⟨weight_o, x_r⟩_k has both k.  Gradients flow to both factors.
    """
    if bottom == top == 0:
        return F.linear(x, weight)
    products: Tensor = _TruncatedProducts.apply(x, weight, bottom, top)
    return products


class _TruncatedProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bottom: int, top: int) -> Tensor:
        x, weight = x.detach().contiguous(), weight.detach().contiguous()
        sums, *dropped = _backend(x, weight).sums(x, weight, bottom, top)
        ctx.save_for_backward(x, weight, *dropped)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight, *dropped = ctx.saved_tensors
        backend = _backend(x, weight)
        to_x = backend.rows(gradient.contiguous(), weight, x, *dropped) if ctx.needs_input_grad[0] else None
        to_weight = None
        if ctx.needs_input_grad[1]:
            turned = (tensor.transpose(0, 1).contiguous() for tensor in dropped)
            to_weight = backend.rows(gradient.t().contiguous(), x, weight, *turned)
        return to_x, to_weight, None, None


def _backend(x: Tensor, weight: Tensor) -> Any:
    """The two functions that serve these tensors: the CPU's kernels, the GPU's, or their twins in torch.

    `sums(x, weight, bottom, top)` gives the truncated products (r, o) and tensors that begin (r, o) and say what was
    dropped; `rows(G, M, N, *dropped)` gives Σ_s G[r, s] M[s] without the coordinates dropped between N[r] and
    M[s].
    """
    if serves(x, weight) and x.dtype == weight.dtype:
        return _Compiled
    if x.is_cuda and x.dtype == weight.dtype == torch.float32:
        from zeronorm.kernels import truncated_products_gpu as truncated_products_gpu

        if truncated_products_gpu.available() and x.shape[1] <= truncated_products_gpu.WIDEST:
            return truncated_products_gpu
    return _Sorted


def _narrowest(coordinates: int) -> torch.dtype:
    return torch.int16 if coordinates <= 1 << 15 else torch.int32


class _Sorted:
    """The twin in torch: a stable sort of all products, some outputs at a time."""

    @staticmethod
    def sums(
        x: Float[Tensor, "r d"], weight: Float[Tensor, "o d"], bottom: int, top: int
    ) -> tuple[Float[Tensor, "r o"], Int[Tensor, "r o n"]]:
        d = x.shape[1]
        values, dropped = [], []
        for some in weight.split(max(1, _CHUNK // max(1, x.numel()))):
            products = x[:, None] * some
            order = products.argsort(dim=2, stable=True)
            values.append(products.gather(2, order[:, :, bottom : d - top].sort(2).values).sum(2))
            dropped.append(torch.cat([order[:, :, :bottom], order[:, :, d - top :]], 2).to(_narrowest(d)))
        return torch.cat(values, 1), torch.cat(dropped, 1)

    @staticmethod
    def rows(
        G: Float[Tensor, "r s"],
        M: Float[Tensor, "s d"],
        N: Float[Tensor, "r d"],
        dropped: Int[Tensor, "r s n"],
    ) -> Float[Tensor, "r d"]:
        out = torch.zeros_like(N)
        step = max(1, _CHUNK // max(1, N.numel()))
        for some, g, gone in zip(M.split(step), G.split(step, 1), dropped.split(step, 1), strict=True):
            kept = some.expand(len(N), *some.shape).scatter(2, gone.long(), 0.0)
            out += torch.einsum("rs,rsd->rd", g, kept)
        return out


class _Compiled:
    """Forward and backward by the CPU's kernels."""

    @staticmethod
    def sums(
        x: Float[Tensor, "r d"], weight: Float[Tensor, "o d"], bottom: int, top: int
    ) -> tuple[Float[Tensor, "r o"], Int[Tensor, "r o n"]]:
        (r, d), o = x.shape, len(weight)
        out, dropped = x.new_empty(r, o), torch.empty(r, o, bottom + top, dtype=_narrowest(d))
        valid = x.new_ones(1, LANES)
        if d % LANES:
            valid[:, d % LANES :] = torch.nan
        x, weight = _padded(x), _padded(weight)
        tile = max(1, _TILE // (weight.shape[1] * weight.element_size()))
        if r and o:
            _sums(dropped, out, x, weight, valid, bottom, tile)
        return out, dropped

    @staticmethod
    def rows(
        G: Float[Tensor, "r s"],
        M: Float[Tensor, "s d"],
        N: Float[Tensor, "r d"],
        dropped: Int[Tensor, "r s n"],
    ) -> Float[Tensor, "r d"]:
        M, d = _padded(M), M.shape[1]
        out = M.new_zeros(len(G), M.shape[1])
        tile = max(4, _TOGETHER // (M.shape[1] * M.element_size()) // 4 * 4)
        if len(G) and len(M):
            _rows(dropped, out, G, M, tile)
        return out[:, :d].contiguous()


def _padded(rows: Float[Tensor, "r d"]) -> Float[Tensor, "r padded"]:
    """The matrix, its rows padded with zeros to a whole number of vectors."""
    return F.pad(rows, (0, -rows.shape[1] % LANES))


# -- the kernels -------------------------------------------------------------------------------------------
# A vector of "values" is padded with NaN or -inf up to a whole number of `groups`, each of 64 lanes.


@compiled
def _sums(
    start: int, stop: int, dropped: Any, out: Any, x: Any, weight: Any, valid: Any, bottom: int, tile: int
) -> None:
    """Truncated products of rows start..stop-1; `dropped` holds the smallest, then the largest of each."""
    number = x.dtype.type
    outputs, chunks, top = weight.shape[0], x.shape[1] // LANES, dropped.shape[2] - bottom
    groups = min(chunks, (5 * max(bottom, top) // 2 + LANES - 1) // LANES)
    largest_of, smallest_of = np.empty((1, groups * LANES), x.dtype), np.empty((1, groups * LANES), x.dtype)
    high, low, gone = (np.zeros(chunks, np.uint64), np.zeros(chunks, np.uint64), np.zeros(chunks, np.uint64))
    places, values = np.empty(x.shape[1] + 2, np.int64), np.empty((1, x.shape[1] + LANES), x.dtype)
    nothing, infinity, end = broadcast(number(0)), number(np.inf), LANES * (chunks - 1)
    filled = greater_equal(load(valid, 0, 0), number(1))
    for first in range(0, outputs, tile):
        for r in range(start, stop):
            for o in range(first, min(first + tile, outputs)):
                for g in range(groups):
                    most, least = broadcast(-infinity), broadcast(infinity)
                    for c in range(g, chunks - 1, groups):
                        p = multiply(load(x, r, LANES * c), load(weight, o, LANES * c))
                        most, least = maximum(p, most), minimum(p, least)
                    if (chunks - 1) % groups == g:
                        p = multiply(multiply(load(x, r, end), load(weight, o, end)), load(valid, 0, 0))
                        most, least = maximum(p, most), minimum(p, least)
                    store(largest_of, 0, LANES * g, most)
                    store(smallest_of, 0, LANES * g, negate(least))
                above_here, below_here = infinity, -infinity
                if top:
                    above_here = _threshold(largest_of, groups, top, max(3, top // 4))
                if bottom:
                    below_here = -_threshold(smallest_of, groups, bottom, max(3, bottom // 4))
                for c in range(chunks):
                    p = multiply(load(x, r, LANES * c), load(weight, o, LANES * c))
                    high[c], low[c] = greater_equal(p, above_here), less_equal(p, below_here)
                high[chunks - 1] &= filled
                low[chunks - 1] &= filled
                if bottom:
                    _choose(low, bottom, x, r, weight, o, -1, below_here, dropped, 0, places, values)
                if top:
                    _choose(high, top, x, r, weight, o, 1, above_here, dropped, bottom, places, values)
                for j in range(bottom + top):
                    i = dropped[r, o, j]
                    gone[i >> 6] |= _ONE << np.uint64(i & 63)
                kept = nothing
                for c in range(chunks):
                    kept = add_unless(
                        kept, multiply(load(x, r, LANES * c), load(weight, o, LANES * c)), gone[c]
                    )
                    gone[c] = 0
                out[r, o] = reduce_sum(kept)


@part
def _threshold(values: Any, groups: int, k: int, slack: int) -> Any:
    """A threshold that at least k of the values reach, and at most k + slack unless many are equal."""
    number = values.dtype.type
    infinity, half, finite = number(np.inf), number(0.5), np.finfo(values.dtype).max
    most = broadcast(-infinity)
    for g in range(groups):
        most = maximum(load(values, 0, LANES * g), most)
    high = reduce_max(most)
    if _count_at_least(values, groups, high) >= k:
        return high
    low = _next_at_least(values, groups, -finite)
    count = _count_at_least(values, groups, low)
    if count < k:
        return -infinity
    if count <= k + slack or _count_above(values, groups, low) < k:
        return low
    rounds = 0
    while True:
        # at least k reach `low`, fewer `high`
        middle = half * low + half * min(high, finite)
        if not (low < middle and middle < high):
            return low
        count = _count_at_least(values, groups, middle)
        if count < k:
            high = middle
        else:
            low = middle
            if count <= k + slack:
                return low
            if rounds > 3:  # are they many because they are equal?
                low = _next_at_least(values, groups, middle)
                if _count_above(values, groups, low) < k:
                    return low
        rounds += 1


@part
def _count_at_least(values: Any, groups: int, number: Any) -> Any:
    count = 0
    for g in range(groups):
        count += popcount(greater_equal(load(values, 0, LANES * g), number))
    return count


@part
def _count_above(values: Any, groups: int, number: Any) -> Any:
    count = 0
    for g in range(groups):
        count += popcount(greater(load(values, 0, LANES * g), number))
    return count


@part
def _next_at_least(values: Any, groups: int, number: Any) -> Any:
    infinity = values.dtype.type(np.inf)
    least = broadcast(infinity)
    for g in range(groups):
        least = minimum(where_at_least(load(values, 0, LANES * g), number, infinity), least)
    return reduce_min(least)


@part
def _choose(
    marked: Any, k: int, x: Any, r: int, weight: Any, o: int, sign: int, border: Any,
    dropped: Any, n: int, places: Any, values: Any,
) -> None:  # fmt: skip
    """Write to `dropped[r, o, n:]` k of the marked coordinates: those with the largest sign·x·weight.

    Of equal ones the highest coordinates for sign 1, the lowest for sign -1.
    """
    chunks = len(marked)
    count = 0
    for c in range(chunks):
        count += popcount(marked[c])
    if count > 4 * k + LANES and _choose_among_equals(marked, k, x, r, weight, o, sign, border, dropped, n):
        return
    _unpack(marked, places)
    if count == k:
        for j in range(k):
            dropped[r, o, n + j] = places[j]
        return
    groups = (count + LANES - 1) // LANES
    store(values, 0, LANES * (groups - 1), broadcast(values.dtype.type(np.nan)))
    for j in range(count):
        product = weight[o, places[j]] * x[r, places[j]]
        values[0, j] = product if sign > 0 else -product
    least = _threshold(values, groups, k, 0)
    spare = _count_at_least(values, groups, least) - k  # so many of those equal to the least are left
    for step in range(groups):
        g = step if sign > 0 else groups - 1 - step
        word = greater(load(values, 0, LANES * g), least)
        equal = greater_equal(load(values, 0, LANES * g), least) & ~word
        while spare > 0 and equal:
            equal &= ~(_ONE << np.uint64(first_set_bit(equal) if sign > 0 else last_set_bit(equal)))
            spare -= 1
        word |= equal
        while word:
            dropped[r, o, n] = places[LANES * g + first_set_bit(word)]
            word &= word - _ONE
            n += 1


@part
def _choose_among_equals(
    marked: Any, k: int, x: Any, r: int, weight: Any, o: int, sign: int, border: Any,
    dropped: Any, n: int,
) -> bool:  # fmt: skip
    """`_choose` where fewer than k are beyond the border: many are equal to it, as on a black background."""
    chunks = len(marked)
    beyond = 0
    for c in range(chunks):
        p = multiply(load(x, r, LANES * c), load(weight, o, LANES * c))
        beyond += popcount((greater(p, border) if sign > 0 else less(p, border)) & marked[c])
    if beyond >= k:
        return False
    wanted = k - beyond
    for step in range(chunks):
        c = step if sign < 0 else chunks - 1 - step
        p = multiply(load(x, r, LANES * c), load(weight, o, LANES * c))
        word = (greater(p, border) if sign > 0 else less(p, border)) & marked[c]
        equal = marked[c] & ~word
        while wanted > 0 and equal:
            bit = _ONE << np.uint64(last_set_bit(equal) if sign > 0 else first_set_bit(equal))
            equal &= ~bit
            word |= bit
            wanted -= 1
        while word:
            dropped[r, o, n] = LANES * c + first_set_bit(word)
            word &= word - _ONE
            n += 1
    return True


@part
def _unpack(marked: Any, places: Any) -> None:
    """Write the places of all set bits.  Most words have two at most, so two are written without asking."""
    n = 0
    for c in range(len(marked)):
        word, count = marked[c], popcount(marked[c])
        places[n] = LANES * c + first_set_bit(word)
        word &= word - _ONE
        places[n + 1] = LANES * c + first_set_bit(word)
        for j in range(2, count):
            word &= word - _ONE
            places[n + j] = LANES * c + first_set_bit(word)
        n += count


@compiled
def _rows(start: int, stop: int, dropped: Any, out: Any, G: Any, M: Any, tile: int) -> None:
    """out[r] = Σ_s G[r, s] M[s], each M[s] without the coordinates dropped[r, s]."""
    size, left_out = M.shape[0], dropped.shape[2]
    scratch = np.zeros((tile, M.shape[1]), M.dtype)  # rows of M; zeroed where dropped while in use
    for first in range(0, size, tile):
        last = min(first + tile, size)
        scratch[: last - first] = M[first:last]
        for r in range(start, stop):
            for s in range(first, last, 4):
                for t in range(s, min(s + 4, last)):
                    for j in range(left_out):
                        scratch[t - first, dropped[r, t, j]] = 0
                t = s - first
                # past the end a zero row with the weight 0 takes part
                g_a, g_b = G[r, s], G[r, s + 1] if s + 1 < last else M.dtype.type(0)
                g_c, g_d = (
                    G[r, s + 2] if s + 2 < last else M.dtype.type(0),
                    G[r, s + 3] if s + 3 < last else M.dtype.type(0),
                )
                for i in range(0, M.shape[1], LANES):
                    sums = multiply_add(load(out, r, i), g_a, load(scratch, t, i))
                    sums = multiply_add(sums, g_b, load(scratch, t + 1, i))
                    sums = multiply_add(sums, g_c, load(scratch, t + 2, i))
                    store(out, r, i, multiply_add(sums, g_d, load(scratch, t + 3, i)))
                for t in range(s, min(s + 4, last)):
                    for j in range(left_out):
                        scratch[t - first, dropped[r, t, j]] = M[t, dropped[r, t, j]]
