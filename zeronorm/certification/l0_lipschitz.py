"""The certificate of an ℓ0-Lipschitz network: one pass, whole numbers, no confidence level.

A change of one pixel moves every template by at most the span of its tables, and maxima, and sums over disjoint
patches, by no more; so it moves a margin g_yc = h_yc - h_cy by at most twice the span.  If g_yc > 2 · span · r for
every c, then after r changes g_yc > 0 for every c while g_cy = -g_yc < 0: the answer is still y.

The network computes in whole numbers that its floats hold exactly, and the signs of margins outlive the rounding of
logits, so the proof is about the pass as it is run, on any device and in any batch.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zeronorm import checks
from zeronorm.certification.certificate import ABSTAIN, UNBOUNDED, Certificate
from zeronorm.certification.known_modules import network_of
from zeronorm.models.l0_lipschitz import L0Lipschitz


def check_l0_lipschitz(model: Any, x: Tensor) -> tuple[nn.Module | None, L0Lipschitz]:
    """Normalisation and network of the model, if that is all it is; else `ArgumentError`."""
    return network_of(model, x, L0Lipschitz, "an l0_lipschitz")


@torch.inference_mode()
def certify_l0_lipschitz(model: Any, x: Float[Tensor, "b ..."], batch_size: int = 500) -> Certificate:
    """How many pixels of each image may change, to any values, without changing the network's answer.

    The radius is the largest r with 2 · span · r below the smallest margin, the span being measured on the tables.
    A new value need not lie in the box: pixels are quantised first.  `margin` is the smallest margin of the class
    that has one above 0; where margins are 0, `ABSTAIN`.

    **Arguments:**

    - `model`: of `models.build("l0_lipschitz")`, or such a network itself.
    - `x`: images (b, c, h, w).

    **Raises:** `ArgumentError` for another kind of model, or one that does more than normalise before the network.
    """
    checks.examples(x)
    normalize, network = check_l0_lipschitz(model, x)
    span = network.span()
    parts = [
        network.margins(part if normalize is None else normalize(part))
        .view(len(part), network.classes, network.classes - 1)
        .amin(2)
        for part in x.split(batch_size)
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
