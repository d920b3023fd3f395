"""Bounds of every neuron, and of the margins, over a batch of regions.

Forward: intervals and zero-bias tables, whichever is tighter for each neuron, then linear bounds for the neurons whose
sign is still open.  Backward: a linear function of some neurons, bounded below by a constant and a sum over the changed
units.  At a relu whose input may have either sign a positive coefficient takes a slope in [0, 1] (relu(v) ≥ s v), a
negative one is shared between the chord and the table: any slopes and shares in [0, 1] give a bound.

All is rounded outward: `error` bounds the sum of all rounding errors of a bound.  Products and sums alone can err; each
contributes at most γ(n) = n u / (1 - n u), u = 2⁻⁵³, times the absolute values that were added up, which are bounded
along with the neurons.  γ is taken four times over, for the steps between.

b  regions    m  rows bounded at once    a  active positions    q  units of a position times corners
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from zeronorm.certification.bound_propagation.region import Regions
from zeronorm.certification.bound_propagation.tables import Table, by_position, fold, identity, shifted
from zeronorm.certification.network_graph import Add, Conv2d, Input, Linear, MaxPool2d, Network, Operation, Relu
from zeronorm.errors import ArgumentError

_CELLS = 4_000_000  # numbers in a table of one region
_PRODUCTS = 400_000_000  # multiplications on the way to one
_ROWS = 24_000_000  # numbers of all rows held at a time
_WORK = 4_000_000  # rows times the widest layer, above which neurons keep the bounds of their tables

Ranges = Mapping[int, tuple[Tensor, Tensor]]


def gamma(terms: float, unit: float = 2.0**-53) -> float:
    """Bound of the relative error of a sum of products of so many roundings."""
    return terms * unit / (1 - terms * unit)


@dataclass(frozen=True, eq=False)
class Options:
    """What is tried; every choice gives valid bounds."""

    depth: int = 3  # activations that tables pass; 0: the convex hull alone
    linear: bool = True  # linear bounds of neurons whose sign is open, of those that tables bound loosely


@dataclass(frozen=True, eq=False)
class Plan:
    """A network with what is the same for every input."""

    network: Network
    constants: tuple[Tensor | None, ...] = field(init=False)

    def __post_init__(self) -> None:
        for operation in self.network.operations:
            if not (operation.affine or isinstance(operation, Relu | MaxPool2d)):
                named = getattr(operation, "module", operation)
                raise ArgumentError(
                    f"model: expected layers that bound propagation knows, got {type(named).__name__}"
                )
        constants = tuple(
            operation.apply(*[torch.zeros((1, *self.operations[i].shape), dtype=torch.float64) for i in operation.inputs])
            if operation.affine and operation.inputs
            else None
            for operation in self.operations
        )
        object.__setattr__(self, "constants", constants)

    @property
    def operations(self) -> tuple[Operation, ...]:
        return self.network.operations


@dataclass(frozen=True, eq=False)
class LinearBound:
    """`constant + Σ over changed units ≥ constant - top(losses)`, less `error`."""

    constant: Float[Tensor, "b m"]
    losses: Float[Tensor, "b m k"]
    error: Float[Tensor, "b m"]
    corner: Tensor  # (b, m, k): the corner that loses most

    def least(self, regions: Regions) -> Float[Tensor, "b m"]:
        """The lower bound, before `error`."""
        return self.constant - regions.top(self.losses, regions.active_group.flatten(1)[:, None])


class Bounds:
    """Ranges of all neurons over a batch of regions.

    `ranges` are bounds that hold on sets which contain the regions, by the number of an activation's input.
    """

    def __init__(self, plan: Plan, regions: Regions, options: Options, ranges: Ranges | None = None) -> None:
        self.plan, self.regions, self.options = plan, regions, options
        count = len(plan.operations)
        self.z: list[Tensor] = [torch.empty(0)] * count
        self.low: list[Tensor] = [torch.empty(0)] * count
        self.high: list[Tensor] = [torch.empty(0)] * count
        self.size: list[Tensor] = [torch.empty(0)] * count  # of absolute values, and of sums of a table's entries
        self.error: list[Tensor] = [torch.empty(0)] * count  # of centres and tables, as computed here
        self.deployed: list[Tensor] = [torch.empty(0)] * count  # error of the model's own pass
        self.tables: list[Table | None] = [None] * count
        self.upper: dict[int, Tensor] = {}  # of an activation: what its table adds, as `fold` takes it
        self.ranges: dict[int, tuple[Tensor, Tensor]] = {}
        self._depth = [0] * count
        self._choices: dict[str, tuple[dict[int, Tensor], dict[int, Tensor | float]]] = {}
        self._activations = len({o.inputs[0] for o in plan.operations if o.inputs and not o.affine})
        self._chords: dict[int, tuple[Tensor, Tensor]] = {}
        self._slack = 4 * int(regions.most.max()) + 20
        self._unit = 2.0**-24 if plan.network.dtype == torch.float32 else 2.0**-53
        self._tiny = 2.0**-149 if plan.network.dtype == torch.float32 else 2.0**-1074
        with torch.no_grad():
            for number, operation in enumerate(plan.operations):
                if isinstance(operation, Input):
                    self._input(operation)
                elif operation.affine:
                    self._affine(number, operation)
                else:
                    self._open(operation.inputs[0], None if ranges is None else ranges.get(operation.inputs[0]))
                    self._activation(number, operation)

    # ---- forward ----

    def _input(self, operation: Operation) -> None:
        regions = self.regions
        self.z[0] = regions.centre.reshape(-1, *operation.shape)
        self.low[0], self.high[0] = regions.entries()
        self.size[0] = torch.maximum(self.low[0].abs(), self.high[0].abs())
        self.error[0] = self.deployed[0] = torch.zeros_like(self.z[0])
        self.tables[0] = identity(regions)

    def _affine(self, n: int, operation: Operation) -> None:
        inputs = operation.inputs

        def given(values: list[Tensor]) -> list[Tensor]:
            return [values[i] for i in inputs]

        size = operation.magnitude(*given(self.size))
        error = gamma(operation.terms + self._slack)
        self.z[n] = operation.apply(*given(self.z))
        middle = [(self.low[i] + self.high[i]) / 2 for i in inputs]
        half = [(self.high[i] - self.low[i]) / 2 for i in inputs]
        centre, spread = operation.apply(*middle), operation.absolute(*half)
        spread = spread + 8 * error * size
        self.low[n], self.high[n] = centre - spread, centre + spread
        self.size[n] = size
        self.error[n] = operation.absolute(*given(self.error)) + error * size + 1e-300
        if operation.terms:
            own = gamma(operation.terms, self._unit)
            before = given(self.deployed)
            self.deployed[n] = (
                operation.absolute(*before) * (1 + own) + own * size + operation.terms * self._tiny
            ) * (1 + 1e-9)
        else:
            self.deployed[n] = operation.absolute(*given(self.deployed))
        self._depth[n] = max(self._depth[i] for i in inputs)
        self.tables[n] = self._table(operation)

    def _table(self, operation: Operation) -> Table | None:
        tables = [self.tables[i] for i in operation.inputs]
        if any(table is None for table in tables):
            return None
        if isinstance(operation, Add):
            return tables[0].plus(tables[1])  # type: ignore[union-attr, arg-type]
        table = tables[0]
        assert table is not None
        if not _affordable(table, operation):
            return None
        return table.through(operation)

    def _open(self, m: int, given: tuple[Tensor, Tensor] | None) -> None:
        """The input of an activation: its range from tables, from what is known, and from linear bounds."""
        if m in self.ranges:
            return
        low, high = self.low[m], self.high[m]
        table = self.tables[m]
        if table is not None:
            falls, rises = table.reach()
            z = self.z[m]
            slack = 4 * self.error[m] + 4 * gamma(self._slack) * (z.abs() + falls + rises)
            low, high = torch.maximum(low, z - falls - slack), torch.minimum(high, z + rises + slack)
            self.size[m] = (z.abs() + falls + rises) * (1 + 1e-12)
        if given is not None:
            low, high = torch.maximum(low, given[0]), torch.minimum(high, given[1])
        self.low[m], self.high[m] = low, high
        if self.options.linear and self._depth[m] >= (2 if self.options.depth else 1):
            self._linear_ranges(m)
        self.low[m] = torch.minimum(self.low[m], self.high[m])
        self.size[m] = torch.maximum(self.size[m] if table is not None else self.low[m].abs(),
                                     torch.maximum(self.low[m].abs(), self.high[m].abs()))
        self.ranges[m] = self.low[m], self.high[m]

    def _linear_ranges(self, m: int) -> None:
        shape = self.plan.operations[m].shape
        low, high = self.low[m].flatten(1), self.high[m].flatten(1)
        b, n = low.shape
        open_ = (low < 0) & (high > 0)
        most = int(open_.sum(1).max()) if b else 0
        if not most:
            return
        low, high = low.clone(), high.clone()
        order = open_.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        widest = max(math.prod(operation.shape) for operation in self.plan.operations[: m + 1])
        if most * widest > _WORK:
            return
        at_once = max(1, _ROWS // (4 * b * widest))
        for some in order.split(at_once, 1):
            unit = low.new_zeros(b, some.shape[1], n).scatter_(2, some[:, :, None], 1.0)
            rows = torch.cat([unit, -unit], 1).view(b, -1, *shape)
            for kind in ("mixed",) if self.options.depth else ("hull",):
                found = self.backward(m, rows, *self.choice(kind))
                least = found.least(self.regions) - found.error
                below, above = least.chunk(2, 1)
                sure = torch.isfinite(below) & torch.isfinite(above)
                below = torch.where(sure, below, -math.inf)
                above = torch.where(sure, -above, math.inf)
                low.scatter_reduce_(1, some, below, "amax")
                high.scatter_reduce_(1, some, above, "amin")
        self.low[m], self.high[m] = low.view(b, *shape), high.view(b, *shape)

    def _activation(self, n: int, operation: Operation) -> None:
        m = operation.inputs[0]
        z, low, high = self.z[m], self.low[m], self.high[m]
        table = self.tables[m] if self._depth[m] < self.options.depth else None
        self.z[n], self.low[n], self.high[n] = (operation.apply(v) for v in (z, low, high))
        self._depth[n] = self._depth[m] + 1
        if isinstance(operation, Relu):
            self.error[n], self.deployed[n] = self.error[m], self.deployed[m]
            self.size[n] = self.size[m]
            if table is not None:
                self.tables[n], upper = table.rectified(z, low, high)
                self.upper[n] = by_position(upper) if table.window is not None else upper
            unit = 2.0**-53
            across = (high - low).clamp_min(1e-300)
            chord = (high / across).clamp(0, 1)
            lift = torch.maximum(-chord * low, high - chord * high) + 4 * unit * (low.abs() + high.abs())
            self._chords[n] = chord, lift.clamp_min(0)
        else:
            assert isinstance(operation, MaxPool2d)
            self.error[n], self.deployed[n], self.size[n] = (
                operation.apply(v) for v in (self.error[m], self.deployed[m], self.size[m])
            )
            if table is not None and _pool_affordable(table, operation):
                made = table.pooled(operation, z)
                self.tables[n] = made
                if made is not None:
                    self.upper[n] = by_position(made.upper)
        self.error[n] = self.error[n] + gamma(8) * 2 * self.size[n]

    # ---- backward ----

    def choice(self, kind: str) -> tuple[dict[int, Tensor], dict[int, Tensor | float]]:
        """Slopes and shares to start from.

        "tables": no cost where nothing changes; "hull": chords alone, and slopes of least area; "mixed": tables for the
        first two activations, chords above.
        """
        if kind not in self._choices:
            slopes: dict[int, Tensor] = {}
            shares: dict[int, Tensor | float] = {}
            for n, operation in enumerate(self.plan.operations):
                if operation.affine or not operation.inputs or self.z[n].numel() == 0:
                    continue
                i = operation.inputs[0]
                chords = kind == "hull" or (kind == "mixed" and self._depth[i] >= 2)
                shares[n] = 1.0 if chords else 0.0
                active = self.high[i] > -self.low[i] if chords else self.z[i] > 0
                slopes[n] = active.double()[:, None]
            if len(self.ranges) == self._activations:
                self._choices[kind] = slopes, shares
            else:
                return slopes, shares
        return self._choices[kind]

    def backward(
        self,
        start: int,
        rows: Float[Tensor, "b m ..."],
        slopes: Mapping[int, Tensor],
        shares: Mapping[int, Tensor | float],
    ) -> LinearBound:
        """`rows` times the result of operation `start`, bounded below.

        `slopes` and `shares` (of the chord, where there is a table) by activation, `(b, m or 1, *shape)` in [0, 1].
        """
        operations, regions = self.plan.operations, self.regions
        b, m = rows.shape[:2]
        held: dict[int, Tensor] = {start: rows}
        constant, error = rows.new_zeros(b, m), rows.new_zeros(b, m)
        total: Tensor | None = None

        def add(part: Tensor) -> None:
            nonlocal total
            total = part if total is None else total + part

        for n in range(start, -1, -1):
            if n not in held:
                continue
            a, operation = held.pop(n), operations[n]
            flat = a.flatten(2)
            count = flat.shape[2] + operation.terms + self._slack
            error = error + 4 * gamma(count) * _dot(flat.detach().abs(), self.size[n])
            if isinstance(operation, Input):
                constant = constant + _dot(flat, self.z[0])
                channels = regions.image[0]
                index = regions.positions[:, None, :]
                by_channel = torch.nn.functional.pad(flat.view(b, m * channels, -1), (0, 1))
                active = by_channel.gather(2, index.expand(-1, m * channels, -1)).view(b, m, channels, -1)
                add(torch.einsum("bmca,bcaq->bmaq", active, self._active_deviations))
            elif operation.affine:
                known = self.plan.constants[n]
                if known is not None and bool(known.any()):
                    constant = constant + flat @ known.flatten()
                parts = operation.transpose(a.reshape(b * m, *operation.shape))
                for i, part in zip(operation.inputs, parts, strict=True):
                    part = part.view(b, m, *operations[i].shape)
                    held[i] = held[i] + part if i in held else part
            else:
                i = operation.inputs[0]
                if isinstance(operation, Relu):
                    passed, extra, stopped = self._through_relu(n, a, slopes, shares)
                else:
                    assert isinstance(operation, MaxPool2d)
                    passed, extra, stopped = self._through_pool(n, operation, a, shares)
                constant = constant + extra
                if stopped is not None:
                    own = self.tables[n]
                    assert own is not None
                    stopped = stopped.flatten(2)
                    error = error + 4 * _dot(stopped.detach().abs(), self.error[n])
                    add(fold(stopped, self.upper[n], own))
                held[i] = held[i] + passed if i in held else passed
        assert total is not None
        units = regions.group.shape[2]
        moves, corner = total.view(b, m, -1, units, total.shape[3] // units).min(4)
        losses = (-moves).clamp_min(0).flatten(2)
        return LinearBound(constant, losses, error, corner.flatten(2))

    @property
    def _active_deviations(self) -> Float[Tensor, "b c a q"]:
        deviations = self.regions.deviations
        padded = torch.nn.functional.pad(deviations, (0, 0, 0, 1))
        b, c, _, q = padded.shape
        index = self.regions.positions[:, None, :, None].expand(b, c, -1, q)
        return padded.gather(2, index)

    def _through_relu(
        self, n: int, a: Tensor, slopes: Mapping[int, Tensor], shares: Mapping[int, Tensor | float]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        i = self.plan.operations[n].inputs[0]
        low, high, z = self.low[i][:, None], self.high[i][:, None], self.z[i][:, None]
        on, off = low >= 0, high <= 0
        unsure = ~(on | off)
        chord, lift = (v[:, None] for v in self._chords[n])
        positive = a.clamp_min(0)
        negative = a.clamp_max(0) * unsure
        stopped: Tensor | None = None
        by_chord = negative
        if n in self.upper:
            share = shares[n]
            by_chord, stopped = negative * share, negative * (1 - share)
            if isinstance(share, float) and share == 1.0:
                stopped = None
        passed = a * on + positive * unsure * slopes[n] + by_chord * chord
        extra = (by_chord * lift).flatten(2).sum(2)
        if stopped is not None:
            extra = extra + (stopped * z.relu()).flatten(2).sum(2)
        return passed, extra, stopped

    def _through_pool(
        self, n: int, operation: MaxPool2d, a: Tensor, shares: Mapping[int, Tensor | float]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        i = operation.inputs[0]
        b, m = a.shape[:2]
        z, low, high = self.z[i], self.low[i], self.high[i]
        cells = [(y, x) for y in range(operation.kernel[0]) for x in range(operation.kernel[1])]

        def window(values: Tensor) -> Tensor:
            return torch.stack([shifted(values, operation, y, x, -math.inf) for y, x in cells])

        lows, highs, centres = window(low), window(high), window(z)
        best = lows.argmax(0)  # the cell that may win surely
        others = highs.scatter(0, best[None], -math.inf).amax(0)
        sure = (lows.amax(0) >= others)[:, None]
        chosen = torch.where(sure[:, 0], best, centres.argmax(0))[:, None]
        negative = a.clamp_max(0) * ~sure
        linear = torch.where(sure, a, a.clamp_min(0))
        stopped: Tensor | None = None
        constant = negative
        if n in self.upper:
            share = shares[n]
            constant, stopped = negative * share, negative * (1 - share)
            if isinstance(share, float) and share == 1.0:
                stopped = None
        extra = (constant * highs.amax(0)[:, None]).flatten(2).sum(2)
        if stopped is not None:
            extra = extra + (stopped * self.z[n][:, None]).flatten(2).sum(2)
        shape = self.plan.operations[i].shape
        passed = a.new_zeros(b, m, shape[0], *(s + 2 * p for s, p in zip(shape[1:], operation.padding, strict=True)))
        rows, columns = operation.shape[1:]
        (down, across), (dy, dx) = operation.stride, operation.dilation
        for k, (y, x) in enumerate(cells):
            part = (
                slice(None),
                slice(None),
                slice(None),
                slice(y * dy, y * dy + (rows - 1) * down + 1, down),
                slice(x * dx, x * dx + (columns - 1) * across + 1, across),
            )
            passed[part] += linear * (chosen == k)
        top, left = operation.padding
        return passed[:, :, :, top : top + shape[1], left : left + shape[2]], extra, stopped


def _dot(rows: Tensor, values: Tensor) -> Float[Tensor, "b m"]:
    return torch.bmm(rows, values.reshape(len(values), -1, 1))[..., 0]


def _affordable(table: Table, operation: Operation) -> bool:
    q = table.middle.shape[-1]
    if isinstance(operation, Linear):
        seen = table.regions.positions.shape[1]
        cells = math.prod(table.window.kernel) if table.window is not None else seen
        products = operation.weight.numel() * cells * q
        return len(operation.weight) * seen * q <= _CELLS and products <= _PRODUCTS
    if isinstance(operation, Conv2d):
        if table.window is None:
            rest = table.middle.shape[-2] * q
            each = operation.weight.numel() * math.prod(operation.shape[1:])
            return math.prod(operation.shape) * rest <= _CELLS and each * rest <= _PRODUCTS
        kernel = [
            k0 + (k - 1) * d * s
            for k0, k, d, s in zip(
                table.window.kernel,
                operation.weight.shape[2:],
                operation.dilation,
                table.window.stride,
                strict=True,
            )
        ]
        each = operation.weight.numel() * math.prod(operation.shape[1:])
        products = each * math.prod(table.window.kernel) * q
        return math.prod(operation.shape) * math.prod(kernel) * q <= _CELLS and products <= _PRODUCTS
    return True


def _pool_affordable(table: Table, operation: MaxPool2d) -> bool:
    if table.window is None:
        return False
    kernel = [
        k0 + (k - 1) * d * s
        for k0, k, d, s in zip(
            table.window.kernel, operation.kernel, operation.dilation, table.window.stride, strict=True
        )
    ]
    return math.prod(operation.shape) * math.prod(kernel) * table.middle.shape[-1] <= _CELLS
