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
    values, indices = scores.topk(k + 1, dim=1)
    chosen = indices[:, :k]
    tied = values[:, k] == values[:, k - 1]
    if tied.any():
        chosen[tied] = scores[tied].argsort(dim=1, descending=True, stable=True)[:, :k]
    return chosen
