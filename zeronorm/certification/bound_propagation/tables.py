"""Zero-bias tables: bounds of how far each neuron moves, as sums over the changed units.

A table of neurons f has, for each neuron i, unit and value of the unit, L and U, with

    sum of L  ≤  f_i(x') - f_i(x)  ≤  sum of U        over the changed units, for every x' in the region,

L concave and U convex in the value, so that a unit's box need only be looked at in its corners.  There is no
constant: a neuron that no changed unit touches costs nothing.  Kept are the middle M = (L + U) / 2 and the half-width
R = (U - L) / 2, since |W| and W take them through an affine map; R is None where L = U exactly.

b  regions    n  neurons    q  units of a position times corners of its box
r  cells: positions of the input that a neuron sees.  A patch (c, i, j) of a convolution sees a window; a dense one all
   positions of `Regions.positions`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from zeronorm.certification.bound_propagation.region import FIXED, Regions
from zeronorm.certification.network_graph import (
    Conv2d,
    Linear,
    MaxPool2d,
    Operation,
    Pad,
    Reshape,
    Scale,
    Select,
)


@dataclass(frozen=True)
class Window:
    """Which positions the neurons of a patch table see: a `kernel` from `stride * i - offset` on."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    offset: tuple[int, int]
    sides: tuple[int, int]  # how many neurons in each direction

    def cells(self, image: tuple[int, int, int]) -> Int[Tensor, "l r"]:
        """Number of the position of every cell, row by row; height * width beyond the border."""
        _, height, width = image
        rows, columns = (
            torch.arange(n)[:, None] * s - o + torch.arange(k)
            for n, s, o, k in zip(self.sides, self.stride, self.offset, self.kernel, strict=True)
        )
        row, column = rows[:, None, :, None], columns[None, :, None, :]
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        place = torch.where(inside, row * width + column, height * width)
        return place.reshape(math.prod(self.sides), math.prod(self.kernel))

    @property
    def canvas(self) -> tuple[int, int]:
        """Positions that some neuron sees, from -offset on."""
        height, width = (
            (n - 1) * s + k for n, s, k in zip(self.sides, self.stride, self.kernel, strict=True)
        )
        return height, width


