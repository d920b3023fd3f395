"""Make an adversarial sparser: put back the pixels it does not need."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zeronorm.attacks.batch_under_attack import Model, attacking
from zeronorm.attacks.columns import Kept
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
    other, the least needed first, each for good if the model still errs without it, in full precision.  Two forward
    passes per changed pixel.  What remains is minimal in order, not of all subsets.

    Args:
        model: from inputs to logits (batch, class).
        x, x_adv: clean and adversarial inputs; those that do not fool the model come back as they are.
        y: true labels.
        threat: says what a pixel is.

    Returns:
        Adversarials that change a subset of the pixels of x_adv.
    """
    if threat.schema is not None:
        columns = Kept(x, x_adv, threat.schema)
        z = shrink(columns.model(model), columns.z, columns.changed, y, columns.threat)
        return columns.rows(z, torch.arange(len(x), device=x.device))
    free = threat.with_k(threat.available(x))
    with attacking("shrink", model, x, y, free, targeted=None, seed=0, ids=None) as batch:
        current = threat.grid(x_adv)[batch.rows].clone()
        fooled = batch.confirmed(batch.score(current)[1], current)
        current = current[fooled]
        batch.drop(~fooled, attacked=False)

        changed = (current != batch.x).any(1)
        count = changed.sum(1)
        most = int(count.max()) if len(count) else 0
        places = changed.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]

        def without(j: Int[Tensor, "n 1"], of: Int[Tensor, "n"]) -> Float[Tensor, "n g p"]:
            """These iterates with the j-th changed pixel of each restored."""
            at = places[of].gather(1, j)
            clean = batch.at(batch.x[of], at)
            return current[of].scatter_(2, at[:, None].expand_as(clean), clean)

        # who changes fewer pixels than others of the batch is left alone after its last
        need = torch.full(places.shape, torch.inf, dtype=x.dtype, device=x.device)
        for j in range(most):
            some = (count > j).nonzero().flatten()
            objective, _ = batch.score(without(torch.full_like(some, j)[:, None], some), some)
            need[some, j] = -objective
        order = need.argsort(dim=1, stable=True)
        for j in range(most):
            some = (count > j).nonzero().flatten()
            candidate = without(order[some, j : j + 1], some)
            still = batch.confirmed(batch.score(candidate, some)[1], candidate, some)
            current[some[still]] = candidate[still]

        result = x_adv.clone().contiguous()
        threat.grid(result)[batch.rows] = current
        return result
