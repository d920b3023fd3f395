"""What the ℓ∞ attacks share: steps along the sign of the gradient, within the ball and the box."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zeronorm.attacks.batch_under_attack import Search


def record(
    search: Search,
    objective: Float[Tensor, "a"],
    reached: Bool[Tensor, "a"],
    v: Float[Tensor, "a g p"],
) -> Int[Tensor, "c"] | None:
    """As `Search.record`, of inputs any of whose entries may have changed."""
    everywhere = torch.arange(v.shape[2], device=v.device).expand(len(v), -1)
    return search.record(objective, reached, everywhere.contiguous(), v)


def ascend(
    search: Search,
    start: Float[Tensor, "a g p"] | None,
    steps: int,
    step_size: float,
    *,
    momentum: float = 0.0,
    look: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]] | None = None,
) -> None:
    """`steps` steps of `step_size` along the sign of the gradient, from `start`, or from the clean inputs.

    The gradient is that of the search's objective, or what `look` says of a place (`Search.score_and_gradient`).

    With momentum, the sign of g ← momentum · g + ∇ / mean |∇|.  Whoever is broken leaves; of the others the best
    place is recorded (not the clean input, which is no attempt).  A step to where the logits are not numbers is
    taken back, and the next ones are half as long.
    """
    if len(search.rows) == 0:
        return
    v = search.x.clone() if start is None else start
    g, η = torch.zeros_like(v), torch.full_like(v[:, :1, :1], step_size)
    before, G = search.x, g
    look = look or search.score_and_gradient
    for step in range(steps + 1):
        if step == steps:
            record(search, *search.score(v), v)
            return
        last = G
        objective, reached, G = look(v)
        lost = (objective == -math.inf)[:, None, None]
        if lost.any():
            η = torch.where(lost, η / 2, η)
            v, G = torch.where(lost, before, v), torch.where(lost, last, G)
        if step > 0 or start is not None:
            keep = record(search, objective, reached & ~lost[:, 0, 0], v)
            if keep is not None:
                if len(keep) == 0:
                    return
                v, g, G, η = (part[keep] for part in (v, g, G, η))
        before = v
        if momentum:
            g = momentum * g + G / G.abs().mean((1, 2), keepdim=True).clamp_min(1e-12)
        v = search.clamp_(v + η * (g if momentum else G).sign())
