"""Projections and supports, each example on its own."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

_FINITE = (torch.finfo(torch.float32).min, torch.finfo(torch.float32).max)


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
    """Values, ascending, and indices of the k largest of each row, ties anyhow.

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
    """Indices of the k largest of each row in ascending order of their scores, ties anyhow."""
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
