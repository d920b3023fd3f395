"""Projections onto budgets and boxes, and choices of the k largest, for each example on its own."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_FINITE = (torch.finfo(torch.float32).min, torch.finfo(torch.float32).max)
_TINY = 1e-12  # a vector shorter than this has no direction


def top_k(scores: Float[Tensor, "b p"], k: int) -> Int[Tensor, "b k"]:
    """Indices of the k largest scores of each row; ties go to the lower index, on every device.

    The order of the indices within a row is not defined.  0 <= k <= p.
    """
    if k >= scores.shape[1] or k == 0:
        return scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    # one more than asked: only a tie across the border makes the choice among equals matter
    values, indices = _largest(scores, k + 1)
    chosen = indices[:, 1:]
    tied = values[:, 0] == values[:, 1]
    if tied.any():
        chosen[tied] = scores[tied].argsort(dim=1, descending=True, stable=True)[:, :k]
    return chosen


def _largest(scores: Float[Tensor, "b p"], k: int) -> tuple[Float[Tensor, "b k"], Int[Tensor, "b k"]]:
    """Values (ascending) and indices of the k largest of each row; ties in any order.

    Of a long row laid out in a few lines, the k largest lie in the k columns with the largest maxima: a cheap
    maximum leaves a fraction of the row to choose from.  (An equal score in another column is at most the last
    of these maxima, hence at most the least value returned: `top_k` sees the tie.)
    """
    p = scores.shape[1]
    lines = next((n for n in (8, 7, 6, 5, 4) if p % n == 0 and p >= 4 * n * k), 1)
    if lines == 1:
        indices = _where_largest(scores, k)
    else:
        columns = _where_largest(scores.unflatten(1, (lines, p // lines)).amax(1), k)
        places = columns[:, None] + torch.arange(0, p, p // lines, device=scores.device)[:, None]
        places = places.flatten(1)
        indices = places.gather(1, _where_largest(scores.gather(1, places), k))
    return scores.gather(1, indices), indices


def _where_largest(scores: Float[Tensor, "b p"], k: int) -> Int[Tensor, "b k"]:
    """Indices of the k largest of each row, in ascending order of their scores; ties in any order."""
    if scores.device.type == "cpu" and scores.dtype != torch.float64:
        # A float32 leaves 29 bits of a float64 empty, room for its index.  Sorting such numbers by numpy's
        # vector instructions takes a third of the time of torch.topk.
        keys = scores.clamp(*_FINITE).to(torch.float64)  # infinity has no room: such bits would make it NaN
        bits = keys.view(torch.int64)
        bits |= torch.arange(scores.shape[1])
        keys.numpy().sort(axis=1)
        if not keys[:, -1].isnan().any():
            return bits[:, -k:] & ((1 << 29) - 1)
    return scores.topk(k, dim=1).indices.flip(1)


def top_each(scores: Float[Tensor, "b p"], k: Int[Tensor, "b"]) -> Bool[Tensor, "b p"]:
    """A mask of the k largest scores of each row, with a k for each row; ties go to the lower index.

    0 <= k <= p.
    """
    most = int(k.max()) if len(k) else 0
    if most == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    values = scores.topk(most, dim=1).values
    last = values.gather(1, (k - 1).clamp_min_(0)[:, None]).masked_fill_((k == 0)[:, None], math.inf)
    chosen = scores >= last
    tied = chosen.sum(1) > k
    if tied.any():
        some, above = scores[tied], scores[tied] > last[tied]
        at = (some == last[tied]).logical_and_(~above)
        room = (k[tied] - above.sum(1))[:, None]
        chosen[tied] = above.logical_or_(at & (at.cumsum(1) <= room))
    return chosen


def clipped_gains(
    v: Float[Tensor, "b g p"],
    x: Float[Tensor, "b g p"],
    low: Float[Tensor, "#b #g #p"] | float,
    high: Float[Tensor, "#b #g #p"] | float,
) -> tuple[Float[Tensor, "b g p"], Float[Tensor, "b p"]]:
    """v clipped to the box, and by how much that is nearer to v at every position than x is.

    In squared distance: Σ_channels (v - x)² - (v - clip(v))², at least 0, as x is in the box.
    """
    clipped = v.clamp(low, high)  # type: ignore[arg-type]  # two numbers or two tensors
    # with δ = v - x and c = clip(v) - x this is δ² - (δ - c)² = c (2δ - c), where no large numbers cancel
    c = clipped - x
    gains = (v - x).mul_(2.0).sub_(c).mul_(c)
    return clipped, gains.sum(1) if gains.shape[1] > 1 else gains.squeeze(1)


def onto_l0_box(
    v: Float[Tensor, "b g p"],
    x: Float[Tensor, "b g p"],
    low: Float[Tensor, "#b #g #p"] | float,
    high: Float[Tensor, "#b #g #p"] | float,
    k: int,
    allowed: Bool[Tensor, "p"] | None = None,
) -> tuple[Int[Tensor, "b k"], Float[Tensor, "b g k"]]:
    """The closest point to v that lies in the box [low, high] and differs from x at no more than k positions.

    Returns:
        Those positions (allowed ones, if a mask is given), and the values to write there, exactly inside the
        box; x stays elsewhere.
    """
    clipped, gains = clipped_gains(v, x, low, high)
    if allowed is not None:
        gains = gains.masked_fill(~allowed, -math.inf)
    positions = top_k(gains, k)
    return positions, clipped.gather(2, positions[:, None].expand(-1, v.shape[1], -1))


def onto_half_space_in_box(
    v: Float[Tensor, "b ..."],
    w: Float[Tensor, "b ..."],
    gap: Float[Tensor, "b"],
    low: Float[Tensor, "b ..."],
    high: Float[Tensor, "b ..."],
) -> Float[Tensor, "b ..."]:
    """The closest point u to v in the box with w · (u - v) >= gap; the corner along w where there is none.

    For v in the box.  It is clip(v + λ w) for the least λ that gets there.  The way that w gains by λ is concave,
    in straight pieces, so that Newton's method climbs to it without passing, and ends.
    """
    v, low, high = v.flatten(1), low.flatten(1), high.flatten(1)
    shape, w = w.shape, w.flatten(1)
    slope = w.abs()
    room = torch.where(w > 0, high - v, torch.where(w < 0, v - low, 0.0))
    # at most one corner of the pieces for each entry
    λ, reach = torch.zeros_like(gap), (room / slope.clamp_min(1e-30)).where(slope > 0, 0.0)
    for _ in range(w.shape[1] + 1):
        free = λ[:, None] < reach
        gained = (slope * torch.where(free, λ[:, None] * slope, room)).sum(1)
        steepness = (slope * slope * free).sum(1)
        short = (gained < gap) & (steepness > 0)
        higher = torch.where(
            short, λ + (gap - gained) / steepness.clamp_min(1e-300 if λ.dtype == torch.float64 else 1e-30), λ
        )
        if bool((higher <= λ).all()):
            break
        λ = higher
    moved = torch.where(
        λ[:, None] < reach, v + λ[:, None] * w, torch.where(w > 0, high, low).where(w != 0, v)
    )
    return torch.clamp(moved.where((gap > 0)[:, None], v), low, high).view(shape)


def unit(v: Float[Tensor, "b g p"], norm: float) -> Float[Tensor, "b g p"]:
    """Scale each example of v to length 1 in the given norm, in place; zero stays zero."""
    flat = v.flatten(1)
    if len(flat) == 1:
        flat = flat.expand(2, -1)  # torch splits a long row's sum among threads where it is the only one
    # torch's own norm of order infinity takes twenty times as long
    length = flat.abs().amax(1) if norm == math.inf else torch.linalg.vector_norm(flat, ord=norm, dim=1)
    return v.div_(length[: len(v)].clamp_min_(_TINY)[:, None, None])
