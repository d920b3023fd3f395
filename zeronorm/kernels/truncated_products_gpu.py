"""Truncated inner products on a GPU, in Triton: the counterpart of the kernels of `truncated_products`.

A product is read as an integer that sorts alike, and the k-th largest and smallest of these are found by
bisection of their 32 bits: the products of a row with some weights stay in registers and are counted 64 times.
What is kept for the backward pass are four integers for each output: the two bounds and, since equal products
are told apart by their coordinates, up to and from which coordinate those equal to a bound are dropped.
Backward the products are made again and compared.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int32
from torch import Tensor

if TYPE_CHECKING:
    import triton.language as tl

WIDEST = 1 << 14  # coordinates: one program holds the products of all

_HELD = 1 << 12  # products that a program holds where rows are short


def available() -> bool:
    """Whether Triton is installed, as it is beside torch for CUDA."""
    return find_spec("triton") is not None


def sums(
    x: Float[Tensor, "r d"], weight: Float[Tensor, "o d"], bottom: int, top: int
) -> tuple[Float[Tensor, "r o"], Int32[Tensor, "r o 4"]]:
    (rows, d), outputs = x.shape, len(weight)
    out = x.new_empty(rows, outputs)
    bounds = torch.empty(rows, outputs, 4, dtype=torch.int32, device=x.device)
    width = 1 << (d - 1).bit_length()
    together = max(1, min(16, _HELD // width))
    if rows and outputs:
        grid = (rows, -(-outputs // together))
        _kernels()[0][grid](x, weight, out, bounds, outputs, d, bottom, top, WIDTH=width, TOGETHER=together)
    return out, bounds


def rows(
    G: Float[Tensor, "r s"],
    M: Float[Tensor, "s d"],
    N: Float[Tensor, "r d"],
    bounds: Int32[Tensor, "r s 4"],
) -> Float[Tensor, "r d"]:
    (r, s), d = G.shape, M.shape[1]
    out = torch.zeros_like(N)
    if r and s:
        grid = (-(-r // 16), -(-d // 64))
        _kernels()[1][grid](G, M, N, bounds, out, r, s, d, ROWS=16, WIDTH=64)
    return out


@cache
def _kernels() -> tuple[Any, Any]:
    """Both kernels, made when first needed: Triton is not installed everywhere."""
    import triton
    import triton.language

    def kernel(function: Callable[..., Any]) -> Any:
        # Triton reads the function itself, not the checks that the tests wrap around it
        return triton.jit(inspect.unwrap(function))

    globals()["tl"] = triton.language  # where Triton looks names up
    return kernel(_sums), kernel(_rows)


def _sums(
    x: Any, weight: Any, out: Any, bounds: Any, outputs: Any, d: Any, bottom: Any, top: Any,
    WIDTH: tl.constexpr, TOGETHER: tl.constexpr,
) -> None:  # fmt: skip
    r = tl.program_id(0).to(tl.int64)
    o = tl.program_id(1) * TOGETHER + tl.arange(0, TOGETHER)
    i = tl.arange(0, WIDTH)
    inside = (o[:, None] < outputs) & (i[None, :] < d)
    row = tl.load(x + r * d + i, mask=i < d, other=0.0)
    products = row[None, :] * tl.load(weight + o[:, None] * d + i[None, :], mask=inside, other=0.0)
    bits = (products + 0.0).to(tl.int32, bitcast=True)  # of -0 as of 0
    key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    key = key.to(tl.int64)
    real = i[None, :] < d

    # the smallest key among the `top` largest, the largest among the `bottom` smallest
    least, most = tl.full([TOGETHER], -(1 << 31), tl.int64), tl.full([TOGETHER], (1 << 31) - 1, tl.int64)
    first, last = tl.full([TOGETHER], -(1 << 31), tl.int64), tl.full([TOGETHER], (1 << 31) - 1, tl.int64)
    for _ in range(32):
        middle = least + ((most - least + 1) >> 1)
        enough = tl.sum(((key >= middle[:, None]) & real).to(tl.int32), axis=1) >= top
        least, most = tl.where(enough, middle, least), tl.where(enough, most, middle - 1)
        middle = first + ((last - first) >> 1)
        enough = tl.sum(((key <= middle[:, None]) & real).to(tl.int32), axis=1) >= bottom
        first, last = tl.where(enough, first, middle + 1), tl.where(enough, middle, last)
    high, low = least, last

    # of those equal to a bound as many as are missing: the highest coordinates above, the lowest below
    equal = ((key == high[:, None]) & real).to(tl.int32)
    wanted = top - tl.sum(((key > high[:, None]) & real).to(tl.int32), axis=1)
    from_end = tl.sum(equal, axis=1)[:, None] - tl.cumsum(equal, axis=1) + equal
    start = tl.min(tl.where((equal > 0) & (from_end <= wanted[:, None]), i[None, :], WIDTH), axis=1)
    equal = ((key == low[:, None]) & real).to(tl.int32)
    wanted = bottom - tl.sum(((key < low[:, None]) & real).to(tl.int32), axis=1)
    stop = tl.max(
        tl.where((equal > 0) & (tl.cumsum(equal, axis=1) <= wanted[:, None]), i[None, :], -1), axis=1
    )

    dropped = (key > high[:, None]) | ((key == high[:, None]) & (i[None, :] >= start[:, None]))
    dropped |= (key < low[:, None]) | ((key == low[:, None]) & (i[None, :] <= stop[:, None]))
    there = o < outputs
    place = r * outputs + o
    tl.store(out + place, tl.sum(tl.where(dropped | (real == 0), 0.0, products), axis=1), mask=there)
    tl.store(bounds + place * 4, low.to(tl.int32), mask=there)
    tl.store(bounds + place * 4 + 1, stop, mask=there)
    tl.store(bounds + place * 4 + 2, high.to(tl.int32), mask=there)
    tl.store(bounds + place * 4 + 3, start, mask=there)


def _rows(
    G: Any, M: Any, N: Any, bounds: Any, out: Any, rows: Any, size: Any, d: Any,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
) -> None:  # fmt: skip
    r = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    i = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    there = r < rows
    inside = there[:, None] & (i[None, :] < d)
    own = tl.load(N + r[:, None] * d + i[None, :], mask=inside, other=0.0)
    total = tl.zeros([ROWS, WIDTH], tl.float32)
    for s in range(size):
        other = tl.load(M + s * d + i, mask=i < d, other=0.0)
        factor = tl.load(G + r * size + s, mask=there, other=0.0)
        place = bounds + (r * size + s) * 4
        low, stop = tl.load(place, mask=there, other=0), tl.load(place + 1, mask=there, other=0)
        high, start = tl.load(place + 2, mask=there, other=0), tl.load(place + 3, mask=there, other=0)
        bits = (own * other[None, :] + 0.0).to(tl.int32, bitcast=True)
        key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        dropped = (key > high[:, None]) | ((key == high[:, None]) & (i[None, :] >= start[:, None]))
        dropped |= (key < low[:, None]) | ((key == low[:, None]) & (i[None, :] <= stop[:, None]))
        total += tl.where(dropped, 0.0, factor[:, None] * other[None, :])
    tl.store(out + r[:, None] * d + i[None, :], total, mask=inside)
