"""Per-example losses on logits `(batch, classes)`: what an attack increases, `(batch,)`, never averaged."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zeronorm.kernels.numba import compiled, serves

RULED_OUT = -1e4  # the logit of a class that a model gives minus infinity


def finite_below(z: Float[Tensor, "b j"]) -> Float[Tensor, "b j"]:
    """Logits with `RULED_OUT` for minus infinity, of which differences and gradients would be no numbers."""
    return torch.nan_to_num(z, nan=math.nan, posinf=math.inf, neginf=RULED_OUT)


def probabilities(z: Float[Tensor, "b j"]) -> int | None:
    """What the rows sum to if they are probabilities, and no logits: 1, or 100 in per cent; else None."""
    if len(z) and bool((z >= 0).all()):
        for whole in (1, 100):
            # those of a softmax in half precision are off by so much
            if bool(((z.double().sum(1) / whole - 1).abs() < 0.01).all()):
                return whole
    return None


def margin(z: Float[Tensor, "b j"], y: Int[Tensor, "b"]) -> Float[Tensor, "b"]:
    """Largest other logit minus the label's: positive once the model prefers another class."""
    return _without(z, y).amax(1) - _of(z, y)


def log_odds(z: Float[Tensor, "b j"], y: Int[Tensor, "b"]) -> Float[Tensor, "b"]:
    """log(P(not y) / P(y)) = logsumexp of the other logits - the label's logit.

    Cross-entropy is softplus of this, so both order examples the same way; but cross-entropy is flat (its
    float32 value and gradient are exactly 0) once the label leads by about 17, and this is not.
    """
    if serves(z):
        value = z.new_empty(len(z))
        _log_odds(z, y, value, z.new_empty(0, z.shape[1]))
        return value
    return _without(z, y).logsumexp(1) - _of(z, y)


def log_odds_and_gradient(
    z: Float[Tensor, "b j"], y: Int[Tensor, "b"]
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b j"]]:
    """`log_odds` and its gradient by the logits.

    The gradient is the cross-entropy's up to one positive factor per example, 1 - P(y).
    """
    if serves(z):
        value, gradient = z.new_empty(len(z)), torch.empty_like(z)
        _log_odds(z, y, value, gradient)
        return value, gradient
    column = y[:, None]
    others = z.scatter(1, column, -math.inf)
    gradient = others.softmax(1)
    top, at = others.max(1, keepdim=True)
    # the largest of the others has the share 1 / Σ exp(other - top)
    value = top - gradient.gather(1, at).log_() - z.gather(1, column)
    return value.squeeze(1), gradient.scatter_(1, column, -1.0)


@compiled
def _log_odds(start: int, stop: int, z: Any, y: Any, value: Any, gradient: Any) -> None:
    classes = z.shape[1]
    for row in range(start, stop):
        top = -z.dtype.type(np.inf)
        for j in range(classes):
            if j != y[row] and z[row, j] > top:
                top = z[row, j]
        total = z.dtype.type(0)
        for j in range(classes):
            if j != y[row]:
                weight = np.exp(z[row, j] - top)
                total += weight
                if len(gradient):
                    gradient[row, j] = weight
        value[row] = np.log(total) + top - z[row, y[row]]
        if len(gradient):
            for j in range(classes):
                gradient[row, j] /= total
            gradient[row, y[row]] = -1


def is_wrong(z: Float[Tensor, "b j"], y: Int[Tensor, "b"]) -> Bool[Tensor, "b"]:
    """Whether the prediction (first largest logit) is not `y`; logits with NaN or +infinity decide nothing."""
    value, prediction = z.max(1)
    return (prediction != y) & (value < math.inf)  # false where the maximum is NaN


def is_class(z: Float[Tensor, "b j"], target: Int[Tensor, "b"]) -> Bool[Tensor, "b"]:
    """Whether the prediction is `target`; logits with NaN or +infinity decide nothing."""
    value, prediction = z.max(1)
    return (prediction == target) & (value < math.inf)


def _of(z: Tensor, y: Tensor) -> Tensor:
    return z.gather(1, y[:, None]).squeeze(1)


def _without(z: Tensor, y: Tensor) -> Tensor:
    # a copy: the model may have returned a view of something it keeps
    return z.scatter(1, y[:, None], -math.inf)