@dataclass(frozen=True, eq=False)
class Table:
    """M and R of patches, `(b, c, i, j, kh, kw, q)` with a window, or of dense neurons, `(b, *shape, a, q)`."""

    regions: Regions
    shape: tuple[int, ...]  # of the neurons, as the network has them
    middle: Tensor
    half: Tensor | None
    window: Window | None
    field: Window | None = None  # what dense neurons see, where they are a convolution's

    # ---- shapes ----

    @property
    def neurons(self) -> int:
        return math.prod(self.shape)

    @cached_property
    def groups(self) -> Int[Tensor, "b l k"]:
        """The group of the unit of every cell; of dense neurons one row for all."""
        if self.window is None:
            return self.regions.active_group.flatten(1)[:, None]
        return self._seen(self.window)

    def _seen(self, window: Window) -> Int[Tensor, "b l k"]:
        cells = window.cells(self.regions.image)
        group = self.regions.group
        padded = torch.cat([group, group.new_full((len(group), 1, group.shape[2]), FIXED)], 1)
        return padded[:, cells].flatten(2)

    def units(self, values: Tensor) -> Float[Tensor, "b n k"]:
        """The largest over each unit's corners, `(b, neurons, cells * units)`, in the order of the neurons."""
        b, units = len(values), self.regions.group.shape[2]
        return values.reshape(b, self.neurons, -1, units, values.shape[-1] // units).amax(4).flatten(2)

    def per_neuron(self, values: Tensor) -> Tensor:
        """What belongs to positions of patches, `(b, l)`, or to all, `(b, 1)`, as `(b, *neurons)`."""
        window = self.window or self.field
        if window is None or values.shape[1] == 1:
            return values.view(-1, *[1] * len(self.shape)).expand(-1, *self.shape)
        channels = self.neurons // math.prod(window.sides)
        return values.view(-1, 1, *window.sides).expand(-1, channels, -1, -1).reshape(-1, *self.shape)

    @property
    def lower(self) -> Tensor:
        return self.middle if self.half is None else self.middle - self.half

    @property
    def upper(self) -> Tensor:
        return self.middle if self.half is None else self.middle + self.half

    def spread(self, values: Tensor) -> Tensor:
        """Numbers of neurons, `(b, *shape)`, beside their cells."""
        if self.window is None:
            return values[..., None, None]
        channels = self.neurons // math.prod(self.window.sides)
        return values.reshape(len(values), channels, *self.window.sides, 1, 1, 1)

    # ---- what follows from a table ----

    def reach(self) -> tuple[Tensor, Tensor]:
        """How far each neuron can fall and rise, both at least 0: `(b, *shape)`."""
        groups = self.groups
        if self.window is not None:  # neurons are in the order c, l
            channels = self.neurons // math.prod(self.window.sides)
            groups = groups.repeat(1, channels, 1)
        falls = self.regions.top(self.units(-self.lower).clamp_min(0), groups)
        rises = self.regions.top(self.units(self.upper).clamp_min(0), groups)
        return falls.view(-1, *self.shape), rises.view(-1, *self.shape)

    def changes(self) -> Tensor:
        """T: at most how many changed units each neuron sees, at least 1; `(b, *shape)`."""
        groups = self.groups if self.field is None else self._seen(self.field)
        most = self.regions.changed_within(groups).clamp_min(1)
        return self.per_neuron(most.double())

    def chosen(self, values: Tensor, index: Int[Tensor, "b o"]) -> Float[Tensor, "b o a q"]:
        """Some neurons' rows of a table's values, by active position."""
        regions, q = self.regions, values.shape[-1]
        b, o = index.shape
        if self.window is None:
            flat = values.reshape(b, self.neurons, -1, q)
            return flat.gather(1, index[:, :, None, None].expand(-1, -1, *flat.shape[2:]))
        cells = self.window.cells(regions.image)
        width, places = cells.shape[1], regions.group.shape[1]
        rows = values.reshape(b, self.neurons, width * q).gather(
            1, index[:, :, None].expand(-1, -1, width * q)
        )
        active = regions.positions.shape[1]
        column = torch.full((b, places + 1), active)
        column.scatter_(1, regions.positions, torch.arange(active).expand(b, -1))
        column[:, places] = active
        which = column.gather(1, cells[index % len(cells)].view(b, -1)).view(b, o, width, 1)
        made = values.new_zeros(b, o, active + 1, q)
        return made.scatter_(2, which.expand(-1, -1, -1, q), rows.view(b, o, width, q))[:, :, :active]

    # ---- through the operations ----

    def through(self, operation: Operation, dense: bool = False) -> Table | None:
        """The table after an affine operation of one input; None where that is not worked out.

        `dense`: patches may become dense neurons where that is less work.
        """
        if isinstance(operation, Scale):
            return self._scaled(operation)
        if isinstance(operation, Reshape):
            return self._reshaped(operation.shape)
        if self.window is None:
            return self._dense_through(operation)
        if isinstance(operation, Conv2d) and len(self.shape) == 3:
            if dense and self.regions.positions.shape[1] <= self._cells_at_most(operation):
                return self._of_all_positions()._dense_through(operation)
            return self._convolved(operation)
        if isinstance(operation, Linear):
            return self._joined(operation)
        if isinstance(operation, Pad | Select) and len(self.shape) == 3:
            return self._moved(operation)
        return None

    def _reshaped(self, shape: tuple[int, ...]) -> Table:
        if self.window is not None:
            return replace(self, shape=shape)
        rest = self.middle.shape[-2:]
        half = None if self.half is None else self.half.reshape(-1, *shape, *rest)
        return replace(self, shape=shape, middle=self.middle.reshape(-1, *shape, *rest), half=half)

    def _scaled(self, operation: Scale) -> Table:
        factor = self.spread(operation.factor.expand(self.shape)[None])
        half = None if self.half is None else self.half * factor.abs()
        return replace(self, middle=self.middle * factor, half=half)

    def _dense_through(self, operation: Operation) -> Table:
        b, rest = len(self.middle), self.middle.shape[-2:]

        def images(values: Tensor) -> Tensor:
            return values.movedim((-2, -1), (1, 2)).reshape(-1, *self.shape)

        def back(values: Tensor) -> Tensor:
            return values.reshape(b, *rest, *operation.shape).movedim((1, 2), (-2, -1)).contiguous()

        half = None if self.half is None else back(operation.absolute(images(self.half)))
        field = None
        if isinstance(operation, Conv2d) and self.field is not None and len(self.shape) == 3:
            field = _seen_through(self.field, operation)
        return replace(
            self,
            shape=operation.shape,
            middle=back(operation.linear(images(self.middle))),
            half=half,
            field=field,
        )

    def _cells_at_most(self, operation: Conv2d) -> int:
        """With so many active positions dense neurons are less work than patches."""
        assert self.window is not None
        before = math.prod(self.window.kernel)
        after = math.prod(_seen_through(self.window, operation).kernel)
        return after if operation.is_small else math.isqrt(before * after)

    def _of_all_positions(self) -> Table:
        """The same table, with a cell for every active position."""
        everyone = torch.arange(self.neurons).expand(len(self.middle), -1)

        def dense(values: Tensor) -> Tensor:
            return self.chosen(values, everyone).reshape(len(values), *self.shape, -1, values.shape[-1])

        half = None if self.half is None else dense(self.half)
        return Table(self.regions, self.shape, dense(self.middle), half, None, self.window)

    def _convolved(self, operation: Conv2d) -> Table:
        assert self.window is not None
        window, weight = self.window, operation.weight
        steps = [d * s for d, s in zip(operation.dilation, window.stride, strict=True)]
        seen = _seen_through(window, operation)
        half = None if self.half is None else _slide(self.half, weight.abs(), operation, window, seen, steps)
        middle = _slide(self.middle, weight, operation, window, seen, steps)
        return Table(self.regions, operation.shape, middle, half, seen)

    def _joined(self, operation: Linear) -> Table:
        """All patches into dense neurons."""
        rows = operation.weight[None].expand(len(self.middle), -1, -1)

        def dense(values: Tensor, weights: Tensor) -> Tensor:
            return fold(weights, by_position(values), self)

        half = None if self.half is None else dense(self.half, rows.abs())
        return Table(self.regions, operation.shape, dense(self.middle, rows), half, None)

    def _moved(self, operation: Pad | Select) -> Table:
        assert self.window is not None
        window = self.window
        if isinstance(operation, Pad):
            sides = operation.sides + (0,) * (6 - len(operation.sides))
            offset = (
                window.offset[0] + sides[2] * window.stride[0],
                window.offset[1] + sides[0] * window.stride[1],
            )
            moved = replace(window, offset=offset, sides=_pair(operation.shape[1:]))

            def move(values: Tensor) -> Tensor:
                return F.pad(values, (0, 0, 0, 0, 0, 0, *sides))

        else:
            ranges = [range(*s.indices(n)) for s, n in zip(operation.slices, self.shape, strict=True)]
            moved = replace(
                window,
                stride=_pair(s * r.step for s, r in zip(window.stride, ranges[1:], strict=True)),
                offset=_pair(
                    o - r.start * s for o, r, s in zip(window.offset, ranges[1:], window.stride, strict=True)
                ),
                sides=_pair(operation.shape[1:]),
            )
            slices = operation.slices

            def move(values: Tensor) -> Tensor:
                return values[(slice(None), *slices)]

        half = None if self.half is None else move(self.half)
        return Table(self.regions, operation.shape, move(self.middle), half, moved)

    def plus(self, other: Table) -> Table | None:
        """The table of a sum."""
        if (self.window is None) != (other.window is None):
            return None
        one, two = self.middle, other.middle
        first, second = self.half, other.half
        window = self.window
        if window is not None and other.window is not None:
            if (window.stride, window.sides) != (other.window.stride, other.window.sides):
                return None
            joint, places = _around(window, other.window)
            one, two = _placed(one, joint, places[0]), _placed(two, joint, places[1])
            first = None if first is None else _placed(first, joint, places[0])
            second = None if second is None else _placed(second, joint, places[1])
            window = joint
        half = second if first is None else first if second is None else first + second
        field = self.field if self.field == other.field else None
        return Table(self.regions, self.shape, one + two, half, window, field)

    def rectified(self, z: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Callable[[], Table]]:
        """The upper bounds after relu, by Jensen's inequality, and the table, which not everyone needs.

        `z` are the values at the centre, `low` and `high` their ranges.
        """
        centre, on, off = self.spread(z), self.spread(low >= 0), self.spread(high <= 0)
        active = self.spread(z > 0)
        times = self.spread(self.changes())
        upper = ((centre + times * self.upper).relu() - centre.relu()) / times
        upper = torch.where(on, self.upper, torch.where(off, 0.0, upper))

        def table() -> Table:
            lower = torch.where(on | (active & ~off), self.lower, 0.0)
            return replace(self, middle=(upper + lower) / 2, half=(upper - lower) / 2)

        return upper, table

    def pooled(self, operation: MaxPool2d, z: Tensor) -> Table | None:
        """The table after max pooling: Jensen's inequality above, the largest neuron at the centre below."""
        if self.window is None or len(self.shape) != 3:
            return None
        window, kernel = self.window, operation.kernel
        steps = [d * s for d, s in zip(operation.dilation, window.stride, strict=True)]
        seen = _seen_through(window, operation)
        best = operation.apply(z)
        result = Table(self.regions, operation.shape, z.new_zeros(0), None, seen)
        times, top = result.spread(result.changes()), result.spread(best)
        b, q = len(z), self.middle.shape[-1]
        shape = (b, operation.shape[0], *seen.sides, *seen.kernel, q)
        largest, lower = z.new_full(shape, -math.inf), z.new_zeros(shape)
        taken = torch.zeros((b, *operation.shape), dtype=torch.bool)
        for y in range(kernel[0]):
            for x in range(kernel[1]):
                value = shifted(z, operation, y, x, -math.inf)
                up, down = (shifted(t, operation, y, x, 0.0) for t in (self.upper, self.lower))
                place = _inner(seen, window, y * steps[0], x * steps[1])
                here = result.spread(value).expand(shape).clone()
                here[place] = here[place] + times * up
                largest = torch.maximum(largest, here)
                first = (value == best) & ~taken
                taken |= first
                lower[place] += torch.where(result.spread(first), down, 0.0)
        upper = (largest - top) / times
        return replace(result, middle=(upper + lower) / 2, half=(upper - lower) / 2)


def identity(regions: Regions) -> Table:
    """The table of the input itself."""
    channels, height, width = regions.image
    deviations = regions.deviations
    middle = deviations.reshape(len(regions), channels, height, width, 1, 1, deviations.shape[3])
    window = Window((1, 1), (1, 1), (0, 0), (height, width))
    return Table(regions, regions.shape, middle, None, window)


def by_position(values: Float[Tensor, "b c i j kh kw q"]) -> Float[Tensor, "b l c x"]:
    """A patch table as `fold` takes it: x = (q, kh, kw)."""
    b, c, i, j, kh, kw, q = values.shape
    return values.permute(0, 2, 3, 1, 6, 4, 5).reshape(b, i * j, c, q * kh * kw)


def fold(rows: Float[Tensor, "b m n"], values: Tensor, table: Table) -> Float[Tensor, "b m a q"]:
    """Sums over neurons of rows times a table, by active position and corner.  `values`: of `by_position`, or dense."""
    b, m, _ = rows.shape
    regions = table.regions
    if table.window is None:
        flat = values.reshape(b, table.neurons, -1)
        return torch.bmm(rows, flat).reshape(b, m, *values.shape[-2:])
    window = table.window
    places, width = math.prod(window.sides), math.prod(window.kernel)
    coefficients = rows.reshape(b, m, -1, places).permute(0, 3, 1, 2).reshape(b * places, m, -1)
    patches = torch.bmm(coefficients, values.reshape(b * places, values.shape[2], -1))
    q = patches.shape[2] // width
    columns = patches.view(b, places, m * q * width).transpose(1, 2)
    folded = F.fold(columns, window.canvas, window.kernel, stride=window.stride)
    _, height, breadth = regions.image
    top, left = window.offset
    below, right = height + top - window.canvas[0], breadth + left - window.canvas[1]
    # one position more stands for none
    image = F.pad(folded, (-left, right, -top, below)).reshape(b, m, q, height * breadth)
    image = F.pad(image, (0, 1))
    index = regions.positions[:, None, None].expand(-1, m, q, -1)
    return image.gather(3, index).transpose(2, 3)


def shifted(values: Tensor, operation: Conv2d | MaxPool2d, y: int, x: int, fill: float) -> Tensor:
    """What the cell (y, x) of every window of a convolution or a pool holds; dimensions 2 and 3 are the image's."""
    (high, wide), (down, across) = operation.padding, operation.stride
    if high or wide:
        values = F.pad(values, (0, 0) * (values.dim() - 4) + (wide, wide, high, high), value=fill)
    top, left = y * operation.dilation[0], x * operation.dilation[1]
    rows, columns = operation.shape[1:]
    return values[
        :, :, top : top + (rows - 1) * down + 1 : down, left : left + (columns - 1) * across + 1 : across
    ]


def _seen_through(window: Window, operation: Conv2d | MaxPool2d) -> Window:
    """What is seen through the windows of a convolution or a pool, each of whose cells sees a window."""
    kernel = operation.weight.shape[2:] if isinstance(operation, Conv2d) else operation.kernel
    steps = [d * s for d, s in zip(operation.dilation, window.stride, strict=True)]
    return Window(
        _pair(k0 + (k - 1) * step for k0, k, step in zip(window.kernel, kernel, steps, strict=True)),
        _pair(s0 * s for s0, s in zip(window.stride, operation.stride, strict=True)),
        _pair(o + p * s for o, p, s in zip(window.offset, operation.padding, window.stride, strict=True)),
        _pair(operation.shape[1:]),
    )


def _slide(
    values: Tensor, weight: Tensor, operation: Conv2d, window: Window, seen: Window, steps: list[int]
) -> Tensor:
    b, q, groups = len(values), values.shape[-1], operation.groups
    made = values.new_zeros((b, operation.shape[0], *seen.sides, *seen.kernel, q))
    for y in range(weight.shape[2]):
        for x in range(weight.shape[3]):
            part = shifted(values, operation, y, x, 0.0)
            own = weight[:, :, y, x]
            flat = part.reshape(b * groups, own.shape[1], -1)
            product = (
                torch.matmul(own, flat)
                if groups == 1
                else torch.bmm(own.view(groups, -1, own.shape[1]).repeat(b, 1, 1), flat)
            )
            made[_inner(seen, window, y * steps[0], x * steps[1])] += product.view(
                b, operation.shape[0], *part.shape[2:]
            )
    return made


def _inner(seen: Window, window: Window, top: int, left: int) -> tuple[slice, ...]:
    """Where the cells of the smaller window lie in the larger."""
    return (
        *[slice(None)] * 4,
        slice(top, top + window.kernel[0]),
        slice(left, left + window.kernel[1]),
    )


def _around(one: Window, two: Window) -> tuple[Window, list[tuple[int, int]]]:
    """The window of both, and where each lies in it."""
    offset = _pair(max(a, b) for a, b in zip(one.offset, two.offset, strict=True))
    places = [_pair(o - own for o, own in zip(offset, window.offset, strict=True)) for window in (one, two)]
    kernel = _pair(
        max(place[d] + window.kernel[d] for place, window in zip(places, (one, two), strict=True))
        for d in (0, 1)
    )
    return replace(one, offset=offset, kernel=kernel), places


def _placed(values: Tensor, joint: Window, place: tuple[int, int]) -> Tensor:
    below = joint.kernel[0] - place[0] - values.shape[4]
    right = joint.kernel[1] - place[1] - values.shape[5]
    return F.pad(values, (0, 0, place[1], right, place[0], below))


def _pair(numbers: object) -> tuple[int, int]:
    first, second = (int(number) for number in numbers)  # type: ignore[attr-defined]
    return first, second
