"""The best slopes and shares, by a few steps of gradient ascent; any in [0, 1] give a valid bound.

b  regions    m  rows
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zeronorm.certification.bound_propagation.bounds import Bounds

_STEP, _FIRST, _SECOND = 0.25, 0.9, 0.99


@dataclass(frozen=True, eq=False)
class Margins:
    """Lower bounds of the margins, and what they are made of: `constant - Σ of the losses of the changed units`."""

    least: Float[Tensor, "b m"]
    constant: Float[Tensor, "b m"]
    losses: Float[Tensor, "b m p u"]
    corner: Int[Tensor, "b m p u"]

    def replaced(self, where: Bool[Tensor, "b m"], other: Margins) -> Margins:
        """Those of `other` in some places."""
        wide = where[:, :, None, None]
        return Margins(
            torch.where(where, other.least, self.least),
            torch.where(where, other.constant, self.constant),
            torch.where(wide, other.losses, self.losses),
            torch.where(wide, other.corner, self.corner),
        )


def bound_margins(
    bounds: Bounds, rows: Float[Tensor, "b m j"], steps: int, wanted: Float[Tensor, "b m"], all_starts: bool
) -> Margins:
    """The best of all starts, or of the one that commonly is best, improved by `steps` of Adam for the rows that are
    not above `wanted` yet.

    A bound that is not finite counts as minus infinity.
    """
    last = len(bounds.plan.operations) - 1
    best: Margins | None = None
    kinds: tuple[str, ...] = ("mixed", "tables", "hull") if all_starts else ("mixed",)
    if not bounds.options.depth:
        kinds = ("hull",)
    chosen = torch.zeros(rows.shape[:2], dtype=torch.int64)
    with torch.no_grad():
        for kind, name in enumerate(kinds):
            found = _evaluated(bounds, last, rows, *bounds.choice(name))
            if best is None:
                best = found
                continue
            better = found.least > best.least
            chosen = torch.where(better, kind, chosen)
            best = best.replaced(better, found)
    assert best is not None
    behind = best.least <= wanted
    if not steps or not bool(behind.any()):
        return best
    # only the rows that are open, as many for each region as the region that has most
    count = int(behind.sum(1).max())
    index = behind.int().argsort(dim=1, descending=True, stable=True)[:, :count]
    some = rows.gather(1, index[:, :, None].expand(-1, -1, rows.shape[2]))
    slopes, shares = _variables(bounds, kinds, chosen.gather(1, index))
    if not any(one.numel() for one in slopes.values()):
        return best
    part = _gathered(best, index)
    with torch.no_grad():
        improved = _improved(
            bounds.single(), some, slopes, shares, part.least, wanted.gather(1, index), steps
        )
        found = _evaluated(bounds, last, some, *improved)
        part = part.replaced(found.least > part.least, found)
    wide = index[:, :, None, None].expand(-1, -1, *part.losses.shape[2:])
    return Margins(
        best.least.scatter(1, index, part.least),
        best.constant.scatter(1, index, part.constant),
        best.losses.scatter(1, wide, part.losses),
        best.corner.scatter(1, wide, part.corner),
    )


def _improved(
    bounds: Bounds,
    rows: Float[Tensor, "b m j"],
    slopes: dict[int, Tensor],
    shares: dict[int, Tensor],
    before: Float[Tensor, "b m"],
    wanted: Float[Tensor, "b m"],
    steps: int,
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """The best slopes and shares of each row that some steps of gradient ascent come upon, in float64.

    Whatever these are they give a valid bound, so that they are looked for in float32.
    """
    last = len(bounds.plan.operations) - 1
    rows, best = rows.float(), before.float()
    parameters = [one.requires_grad_() for one in (*slopes.values(), *shares.values()) if one.numel()]
    kept = [one.detach().double() for one in parameters]
    ascent = _Ascent(parameters)
    for step in range(steps):
        with torch.set_grad_enabled(step < steps - 1):
            least = bounds.backward(last, rows, slopes, shares).least(bounds.regions)
            total = least.clamp_min(-1e12).sum()
        better = (least.detach() > best) & least.detach().isfinite()
        best = torch.where(better, least.detach(), best)
        kept = [
            torch.where(better[..., None], one.detach().double(), old)
            for one, old in zip(parameters, kept, strict=True)
        ]
        if step == steps - 1 or bool((best > wanted + 1e-4).all()):
            break
        ascent.step(torch.autograd.grad(total, parameters, materialize_grads=True))
    found = iter(kept)
    made = [
        {n: next(found) if one.numel() else one.double() for n, one in group.items()}
        for group in (slopes, shares)
    ]
    return made[0], made[1]


class _Ascent:
    """Adam (Kingma & Ba, 2015) within [0, 1]; torch's own takes longer than these few small tensors do."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self.parameters = parameters
        self.first = [torch.zeros_like(one) for one in parameters]
        self.second = [torch.zeros_like(one) for one in parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        self.steps += 1
        scale = _STEP * math.sqrt(1 - _SECOND**self.steps) / (1 - _FIRST**self.steps)
        for one, first, second, gradient in zip(
            self.parameters, self.first, self.second, gradients, strict=True
        ):
            first.lerp_(gradient, 1 - _FIRST)
            second.mul_(_SECOND).addcmul_(gradient, gradient, value=1 - _SECOND)
            one.addcdiv_(first, second.sqrt().add_(1e-8), value=scale).clamp_(0, 1)


def _variables(
    bounds: Bounds, kinds: tuple[str, ...], chosen: Int[Tensor, "b m"]
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Slopes and shares of each row, at the start that was best for it, in float32."""
    slopes: dict[int, Tensor] = {}
    shares: dict[int, Tensor] = {}
    b, m = chosen.shape
    starts = [bounds.choice(kind) for kind in kinds]
    for n in starts[0][0]:
        width = starts[0][0][n].shape[2]
        slope, share = chosen.new_zeros((2, b, m, width), dtype=torch.float32)
        for kind, (some_slopes, some_shares) in enumerate(starts):
            here = (chosen == kind)[..., None]
            slope = torch.where(here, some_slopes[n].float(), slope)
            share = torch.where(here, some_shares[n].float(), share)
        slopes[n], shares[n] = slope, share
    return slopes, shares


def _evaluated(
    bounds: Bounds, last: int, rows: Tensor, slopes: dict[int, Tensor], shares: dict[int, Tensor]
) -> Margins:
    found = bounds.backward(last, rows, slopes, shares)
    least = found.least(bounds.regions) - found.error
    least = torch.where(torch.isfinite(least), least, -torch.inf)
    return Margins(least, found.constant - found.error, *_whole(bounds, found.losses, found.corner))


def _whole(bounds: Bounds, losses: Tensor, corner: Tensor) -> tuple[Tensor, Tensor]:
    """From active positions to all."""
    regions = bounds.regions
    b, m, _ = losses.shape
    _, places, units = regions.group.shape
    index = regions.positions[:, None, :, None].expand(b, m, -1, units)
    shape = (b, m, places + 1, units)
    return (
        losses.new_zeros(shape).scatter(2, index, losses.detach().view(b, m, -1, units))[:, :, :places],
        corner.new_zeros(shape).scatter(2, index, corner.view(b, m, -1, units))[:, :, :places],
    )


def _gathered(margins: Margins, index: Int[Tensor, "b m"]) -> Margins:
    wide = index[:, :, None, None].expand(-1, -1, *margins.losses.shape[2:])
    return Margins(
        margins.least.gather(1, index),
        margins.constant.gather(1, index),
        margins.losses.gather(1, wide),
        margins.corner.gather(1, wide),
    )
