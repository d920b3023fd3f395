"""The certificate of an ℓ0-Lipschitz network: one pass, whole numbers, no confidence level.

A change of one pixel moves every template by at most the span of its tables, and maxima, and sums over disjoint
patches, by no more; so it moves a margin g_yc = h_yc - h_cy by at most twice the span.  If g_yc > 2 · span · r for
every c, then after r changes g_yc > 0 for every c while g_cy = -g_yc < 0: the answer is still y.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from zeronorm import checks
from zeronorm.certification.certificate import ABSTAIN, UNBOUNDED, Certificate
from zeronorm.errors import ArgumentError
from zeronorm.models.l0_lipschitz import L0Lipschitz


@torch.inference_mode()
def certify_l0_lipschitz(model: Any, x: Float[Tensor, "b ..."], batch_size: int = 500) -> Certificate:
    """How many pixels of each image may change, to any values, without changing the network's answer.

    The radius is the largest r with 2 · span · r below the smallest margin, the span being measured on the tables.
    A new value need not lie in the box: pixels are quantised first.  `margin` is the smallest margin of the class
    that has one above 0; where margins are 0, `ABSTAIN`.

    **Arguments:**

    - `model`: of `models.build("l0_lipschitz")`, or such a network itself.
    - `x`: images (b, c, h, w).

    **Raises:** `ArgumentError` for another kind of model.
    """
    network = getattr(model, "network", model)
    if not isinstance(network, L0Lipschitz):
        raise ArgumentError(f"model: expected an l0_lipschitz network, got {type(model).__name__}")
    checks.examples(x)
    if network is not model:
        model(x[:1])  # complains of inputs that do not fit
        x = model.normalize(x)
    span = network.span()
    parts = [
        network.margins(part).view(len(part), network.classes, -1).amin(2) for part in x.split(batch_size)
    ]
    margin, answer = torch.cat(parts).max(1)
    radius = (
        torch.div(margin - 1, 2 * span, rounding_mode="floor") if span else torch.full_like(margin, UNBOUNDED)
    )
    return Certificate(
        torch.where(margin > 0, answer, ABSTAIN),
        torch.where(margin > 0, radius, ABSTAIN),
        margin=margin,
    )
