"""Branch and bound: a region whose bound is too low is split, until all are proved or a counterexample is found.

A group is halved in space, as its units' losses weigh, into at most i changes here and c - i there, for every i; where
no groups are left, the box of a free unit is halved.  A child starts with its parent's ranges and its parent's linear
bound, which often proves it at once.  The units that a bound blames, moved to the corners it blames, are tried on
the model itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zeronorm.certification.bound_propagation.bounds import Bounds, Options, Plan
from zeronorm.certification.bound_propagation.region import (
    FIXED,
    FREE,
    Regions,
    settle,
    split_group,
    split_values,
)
from zeronorm.certification.bound_propagation.slopes import Margins, bound_margins

PROVED, BROKEN, UNKNOWN = "proved", "broken", "unknown"
_GAIN = 0.1  # by which a halved region commonly lowers the logarithm of what its bound loses
_NARROWEST = 1e-6  # box of a free unit, below which it is not split
Try = Callable[
    [Tensor], Tensor | None
]  # inputs (n, c, p) in float64: the first that breaks the model, or None


@dataclass
class Outcome:
    """What became of one example at one budget."""

    verdict: str = UNKNOWN
    counterexample: Tensor | None = None
    nodes: int = 0
    at_root: bool = False
    deployed: bool = False  # proved of the model's own floating-point pass too
    seconds: float = 0.0


@dataclass
class Node:
    """A region that is not proved, what is known of it, and of which classes it is still open."""

    region: Regions
    ranges: dict[int, tuple[Tensor, Tensor]]
    open: Bool[Tensor, "m"]
    least: float = field(default=0.0)
    depth: int = 0


@dataclass(frozen=True, eq=False)
class Searcher:
    """Settings of a search, for one network."""

    plan: Plan
    options: Options
    steps: int = 8
    deployed: bool = False

    @cached_property
    def batch(self) -> int:
        """Regions bounded at once: more do not fit the cache."""
        widest = max(math.prod(operation.shape) for operation in self.plan.operations)
        return min(32, max(4, 12_000 // widest))

    def rows(self, y: Int[Tensor, "b"]) -> Float[Tensor, "b m j"]:
        """The margins of class y over each other one."""
        classes = self.plan.network.classes
        others = (
            torch.arange(classes).expand(len(y), -1)[torch.arange(classes) != y[:, None]].view(len(y), -1)
        )
        eye = torch.eye(classes, dtype=torch.float64)
        return eye[y][:, None] - eye[others]

    def margins(
        self, regions: Regions, rows: Tensor, ranges: dict[int, tuple[Tensor, Tensor]] | None, steps: int
    ) -> tuple[Bounds, Margins, Tensor]:
        """Bounds of every margin, and what the model's own rounding may take from each."""
        bounds = Bounds(self.plan, regions, self.options, ranges)
        rounding = (rows.abs() @ bounds.deployed[-1][:, :, None])[..., 0]
        wanted = rounding if self.deployed else torch.zeros_like(rounding)
        return bounds, bound_margins(bounds, rows, steps, wanted, not ranges), rounding

    def proved(self, least: Tensor, rounding: Tensor) -> Tensor:
        """Which margins stay above 0."""
        return torch.isfinite(least) & (least > (rounding if self.deployed else 0.0))

    def run(
        self,
        root: Regions,
        y: int,
        attempt: Try,
        seconds: float,
        search: Callable[[], Tensor | None] = lambda: None,
    ) -> Outcome:
        """The verdict on one region, within `seconds` of processor time.

        `search` looks for a counterexample where the first bound does not prove the region at once.
        """
        start, outcome = time.process_time(), Outcome(deployed=True)
        row = self.rows(torch.tensor([y]))
        everywhere = torch.ones(row.shape[1], dtype=torch.bool)
        stack = [Node(root, {}, everywhere)]
        while stack:
            if time.process_time() - start > seconds:
                break
            now, stack = stack[-self.batch :], stack[: -self.batch]
            children = self._expand(now, row, attempt, outcome)
            if outcome.verdict == BROKEN:
                break
            if children is None:  # a leaf too narrow to split
                stack.append(now[0])
                break
            if outcome.nodes == 1:
                outcome.at_root = not children
                if children and (found := search()) is not None:
                    outcome.verdict, outcome.counterexample = BROKEN, found
                    break
            stack.extend(sorted(children, key=lambda node: -node.least))
        if outcome.verdict != BROKEN and not stack:
            outcome.verdict = PROVED
        outcome.deployed &= outcome.verdict == PROVED
        outcome.seconds = time.process_time() - start
        return outcome

    def _expand(self, now: list[Node], row: Tensor, attempt: Try, outcome: Outcome) -> list[Node] | None:
        regions = Regions.join([node.region for node in now])
        ranges = {
            m: (
                torch.cat([node.ranges[m][0] for node in now]),
                torch.cat([node.ranges[m][1] for node in now]),
            )
            for m in now[0].ranges
            if all(m in node.ranges for node in now)
        }
        still = torch.stack([node.open for node in now])
        rows = row.expand(len(now), -1, -1)
        count = int(still.sum(1).max())
        index = still.int().argsort(dim=1, descending=True, stable=True)[:, :count]
        some = rows.gather(1, index[:, :, None].expand(-1, -1, rows.shape[2]))
        bounds, margins, rounding = self.margins(regions, some, ranges, self.steps)
        outcome.nodes += len(now)
        sure = self.proved(margins.least, rounding) | ~still.gather(1, index)
        outcome.deployed &= bool((margins.least > rounding)[sure & still.gather(1, index)].all())
        behind = ~sure
        if not bool(behind.any()):
            return []
        if (found := attempt(blamed(regions, margins, behind))) is not None:
            outcome.verdict, outcome.counterexample = BROKEN, found
            return []
        children: list[Node] = []
        for b, node in enumerate(now):
            if not bool(behind[b].any()):
                continue
            worst = int(torch.where(behind[b], margins.least[b], torch.inf).argmin())
            region = self._without_harmless(node.region, margins, behind, rounding, b, outcome)
            ahead = float(some[b, worst] @ bounds.z[-1][b])
            parts = self._split(region, margins.losses[b, worst], ahead, float(margins.least[b, worst]))
            if parts is None:
                return None
            known = {m: (low[b : b + 1], high[b : b + 1]) for m, (low, high) in bounds.ranges.items()}
            left = torch.zeros_like(node.open)
            left[index[b][behind[b]]] = True
            joined = Regions.join(parts)
            # the parent's linear bound holds on its children
            losses = margins.losses[b].flatten(1)[None].expand(len(parts), -1, -1)
            if parts[0].centre is not region.centre:
                moved = torch.zeros((len(parts), losses.shape[1]), dtype=torch.bool)
            else:
                least = margins.constant[b] - joined.top(losses, joined.group.flatten(1)[:, None])
                moved = self.proved(least, rounding[b])
                outcome.deployed &= bool((least > rounding[b])[moved & behind[b]].all())
            for i, part in enumerate(parts):
                still_open = left.clone()
                still_open[index[b][moved[i]]] = False
                if bool(still_open.any()):
                    children.append(
                        Node(part, known, still_open, float(margins.least[b, worst]), node.depth + 1)
                    )
        return children

    def _split(
        self, region: Regions, losses: Float[Tensor, "p u"], ahead: float, least: float
    ) -> list[Regions] | None:
        """Parts that cover the region, several times halved where its bound is far from enough."""
        parts = split(region, losses)
        if parts is None or ahead <= 0 or not math.isfinite(least):
            return parts
        for _ in range(int(math.log((ahead - least) / ahead) / _GAIN)):
            finer = [split(part, losses) if int(part.counts.sum()) else [part] for part in parts]
            made = [one for some in finer if some is not None for one in some]
            if None in finer or not len(parts) < len(made) <= self.batch:
                break
            parts = made
        return parts

    def _without_harmless(
        self,
        region: Regions,
        margins: Margins,
        behind: Bool[Tensor, "b m"],
        rounding: Float[Tensor, "b m"],
        b: int,
        outcome: Outcome,
    ) -> Regions:
        """The region without the changes that no counterexample contains, by the bounds of its open rows.

        Where a bound stays above 0 although it counts a certain unit among the changed ones, whatever breaks that
        margin leaves the unit as it is.  Units of which all open rows say so are fixed.
        """
        rows = behind[b].nonzero()[:, 0]
        group, losses = region.group[0], margins.losses[b, rows]
        least, wanted = margins.least[b, rows], rounding[b, rows]
        needed = group == FREE
        for g in range(region.counts.shape[1]):
            own = group == g + 1
            among = losses[:, own]  # (rows, units of the group)
            if not among.shape[1]:
                continue
            # what the bound loses if the unit takes the place of the least of the group's changed ones
            last = among.kthvalue(among.shape[1] - int(region.counts[0, g]) + 1, dim=1, keepdim=True).values
            with_it = least[:, None] + (last - among).clamp_min(0)
            harmless = self.proved(with_it, wanted[:, None]).all(0)
            outcome.deployed &= bool((with_it > wanted[:, None])[:, harmless].all())
            needed[own] = ~harmless
        if bool((needed | (group == FIXED)).all()):
            return region
        return settle(replace(region, group=torch.where(needed, group, FIXED)[None]))


