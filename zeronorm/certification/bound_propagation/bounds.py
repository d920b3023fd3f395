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

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from zeronorm.certification.bound_propagation.region import Regions
from zeronorm.certification.bound_propagation.tables import Table, by_position, fold, identity, shifted
from zeronorm.certification.network_graph import (
    Add,
    Conv2d,
    Input,
    Linear,
    MaxPool2d,
    Network,
    Operation,
    Relu,
    Reshape,
)
from zeronorm.errors import ArgumentError

_CELLS = 4_000_000  # numbers in a table of one region
_PRODUCTS = 400_000_000  # multiplications on the way to one
_ROWS = 24_000_000  # numbers of all rows held at a time
_WORK = 4_000_000  # rows times the widest layer, above which neurons keep the bounds of their tables

Ranges = Mapping[int, tuple[Tensor, Tensor]]


def gamma(terms: int, unit: float = 2.0**-53) -> float:
    """Bound of the relative error of a sum of products of so many roundings."""
    return terms * unit / (1 - terms * unit)


@dataclass(frozen=True, eq=False)
class Options:
    """What is tried; every choice gives valid bounds."""

    depth: int = 3  # activations that tables pass; 0: the convex hull alone
    linear: bool = True  # linear bounds of neurons whose sign is open, of those that tables bound loosely
    again: int = 32  # neurons of a layer for which these are taken again in a part of a region, the loosest


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
            operation.apply(
                *[
                    torch.zeros((1, *self.operations[i].shape), dtype=_dtype(operation))
                    for i in operation.inputs
                ]
            )
            if operation.affine and operation.inputs
            else None
            for operation in self.operations
        )
        object.__setattr__(self, "constants", constants)

    @property
    def operations(self) -> tuple[Operation, ...]:
        return self.network.operations

    @cached_property
    def single(self) -> Plan:
        """The same in float32."""
        return Plan(replace(self.network, operations=tuple(_single(one) for one in self.operations)))

    @cached_property
    def _consumers(self) -> dict[int, list[int]]:
        """The operations that take a result, looked at through reshapes."""
        found: dict[int, list[int]] = {n: [] for n in range(len(self.operations))}
        for n in range(len(self.operations) - 1, 0, -1):
            for i in self.operations[n].inputs:
                found[i] += found[n] if isinstance(self.operations[n], Reshape) else [n]
        return found

    @cached_property
    def in_a_row(self) -> bool:
        """Neither sums nor pools, which want patches."""
        return not any(isinstance(operation, Add | MaxPool2d) for operation in self.operations)

    def only_linear_after(self, n: int) -> bool:
        """Whether linear layers alone take the result of operation n."""
        after = self._consumers[n]
        return bool(after) and all(isinstance(self.operations[i], Linear) for i in after)

    def weight_after(self, m: int) -> Float[Tensor, "n"]:
        """How much the layer after the activation of operation m weighs each neuron; 1 where it is not linear."""
        operation = self.operations[m]
        for n in self._consumers[m]:
            for after in self._consumers[n]:
                layer = self.operations[after]
                if isinstance(layer, Linear) and layer.weight.shape[1] == math.prod(operation.shape):
                    return layer.weight.abs().sum(0)
        return torch.ones(math.prod(operation.shape), dtype=torch.float64)


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
        self.size: list[Tensor] = [
            torch.empty(0)
        ] * count  # of absolute values, and of sums of a table's entries
        self.mass: list[Tensor] = [
            torch.empty(0)
        ] * count  # sum of the absolute values that are added up to each
        self.error: list[Tensor] = [torch.empty(0)] * count  # of centres and tables, as computed here
        self.deployed: list[Tensor] = [torch.empty(0)] * count  # error of the model's own pass
        self.tables: list[Table | None] = [None] * count
        self.ranges: dict[int, tuple[Tensor, Tensor]] = {}
        self._depth = [0] * count
        self._choices: dict[str, tuple[dict[int, Tensor], dict[int, Tensor]]] = {}
        self._activations = sum(not operation.affine for operation in plan.operations)
        self._open_at: dict[int, _OpenNeurons] = {}
        self._exact = True
        self._slack = 4 * int(regions.most.max()) + 20
        self._unit = 2.0**-24 if plan.network.dtype == torch.float32 else 2.0**-53
        # of one rounding near 0, subnormal numbers flushed or not; beyond the largest, sums may overflow
        self._tiny, self._largest = (
            (2.0**-126, 1e37) if plan.network.dtype == torch.float32 else (2.0**-1022, 1e300)
        )
        with torch.no_grad():
            for number, operation in enumerate(plan.operations):
                if isinstance(operation, Input):
                    self._input(operation)
                elif operation.affine:
                    self._affine(number, operation)
                else:
                    self._open(
                        operation.inputs[0], None if ranges is None else ranges.get(operation.inputs[0])
                    )
                    self._activation(number, operation)

    # ---- forward ----

    def _input(self, operation: Operation) -> None:
        regions = self.regions
        self.z[0] = regions.centre.reshape(-1, *operation.shape)
        self.low[0], self.high[0] = regions.entries()
        self.size[0] = torch.maximum(self.low[0].abs(), self.high[0].abs())
        self.mass[0] = self.size[0]
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
        self.size[n] = self.mass[n] = size
        self.error[n] = operation.absolute(*given(self.error)) + error * size + 1e-300
        if operation.terms:
            own = gamma(operation.terms, self._unit)
            before = given(self.deployed)
            self.deployed[n] = (
                operation.absolute(*before) * (1 + own) + own * size + operation.terms * self._tiny
            ) * (1 + 1e-9)
            self.deployed[n] = torch.where(size < self._largest, self.deployed[n], torch.inf)
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
        # neurons of a linear layer get linear bounds, which are tighter and cost no more
        beyond = (
            isinstance(operation, Linear) and self.options.linear and self._depth[operation.inputs[0]] >= 2
        )
        if beyond or not _affordable(table, operation):
            return None
        return table.through(operation, self.plan.in_a_row)

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
            self.size[m] = (z.abs() + falls + rises) * (1 + 1e-12) + 4 * self.error[m]
        if given is not None:
            low, high = torch.maximum(low, given[0]), torch.minimum(high, given[1])
        self.low[m], self.high[m] = low, high
        if self.options.linear and self._depth[m] >= (2 if self.options.depth else 1):
            self._linear_ranges(m, given is not None)
        self.low[m] = torch.minimum(self.low[m], self.high[m])
        self.size[m] = torch.maximum(
            self.size[m] if table is not None else self.low[m].abs(),
            torch.maximum(self.low[m].abs(), self.high[m].abs()),
        )
        self.ranges[m] = self.low[m], self.high[m]

    def _linear_ranges(self, m: int, inherited: bool) -> None:
        shape = self.plan.operations[m].shape
        low, high = self.low[m].flatten(1), self.high[m].flatten(1)
        b, n = low.shape
        open_ = (low < 0) & (high > 0)
        most = int(open_.sum(1).max()) if b else 0
        if not most:
            return
        low, high = low.clone(), high.clone()
        # what a chord may cost, as the layer after weighs it
        loose = torch.where(open_, -low * high / (high - low) * self.plan.weight_after(m), -1.0)
        if inherited:
            most = min(most, self.options.again)
        order = loose.argsort(dim=1, descending=True, stable=True)[:, :most]
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
        self.error[n], self.deployed[n], self.size[n] = self.error[m], self.deployed[m], self.size[m]
        upper: Tensor | None = None
        # linear layers beyond take linear bounds instead
        last = self.options.linear and self._depth[n] >= 2 and self.plan.only_linear_after(n)
        if isinstance(operation, Relu):
            on = low >= 0
            open_ = ~on & (high > 0)
            if table is not None:
                upper, made = table.rectified(z, low, high)
                self.tables[n] = None if last else made()
            across = (high - low).clamp_min(1e-300)
            chord = (high / across).clamp(0, 1)
            rounding = 4 * 2.0**-53 * (low.abs() + high.abs())
            lift = torch.maximum(-chord * low, high - chord * high).clamp_min(0) + rounding
            target = None
        else:
            assert isinstance(operation, MaxPool2d)
            self.error[n], self.deployed[n], self.size[n] = (
                operation.apply(v) for v in (self.error[m], self.deployed[m], self.size[m])
            )
            if table is not None and _pool_affordable(table, operation):
                self.tables[n] = table = table.pooled(operation, z)
                upper = None if table is None else table.upper
            on, target, lift = _winners(operation, z, low, high)
            open_, chord = ~on, torch.zeros_like(lift)
        self.mass[n] = self.size[n]
        self.error[n] = self.error[n] + gamma(8) * 2 * self.size[n]
        self._open_at[n] = _OpenNeurons.of(n, self, on, open_, chord, lift, target, upper, table)

    # ---- backward ----

    def single(self) -> Bounds:
        """What backward bounds need, in float32 and without `error`: to find good slopes, not to prove anything."""
        made = copy.copy(self)
        made.plan, made._exact = self.plan.single, False
        made.z = [self.z[0].float()]
        made._moves = self._moves.float()
        made._open_at = {n: _single(neurons) for n, neurons in self._open_at.items()}
        return made

    def choice(self, kind: str) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Slopes and shares to start from.

        "tables": no cost where nothing changes; "hull": chords alone, and slopes of least area; "mixed": tables for the
        first two activations, chords above.
        """
        if kind not in self._choices:
            slopes: dict[int, Tensor] = {}
            shares: dict[int, Tensor] = {}
            for n, neurons in self._open_at.items():
                chords = kind == "hull" or (kind == "mixed" and self._depth[n] > 2) or neurons.upper is None
                shares[n] = torch.full_like(neurons.chord, float(chords))[:, None]
                # a chord steeper than 1/2: the slope 1 bounds less area than 0
                slopes[n] = ((neurons.chord > 0.5) if chords else (neurons.z > 0)).double()[:, None]
            if len(self._open_at) < self._activations:
                return slopes, shares
            self._choices[kind] = slopes, shares
        return self._choices[kind]

    def backward(
        self,
        start: int,
        rows: Float[Tensor, "b m ..."],
        slopes: Mapping[int, Tensor],
        shares: Mapping[int, Tensor],
    ) -> LinearBound:
        """`rows` times the result of operation `start`, bounded below.

        `slopes` and `shares` (of the chord, where there is a table) by activation, of its open neurons:
        `(b, m or 1, open)`, in [0, 1].
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
            if self._exact:
                error = error + 4 * gamma(count) * _dot(flat.detach().abs(), self.mass[n])
            if isinstance(operation, Input):
                constant = constant + _dot(flat, self.z[0])
                channels = regions.image[0]
                index = regions.positions[:, None, :]
                by_channel = torch.nn.functional.pad(flat.view(b, m * channels, -1), (0, 1))
                active = by_channel.gather(2, index.expand(-1, m * channels, -1)).view(b, m, channels, -1)
                add(torch.einsum("bmca,bcaq->bmaq", active, self._moves))
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
                neurons = self._open_at[n]
                passed, extra, stopped = neurons.through(flat, slopes[n], shares[n])
                constant = constant + extra
                if stopped is not None:
                    if self._exact:
                        error = error + 4 * _dot(stopped.detach().abs(), neurons.error)
                    add(neurons.moves(stopped))
                passed = passed.view(b, m, *operations[i].shape)
                held[i] = held[i] + passed if i in held else passed
        assert total is not None
        units = regions.group.shape[2]
        moves, corner = total.view(b, m, -1, units, total.shape[3] // units).min(4)
        losses = (-moves).clamp_min(0).flatten(2)
        return LinearBound(constant, losses, error, corner.flatten(2))

    @cached_property
    def _moves(self) -> Float[Tensor, "b c a q"]:
        deviations = self.regions.deviations
        padded = torch.nn.functional.pad(deviations, (0, 0, 0, 1))
        b, c, _, q = padded.shape
        index = self.regions.positions[:, None, :, None].expand(b, c, -1, q)
        return padded.gather(2, index)


@dataclass(frozen=True, eq=False)
class _OpenNeurons:
    """The neurons of an activation that are not linear over the region, `o` of them, padded with zeros; flat."""

    on: Tensor  # (b, 1, n): 1 where the neuron passes what it is given
    index: Tensor  # (b, o)
    valid: Tensor  # (b, o): 0 for padding
    chord: Tensor  # (b, o): slope of the upper bound, and its constant
    lift: Tensor
    z: Tensor  # (b, o): before a relu, at the centre
    value: Tensor  # (b, o): after
    error: Tensor
    upper: Tensor | None  # the table above: (b, o, a * q), or of all neurons as `fold` takes it
    folded: Table | None  # that of which `upper` is to be folded
    target: (
        Tensor | None
    )  # (b, n): of a pool, the input that each neuron is if it is linear, or else at the centre
    inputs: int
    corners: int  # q

    @staticmethod
    def of(
        n: int,
        bounds: Bounds,
        on: Tensor,
        open_: Tensor,
        chord: Tensor,
        lift: Tensor,
        target: Tensor | None,
        upper: Tensor | None,
        table: Table | None,
    ) -> _OpenNeurons:
        operation = bounds.plan.operations[n]
        i = operation.inputs[0]
        mask = open_.flatten(1)
        width = int(mask.sum(1).max())
        index = mask.int().argsort(dim=1, descending=True, stable=True)[:, :width]
        valid = mask.gather(1, index).double()

        def some(values: Tensor) -> Tensor:
            return values.flatten(1).gather(1, index) * valid

        rows: Tensor | None = None
        folded: Table | None = None
        if upper is not None and table is not None:
            if table.window is not None and 2 * upper[0].numel() < width * bounds.regions.positions.shape[1]:
                folded, rows = table, by_position(upper)
            else:
                rows = (table.chosen(upper, index) * valid[..., None, None]).flatten(2)
        value = bounds.z[n]
        return _OpenNeurons(
            on.flatten(1).double()[:, None],
            index,
            valid,
            some(chord),
            some(lift),
            some(bounds.z[i]) if target is None else some(value),
            some(value),
            some(bounds.error[n]),
            rows,
            folded,
            target,
            math.prod(bounds.plan.operations[i].shape),
            bounds.regions.deviations.shape[3],
        )

    def moves(self, stopped: Float[Tensor, "b m o"]) -> Float[Tensor, "b m a q"]:
        """Coefficients times the table: what each changed unit adds."""
        assert self.upper is not None
        b, m, _ = stopped.shape
        if self.folded is None:
            return torch.bmm(stopped, self.upper).view(b, m, -1, self.corners)
        whole = stopped.new_zeros(b, m, self.on.shape[2])
        return fold(
            whole.scatter_add(2, self.index[:, None].expand_as(stopped), stopped), self.upper, self.folded
        )

    def through(self, a: Tensor, slope: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Coefficients (b, m, n) of the neurons to those of their inputs, a constant, and what the table takes."""
        own = a.gather(2, self.index[:, None].expand(-1, a.shape[1], -1)) * self.valid[:, None]
        positive, negative = own.clamp_min(0), own.clamp_max(0)
        by_chord = negative if self.upper is None else negative * share
        stopped = None if self.upper is None else negative - by_chord
        linear = positive * (slope if self.target is None else 1.0) + by_chord * self.chord[:, None]
        index = self.index[:, None].expand_as(linear)
        passed = (a * self.on).scatter_add(2, index, linear)
        extra = _dot(by_chord, self.lift)
        if stopped is not None:
            extra = extra + _dot(stopped, self.value)
        if self.target is not None:
            whole = passed.new_zeros(*passed.shape[:2], self.inputs)
            passed = whole.scatter_add(2, self.target[:, None].expand_as(passed), passed)
        return passed, extra, stopped


def _winners(operation: MaxPool2d, z: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which windows have a sure winner; the winner, sure or at the centre, as its place; the largest upper bound."""
    cells = [(y, x) for y in range(operation.kernel[0]) for x in range(operation.kernel[1])]
    places = torch.arange(z[0].numel(), dtype=z.dtype).view(1, *z.shape[1:]).expand_as(z)

    def window(values: Tensor, fill: float) -> Tensor:
        return torch.stack([shifted(values, operation, y, x, fill) for y, x in cells])

    lows, highs, centres = (window(v, -math.inf) for v in (low, high, z))
    best = lows.argmax(0)
    others = highs.scatter(0, best[None], -math.inf).amax(0)
    sure = lows.amax(0) >= others
    chosen = torch.where(sure, best, centres.argmax(0))
    place = window(places, 0.0).gather(0, chosen[None])[0]
    return sure, place.long().flatten(1), highs.amax(0)


D = TypeVar("D")


def _single(value: D) -> D:
    """A dataclass with its numbers in float32."""
    changed = {
        one.name: number.float()
        for one in fields(value)  # type: ignore[arg-type]
        if isinstance(number := getattr(value, one.name), Tensor) and number.dtype == torch.float64
    }
    return replace(value, **changed)  # type: ignore[type-var]


def _dtype(operation: Operation) -> torch.dtype:
    """Of its weights; where it has none, nothing depends on it."""
    numbers = (getattr(operation, one.name) for one in fields(operation))
    return next((number.dtype for number in numbers if isinstance(number, Tensor)), torch.float64)


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
