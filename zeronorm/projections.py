"""Projections and supports, each example on its own."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor


def top_k(scores: Float[Tensor, "b p"], k: int) -> Int[Tensor, "b k"]:
    """Indices of the k largest scores of each row; ties go to the lower index, on every device.

    The order of the indices within a row is not defined.  0 <= k <= p.
    """
    if k >= scores.shape[1] or k == 0:
        return scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    # one more than asked: only a tie across the border makes torch's choice ambiguous
    values, indices = _largest(scores, k + 1)
    chosen = indices[:, :k]
    tied = values[:, k] == values[:, k - 1]
    if tied.any():
        chosen[tied] = scores[tied].argsort(dim=1, descending=True, stable=True)[:, :k]
    return chosen


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values, descending, and indices of the k largest of each row, ties anyhow.

    Of a long row laid out in a few lines, the k largest lie in the k columns with the largest maxima: a cheap
    maximum leaves a fraction of the row to choose from.  (An equal score in another column is at most the last
    of these maxima, hence at most the last value returned: `top_k` sees the tie.)
    """
    p = scores.shape[1]
    lines = next((n for n in (8, 7, 6, 5, 4) if p % n == 0 and p >= 4 * n * k), 1)
    if lines == 1:
        values, indices = scores.topk(k, dim=1)
        return values, indices
    grid = scores.unflatten(1, (lines, p // lines))
    columns = grid.amax(1).topk(k, dim=1, sorted=False).indices
    candidates = grid.gather(2, columns[:, None].expand(-1, lines, -1)).flatten(1)
    values, at = candidates.topk(k, dim=1)
    return values, columns.gather(1, at % k) + at // k * (p // lines)
