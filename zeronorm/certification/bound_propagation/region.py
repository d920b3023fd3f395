"""The sets of inputs that are bounded at once: some units free in a box, some in groups of which few may change.

b  regions, of one example or of several
c  channels, p positions of an input (c, h, w): p = h * w; flat features are one channel of one row
u  units at a position: 1 where a pixel is one, c where every feature is
v  corners of a unit's box: 2 for each entry that changes with it
a  positions where anything may change, padded to the same number in every region

Every unit is *fixed* (group 0), *free* (group -1), or in a group g = 1, 2, ..., of which at most `counts[g - 1]` units
differ from the centre.  The centre lies in the region.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zeronorm.errors import ArgumentError
from zeronorm.threat_model import L0

FIXED, FREE = 0, -1
_CORNERS = 64  # of one unit: six channels


@dataclass(frozen=True, eq=False)
class Regions:
    """A batch of regions, in float64."""

    centre: Float[Tensor, "b c p"]
    low: Float[Tensor, "b c p"]
    high: Float[Tensor, "b c p"]
    group: Int[Tensor, "b p u"]
    counts: Int[Tensor, "b g"]
    shape: tuple[int, ...]  # of one input as the network takes it

    def __len__(self) -> int:
        return len(self.centre)

    @property
    def image(self) -> tuple[int, int, int]:
        """Channels, height and width, also of flat features."""
        return self.shape if len(self.shape) == 3 else (1, 1, math.prod(self.shape))

    @property
    def per_pixel(self) -> bool:
        """Whether the channels of a position change together."""
        return self.group.shape[2] == 1

    @cached_property
    def positions(self) -> Int[Tensor, "b a"]:
        """Those where anything may change; p stands for none."""
        active = (self.group != FIXED).any(2)
        places = active.shape[1]
        width = max(1, int(active.sum(1).max()) if len(active) else 1)
        order = torch.where(active, torch.arange(places), places).sort(1).values
        return order[:, :width].contiguous()

    @cached_property
    def active_group(self) -> Int[Tensor, "b a u"]:
        """The groups of `positions`."""
        units = self.group.shape[2]
        padded = torch.cat([self.group, self.group.new_full((len(self), 1, units), FIXED)], 1)
        return padded.gather(1, self.positions[:, :, None].expand(-1, -1, units))

    @cached_property
    def corners(self) -> Float[Tensor, "b c p v"]:
        """What each entry of a unit differs from the centre by at each corner of the unit's box; 0 where fixed."""
        ends = torch.stack([self.low, self.high], 3) - self.centre[..., None]
        changes = (self.group != FIXED).transpose(1, 2)[
            ..., None
        ]  # (b, u, p, 1): of all channels, or of each
        ends = torch.where(changes, ends, 0.0)
        if not self.per_pixel:
            return ends
        channels = ends.shape[1]
        choice = torch.tensor(list(product((0, 1), repeat=channels)))  # (v, c)
        return torch.stack([ends[:, c, :, choice[:, c]] for c in range(channels)], 1)

    @cached_property
    def deviations(self) -> Float[Tensor, "b c p q"]:
        """As `corners`, of every unit: q = (u, v), and 0 for the entries that do not belong to the unit."""
        corners = self.corners
        if self.per_pixel:
            return corners
        b, c, p, v = corners.shape
        own = torch.eye(c, dtype=corners.dtype)
        return torch.einsum("bcpv,cu->bcpuv", corners, own).reshape(b, c, p, c * v)

    @cached_property
    def most(self) -> Int[Tensor, "b"]:
        """How many units may differ from the centre."""
        return self.changed_within(self.group.flatten(1)[:, None])[:, 0].clamp_min(1)

    def changed_within(self, groups: Int[Tensor, "b n k"]) -> Int[Tensor, "b n"]:
        """At most how many of the units of the given groups differ from the centre."""
        most = (groups == FREE).sum(2)
        for g in range(self.counts.shape[1]):
            inside = (groups == g + 1).sum(2)
            most = most + torch.minimum(inside, self.counts[:, g, None])
        return most

    def top(
        self, losses: Float[Tensor, "b n k"], groups: Int[Tensor, "b n k"] | Int[Tensor, "b 1 k"]
    ) -> Float[Tensor, "b n"]:
        """The most that losses (at least 0) of changed units add up to: all free ones, the largest of each group."""
        whole = int(self.counts.shape[1]) == 1 and not bool((groups == FREE).any())
        total = losses.new_zeros(losses.shape[:2])
        if not whole:
            total = total + torch.where(groups == FREE, losses, 0.0).sum(2)
        for g in range(self.counts.shape[1]):
            count = self.counts[:, g]
            k = min(int(count.max()), losses.shape[2])
            if k < 1:
                continue
            own = torch.where(groups == g + 1, losses, 0.0)
            if k == 1:
                total = total + own.amax(2) * (count > 0)[:, None]
                continue
            largest = own.topk(k, 2).values
            counted = torch.arange(k) < count[:, None, None]
            total = total + torch.where(counted, largest, 0.0).sum(2)
        return total

    def entries(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest value of each entry in the region, `(b, *shape)`."""
        units = self.group.transpose(1, 2)
        low = torch.where(units == FIXED, self.centre, torch.minimum(self.low, self.centre))
        high = torch.where(units == FIXED, self.centre, torch.maximum(self.high, self.centre))
        return low.reshape(-1, *self.shape), high.reshape(-1, *self.shape)

    def select(self, rows: Sequence[int] | Tensor) -> Regions:
        """Some of the regions."""
        rows = torch.as_tensor(rows)
        return replace(
            self,
            centre=self.centre[rows],
            low=self.low[rows],
            high=self.high[rows],
            group=self.group[rows],
            counts=self.counts[rows],
        )

    @staticmethod
    def join(regions: Sequence[Regions]) -> Regions:
        """All of them, of inputs of one shape."""
        width = max(one.counts.shape[1] for one in regions)
        counts = [torch.nn.functional.pad(one.counts, (0, width - one.counts.shape[1])) for one in regions]
        return Regions(
            torch.cat([one.centre for one in regions]),
            torch.cat([one.low for one in regions]),
            torch.cat([one.high for one in regions]),
            torch.cat([one.group for one in regions]),
            torch.cat(counts),
            regions[0].shape,
        )


def whole(x: Tensor, threat: L0) -> Regions:
    """Everything the threat model allows, one region for each example.

    **Raises:** `ArgumentError` for pixels of more channels than can be enumerated.
    """
    assert threat.k is not None
    b, per_pixel = len(x), threat.unit == "pixel" and x.dim() == 4
    channels, positions = (
        (x.shape[1], math.prod(x.shape[2:])) if x.dim() == 4 else (1, math.prod(x.shape[1:]))
    )
    if per_pixel and 2**channels > _CORNERS:
        raise ArgumentError(
            f"unit: expected pixels of at most {int(math.log2(_CORNERS))} channels for bound propagation, "
            f"got {channels}"
        )
    low, high = (bound.double().reshape(b, channels, positions) for bound in threat.bounds(x))
    centre = x.double().reshape(b, channels, positions)
    group = torch.ones(b, positions, 1 if per_pixel else channels, dtype=torch.int64)
    if (allowed := threat.allowed_positions(x)) is not None:
        may = allowed.cpu().reshape(-1, positions).T if not per_pixel else allowed.cpu()[:, None]
        group = torch.where(may, group, FIXED)
    # a unit whose box is one point cannot change
    still = (low == high) & (low == centre)
    still = still.all(1, keepdim=True) if per_pixel else still
    group = torch.where(still.transpose(1, 2), FIXED, group)
    counts = torch.full((b, 1), threat.k, dtype=torch.int64)
    return settle(Regions(centre, low, high, group, counts, tuple(x.shape[1:])))


def settle(regions: Regions) -> Regions:
    """Groups of which none may change are fixed, groups of which all may are free, and numbers are close together."""
    group, counts = regions.group.clone(), regions.counts
    kept = torch.zeros_like(counts)
    for b in range(len(regions)):
        place = 0
        for g in range(counts.shape[1]):
            mask = regions.group[b] == g + 1
            size, count = int(mask.sum()), int(counts[b, g])
            if count <= 0 or size == 0:
                group[b][mask] = FIXED
            elif count >= size:
                group[b][mask] = FREE
            else:
                group[b][mask] = place + 1
                kept[b, place] = count
                place += 1
    width = max(1, int((kept > 0).sum(1).max()) if len(kept) else 1)
    return replace(regions, group=group, counts=kept[:, :width].contiguous())


def split_group(region: Regions, g: int, first: Tensor) -> list[Regions]:
    """The one region as several that cover it: at most i changes in `first`, the rest of the group's in the others.

    `first` is a mask (p, u) of some, not all, of the units of group g.
    """
    count, places = int(region.counts[0, g - 1]), region.counts.shape[1]
    own = region.group[0] == g
    first = first & own
    sizes = int(first.sum()), int((own & ~first).sum())
    assert sizes[0] and sizes[1]
    children = []
    for i in range(count + 1):
        if i > sizes[0] or count - i > sizes[1]:
            continue
        group, counts = region.group.clone(), torch.cat([region.counts, region.counts.new_zeros(1, 1)], 1)
        group[0][own & ~first] = places + 1
        counts[0, g - 1], counts[0, places] = i, count - i
        children.append(settle(replace(region, group=group, counts=counts)))
    return children


def split_values(region: Regions, channel: int, position: int) -> list[Regions]:
    """The one region as two: the box of an entry of a free unit is halved, and the centre moved into it."""
    low, high = float(region.low[0, channel, position]), float(region.high[0, channel, position])
    middle = (low + high) / 2
    children = []
    for bottom, top in ((low, middle), (middle, high)):
        part = replace(region, centre=region.centre.clone(), low=region.low.clone(), high=region.high.clone())
        part.low[0, channel, position], part.high[0, channel, position] = bottom, top
        part.centre[0, channel, position] = (bottom + top) / 2
        children.append(part)
    return children
