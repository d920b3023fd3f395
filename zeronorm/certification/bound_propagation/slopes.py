"""The best slopes and shares, by a few steps of gradient ascent; any in [0, 1] give a valid bound.

b  regions    m  rows
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zeronorm.certification.bound_propagation.bounds import Bounds

_STEP = 0.25


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
    slopes, shares, parameters = _variables(bounds, kinds, chosen.gather(1, index))
    if not parameters:
        return best
    part = _gathered(best, index)
    optimiser = torch.optim.Adam(parameters, lr=_STEP, betas=(0.9, 0.99))
    aim = wanted.gather(1, index)
    for step in range(steps):
        last_step = step == steps - 1
        with torch.set_grad_enabled(not last_step):
            found = _evaluated(bounds, last, some, slopes, shares)
        better = found.least.detach() > part.least
        part = part.replaced(better, _detached(found))
        if last_step or bool((part.least > aim).all()):
            break
        optimiser.zero_grad(set_to_none=True)
        (-found.least.clamp_min(-1e12)).sum().backward()
        optimiser.step()
        with torch.no_grad():
            for parameter in parameters:
                parameter.clamp_(0, 1)
    wide = index[:, :, None, None].expand(-1, -1, *part.losses.shape[2:])
    return Margins(
        best.least.scatter(1, index, part.least),
        best.constant.scatter(1, index, part.constant),
        best.losses.scatter(1, wide, part.losses),
        best.corner.scatter(1, wide, part.corner),
    )


def _variables(
    bounds: Bounds, kinds: tuple[str, ...], chosen: Int[Tensor, "b m"]
) -> tuple[dict[int, Tensor], dict[int, Tensor], list[Tensor]]:
    """Slopes and shares of each row, at the start that was best for it."""
    slopes: dict[int, Tensor] = {}
    shares: dict[int, Tensor] = {}
    parameters: list[Tensor] = []
    b, m = chosen.shape
    starts = [bounds.choice(kind) for kind in kinds]
    for n in starts[0][0]:
        width = starts[0][0][n].shape[2]
        slope, share = chosen.new_zeros((2, b, m, width), dtype=torch.float64)
        for kind, (some_slopes, some_shares) in enumerate(starts):
            here = (chosen == kind)[..., None]
            slope, share = torch.where(here, some_slopes[n], slope), torch.where(here, some_shares[n], share)
        slopes[n], shares[n] = slope, share
        if width:
            parameters += [slope.requires_grad_(), share.requires_grad_()]
    return slopes, shares, parameters


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


def _detached(margins: Margins) -> Margins:
    return Margins(margins.least.detach(), margins.constant.detach(), margins.losses, margins.corner)
