"""The certificate of the nearest neighbour: no training, and a yardstick for what is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.certification.certificate import ABSTAIN, UNBOUNDED, Certificate
from zeronorm.errors import ArgumentError


@torch.inference_mode()
def certify_nearest_neighbour(
    x: Float[Tensor, "b ..."],
    examples: Float[Tensor, "n ..."],
    labels: Int[Tensor, "n"],
    levels: Sequence[float] = (0.5,),
    batch_size: int = 250,
) -> Certificate:
    """The class of the nearest labelled example, by how many quantised pixels differ, and what it withstands.

    A changed pixel moves every distance by at most 1.  With the nearest example of the answer's class at d and the
    nearest of another at d', the answer stands while 2 r < d' - d.

    **Arguments:**

    - `x`, `examples`, `labels`: images to certify, and those they are compared with.
    - `levels`: thresholds, in ascending order; pixels differ if a channel reaches another number of them.

    **Returns:** radii in pixels; `ABSTAIN` where two classes are equally near; `margin` is d' - d.
    """
    distances = class_distances(x, examples, labels, levels, batch_size)
    ordered, order = distances.sort(dim=1)
    if distances.shape[1] == 1 or bool(torch.isinf(ordered[:, 1]).all()):
        return Certificate(order[:, 0], torch.full((len(x),), UNBOUNDED))
    margin = (ordered[:, 1] - ordered[:, 0]).long()
    radius = torch.div(margin - 1, 2, rounding_mode="floor")
    return Certificate(
        torch.where(margin > 0, order[:, 0], ABSTAIN), torch.where(margin > 0, radius, ABSTAIN), margin=margin
    )


@torch.inference_mode()
def class_distances(
    x: Float[Tensor, "b ..."],
    examples: Float[Tensor, "n ..."],
    labels: Int[Tensor, "n"],
    levels: Sequence[float] = (0.5,),
    batch_size: int = 250,
) -> Float[Tensor, "b classes"]:
    """In how many quantised pixels each image differs from the nearest example of every class; infinite of none.

    Their negatives are the logits of the classifier that `certify_nearest_neighbour` certifies.
    """
    checks.examples(x)
    checks.examples(examples, "examples")
    y = checks.labels(labels, examples, "labels")
    if x.shape[1:] != examples.shape[1:]:
        raise ArgumentError(
            f"examples: expected images of {tuple(x.shape[1:])}, got {tuple(examples.shape[1:])}"
        )
    thresholds = torch.tensor([checks.real("levels", level, -torch.inf, open_low=True) for level in levels])
    if (thresholds.diff() <= 0).any() or not len(thresholds):
        raise ArgumentError(f"levels: expected thresholds in ascending order, got {list(levels)}")
    classes = int(y.max()) + 1
    own = _one_hot(examples, thresholds)
    pixels = x.shape[2] * x.shape[3]
    nearest = []
    for part in x.split(batch_size):
        # whole numbers below 2^24, so the product is exact
        distance = pixels - _one_hot(part, thresholds) @ own.T
        columns = [
            distance[:, y == c].amin(1) if bool((y == c).any()) else torch.full((len(part),), torch.inf)
            for c in range(classes)
        ]
        nearest.append(torch.stack(columns, dim=1))
    return torch.cat(nearest)


def _one_hot(x: Tensor, thresholds: Tensor) -> Float[Tensor, "b q"]:
    """For each pixel, a one at its code: two images' product counts the pixels that agree."""
    level = torch.bucketize(x.contiguous(), thresholds.to(x), right=True).flatten(2)
    base = len(thresholds) + 1
    code = (level * (base ** torch.arange(x.shape[1], device=x.device))[:, None]).sum(1)
    return torch.nn.functional.one_hot(code, base ** x.shape[1]).flatten(1).float()
