"""Per-example distances between inputs `(batch, ...)`, exact counts where they count.

A *pixel* of an image `(batch, channel, height, width)` is changed when any of its channels is; flat features
`(batch, feature)` are their own pixels.  There is no bare `l0`: say which one you mean.
"""

from __future__ import annotations

import math

from jaxtyping import Bool, Float, Int
from torch import Tensor


def differs(x: Float[Tensor, "b ..."], x_adv: Float[Tensor, "b ..."]) -> Bool[Tensor, "b ..."]:
    """Which entries differ; a missing value (NaN) equals a missing value."""
    return (x != x_adv) & ~(x.isnan() & x_adv.isnan())


def l0_pixels(x: Float[Tensor, "b ..."], x_adv: Float[Tensor, "b ..."]) -> Int[Tensor, "b"]:
    """Number of changed pixels: positions at which any channel differs."""
    changed = x != x_adv
    if changed.dim() > 2:
        changed = changed.any(1)
    return changed.flatten(1).sum(1)


def l0_features(x: Float[Tensor, "b ..."], x_adv: Float[Tensor, "b ..."]) -> Int[Tensor, "b"]:
    """Number of changed entries, channels counted one by one."""
    return (x != x_adv).flatten(1).sum(1)


def l1(x: Float[Tensor, "b ..."], x_adv: Float[Tensor, "b ..."]) -> Float[Tensor, "b"]:
    """Sum of absolute changes."""
    return (x_adv - x).flatten(1).norm(1, dim=1)


def l2(x: Float[Tensor, "b ..."], x_adv: Float[Tensor, "b ..."]) -> Float[Tensor, "b"]:
    """Euclidean length of the change."""
    return (x_adv - x).flatten(1).norm(2, dim=1)


def linf(x: Float[Tensor, "b ..."], x_adv: Float[Tensor, "b ..."]) -> Float[Tensor, "b"]:
    """Largest absolute change; infinite where a value went missing or came to be."""
    change = (x_adv - x).flatten(1).abs()
    if bool(change.isnan().any()):
        change = change.masked_fill(change.isnan(), math.inf).masked_fill(~differs(x, x_adv).flatten(1), 0.0)
    return change.amax(1)
