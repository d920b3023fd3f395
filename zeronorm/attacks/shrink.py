"""Make an adversarial sparser: put back the pixels it does not need."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zeronorm.attacks.search import Model, searching
from zeronorm.projections import top_k
from zeronorm.threat_model import L0


def shrink(
    model: Model,
    x: Float[Tensor, "b ..."],
    x_adv: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: L0,
) -> Float[Tensor, "b ..."]:
    """Restore changed pixels to their clean values as long as the model still errs.

    Each changed pixel is first restored alone, to see how much the adversarial needs it; then one after the
    other, the least needed first, each for good if the model still errs without it.  Two forward passes per
    changed pixel.  What remains is minimal in order, not of all subsets.

    Args:
        model: from inputs to logits (batch, class).
        x, x_adv: clean and adversarial inputs; those that do not fool the model come back as they are.
        y: true labels.
        threat: says what a pixel is.

    Returns:
        Adversarials that change a subset of the pixels of x_adv.
    """
    free = threat.with_k(threat.available(x))
    with searching("shrink", model, x, y, free, targeted=None, seed=0, ids=None) as search:
        rows = search.rows
        current = threat.grid(x_adv)[rows].clone()
        if len(rows) == 0:
            return x_adv.clone()
        changed = (current != search.x).any(1)
        most = int(changed.sum(1).max())
        places = top_k(changed.to(x.dtype), most)
        real = changed.gather(1, places)

        def restored(j: Int[Tensor, "a 1"]) -> Float[Tensor, "a g p"]:
            at = places.gather(1, j)
            return current.clone().scatter_(
                2, at[:, None].expand(-1, current.shape[1], -1), search.at(search.x, at)
            )

        _, fooled = search.score(current)
        need = []
        for j in range(most):
            objective, _ = search.score(restored(torch.full_like(rows, j)[:, None]))
            need.append(-objective)
        if most:
            order = torch.stack(need, 1).masked_fill(~real, torch.inf).argsort(dim=1, stable=True)
            for step in range(most):
                least = order[:, step : step + 1]
                candidate = restored(least)
                _, still = search.score(candidate)
                accept = still & fooled & real.gather(1, least).squeeze(1)
                current = torch.where(accept[:, None, None], candidate, current)
        result = x_adv.clone().contiguous()
        threat.grid(result)[rows] = current
        return result
