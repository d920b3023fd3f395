"""A step of sparse-PGD between two passes of the model: move magnitudes and mask, choose the support anew.

a       examples under attack
g, p    channels that change together, positions that are counted
k       positions of the support
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from zeronorm.attacks.batch_under_attack import BatchUnderAttack
from zeronorm.kernels.numba import compiled, serves
from zeronorm.projections import top_k

_GAMMA = (
    2e-10  # below this norm a mask gradient is no direction (the authors' code; the paper has two values)
)


def move(
    batch: BatchUnderAttack,
    v: Float[Tensor, "a g p"],
    mask: Float[Tensor, "a p"],
    support: Int[Tensor, "a k"],
    G: Float[Tensor, "a g p"],
    α: float | Tensor,
    β: float,
    projected: bool,
) -> None:
    """Move the mask m̃ and the values v = x + p by one step, in place.

    The mask moves along its normalised gradient (Σ_channels G p) σ'(m̃), at the magnitudes p just evaluated; then the
    values move along sign(G), everywhere or, with `projected`, inside the support only.
    """
    σ = mask.sigmoid()
    if isinstance(batch.low, float) and serves(v, mask, G):
        _move(v, batch.x, G, mask, σ, support, α, β, _GAMMA, batch.low, batch.high, projected)
        return
    Gp = (v - batch.x).mul_(G).sum(1)
    g_mask = Gp.mul_(σ).mul_(1 - σ)
    norm = torch.linalg.vector_norm(g_mask, dim=1, keepdim=True)
    mask.addcmul_(g_mask, β / norm.clamp_min_(_GAMMA))
    if projected:
        moved = batch.at(v, support) + batch.at(α, support) * batch.at(G, support).sign_()
        v.scatter_(2, support[:, None].expand_as(moved), moved.clamp_(*batch.box_at(support)))
    else:
        batch.move_(v, G.sign(), α)


def choose(
    mask: Float[Tensor, "a p"], support: Int[Tensor, "a k"], stuck: Int[Tensor, "a"]
) -> tuple[Int[Tensor, "a k"], Int[Tensor, "a"]]:
    """Positions of the k largest entries of the mask, ascending, and how many times in a row they were the same."""
    if serves(mask):
        chosen = torch.empty_like(support)
        stuck = stuck.clone()
        _choose(mask, support, chosen, stuck)
        return chosen, stuck
    chosen = top_k(mask, support.shape[1]).sort(1).values
    return chosen, (stuck + 1) * (chosen == support).all(1)


@compiled
def _move(
    start: int, stop: int, v: Any, x: Any, G: Any, mask: Any, σ: Any, support: Any,
    α: float, β: float, γ: float, low: float, high: float, projected: bool,
) -> None:  # fmt: skip
    channels, pixels = v.shape[1:]
    g_mask = np.empty(pixels, v.dtype)
    α, β, γ = v.dtype.type(α), v.dtype.type(β), v.dtype.type(γ)
    low, high = v.dtype.type(low), v.dtype.type(high)
    for row in range(start, stop):
        for i in range(pixels):
            g_mask[i] = (v[row, 0, i] - x[row, 0, i]) * G[row, 0, i]
        for c in range(1, channels):
            for i in range(pixels):
                g_mask[i] += (v[row, c, i] - x[row, c, i]) * G[row, c, i]
        square = v.dtype.type(0)
        for i in range(pixels):
            g_mask[i] *= σ[row, i] * (1 - σ[row, i])
            square += g_mask[i] * g_mask[i]
        step = β / max(np.sqrt(square), γ)
        for i in range(pixels):
            mask[row, i] += step * g_mask[i]
        for c in range(channels):
            if projected:
                for j in range(support.shape[1]):
                    i = support[row, j]
                    v[row, c, i] = min(max(v[row, c, i] + α * np.sign(G[row, c, i]), low), high)
            else:
                for i in range(pixels):
                    v[row, c, i] = min(max(v[row, c, i] + α * np.sign(G[row, c, i]), low), high)


@compiled
def _choose(start: int, stop: int, mask: Any, support: Any, chosen: Any, stuck: Any) -> None:
    pixels, k = mask.shape[1], support.shape[1]
    candidates, values = np.empty(pixels + 1, np.int64), np.empty(k + 1, mask.dtype)
    for row in range(start, stop):
        # whoever is among the k largest is at least as large as the least of these k
        least = mask[row, support[row, 0]]
        for j in range(1, k):
            least = min(least, mask[row, support[row, j]])
        count = 0
        for i in range(pixels):
            candidates[count] = i
            count += mask[row, i] >= least
        if count > k:
            for j in range(count):  # the k largest of the candidates, descending, by insertion
                value, i = mask[row, candidates[j]], min(j, k)
                while i > 0 and value > values[i - 1]:
                    values[i] = values[i - 1]
                    i -= 1
                values[i] = value
            least = values[k - 1]
            equal = k  # how many of those equal to the least there is room for: the lower positions
            for j in range(count):
                equal -= mask[row, candidates[j]] > least
            kept = 0
            for j in range(count):
                value = mask[row, candidates[j]]
                if value > least or (value == least and equal > 0):
                    equal -= value == least
                    candidates[kept] = candidates[j]
                    kept += 1
        same = True
        for j in range(k):
            same = same and candidates[j] == support[row, j]
            chosen[row, j] = candidates[j]
        stuck[row] = stuck[row] + 1 if same else 0