def blamed(regions: Regions, margins: Margins, behind: Bool[Tensor, "b m"]) -> Float[Tensor, "n c p"]:
    """The inputs that the bounds of open rows blame: the units that lose most, at the corners where they do."""
    owner, row = behind.nonzero(as_tuple=True)
    losses, corner = margins.losses[owner, row].flatten(1), margins.corner[owner, row]
    group, counts = regions.group[owner].flatten(1), regions.counts[owner]
    taken = group == FREE
    for g in range(counts.shape[1]):
        own = torch.where(group == g + 1, losses, -1.0)
        place = own.argsort(dim=1, descending=True).argsort(dim=1)
        taken |= (place < counts[:, g, None]) & (own > 0)
    taken = taken.view(len(owner), *regions.group.shape[1:])
    corners = regions.corners[owner]  # (n, c, p, v)
    which = corner.transpose(1, 2)  # (n, u, p)
    moves = corners.gather(3, which.expand(-1, corners.shape[1], -1)[..., None])[..., 0]
    return regions.centre[owner] + torch.where(taken.transpose(1, 2), moves, 0.0)


def split(region: Regions, losses: Float[Tensor, "p u"]) -> list[Regions] | None:
    """Parts that cover the region; None where it is too small to split."""
    group, counts = region.group[0], region.counts[0]
    weight = []
    for g in range(len(counts)):
        own = losses[group == g + 1]
        weight.append(float(own.topk(min(int(counts[g]), own.numel())).values.sum()) if counts[g] else -1.0)
    if weight and max(weight) >= 0:
        g = weight.index(max(weight)) + 1
        return split_group(region, g, _half(region, g, losses))
    free = (group == FREE).nonzero()
    widths = region.high[0] - region.low[0]  # (c, p)
    best, place = -1.0, None
    for p, u in free.tolist():
        for c in range(region.centre.shape[1]) if region.per_pixel else (u,):
            width = float(widths[c, p])
            score = width * (1e-9 + float(losses[p, u]))
            if width > _NARROWEST and score > best:
                best, place = score, (c, p)
    return None if place is None else split_values(region, *place)


def _half(region: Regions, g: int, losses: Float[Tensor, "p u"]) -> Bool[Tensor, "p u"]:
    """Some of the units of a group: one side of a line through the middle of their losses."""
    own = (region.group[0] == g).nonzero()
    _, _, width = region.image
    weight = losses[own[:, 0], own[:, 1]] + 1e-12
    row, column = own[:, 0] // width, own[:, 0] % width
    extents = [int(v.max() - v.min()) for v in (row, column)]
    first = torch.zeros(losses.shape, dtype=torch.bool)
    if max(extents) == 0:  # features of one position
        chosen = own[: max(1, len(own) // 2)]
    else:
        along = row if extents[0] >= extents[1] else column
        order = along.argsort(stable=True)
        reached = weight[order].cumsum(0)
        middle = along[order][int((reached < reached[-1] / 2).sum().clamp_max(len(own) - 1))]
        # the line that leaves both sides closest to half of the losses
        sides = [(along < middle), (along <= middle)]
        usable = [side for side in sides if 0 < int(side.sum()) < len(own)]
        total = float(weight.sum())
        chosen = own[min(usable, key=lambda side: abs(float(weight[side].sum()) - total / 2))]
    first[chosen[:, 0], chosen[:, 1]] = True
    return first
