"""The certificate of the nearest neighbour: no training, and a yardstick for what is trained.

A changed pixel moves every distance by at most 1.  With the nearest example of the answer's class at d and the
nearest of another at d', the answer stands while 2 r < d' - d.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.certification.certificate import ABSTAIN, UNBOUNDED, Certificate
from zeronorm.certification.known_modules import check_known
from zeronorm.errors import ArgumentError
from zeronorm.models.nearest_neighbour import NearestNeighbour


def check_nearest_neighbour(model: Any, x: Tensor) -> NearestNeighbour:
    """The model, if it is one; else `ArgumentError`."""
    if type(model) is not NearestNeighbour:
        raise ArgumentError(f"model: expected a NearestNeighbour, got {type(model).__name__}")
    check_known(model, (NearestNeighbour,))
    return model


@torch.inference_mode()
def certify_neighbours(model: Any, x: Float[Tensor, "b ..."]) -> Certificate:
    """How many pixels of each image may change, to any values, without changing the nearest neighbour's class.

    **Arguments:**

    - `model`: a `zeronorm.models.NearestNeighbour`.
    - `x`: images (b, c, h, w).

    **Returns:** radii in pixels; `ABSTAIN` where two classes are equally near; `margin` is d' - d.
    """
    checks.examples(x)
    distances = check_nearest_neighbour(model, x).distances(x)
    ordered, order = distances.sort(dim=1)
    if distances.shape[1] == 1 or (len(x) and bool(torch.isinf(ordered[:, 1]).all())):
        return Certificate(order[:, 0], torch.full((len(x),), UNBOUNDED))
    margin = (ordered[:, 1] - ordered[:, 0]).long()
    radius = torch.div(margin - 1, 2, rounding_mode="floor")
    return Certificate(
        torch.where(margin > 0, order[:, 0], ABSTAIN), torch.where(margin > 0, radius, ABSTAIN), margin=margin
    )


def certify_nearest_neighbour(
    x: Float[Tensor, "b ..."],
    examples: Float[Tensor, "n ..."],
    labels: Int[Tensor, "n"],
    levels: Sequence[float] = (0.5,),
) -> Certificate:
    """As `certify_neighbours`, of the nearest of these examples; arguments as of `NearestNeighbour`."""
    return certify_neighbours(NearestNeighbour(examples, labels, levels), x)
