"""Every attack on a table: its columns as positions of a box that the attack knows, and back to possible rows.

An attack moves channels of positions within [0, 1].  Here a position is a column, and its channels say which of the
values that the row may hold there is meant.  So an attack needs to know nothing of categories, whole numbers or ages
that only grow: whatever it proposes is a possible row, and a change of a one-hot group is one change.

n, m    examples of the batch, inputs of one pass
p, c    features and columns of a row
g       channels of a position
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import TILE, Model
from zeronorm.errors import ArgumentError
from zeronorm.threat_model import L0, TableSchema

_BITS = 4  # of a column, searched without gradients at 16 values
_KNOTS = 65  # of the way from a column's low to its high
_DENSE = 0.9  # of the way is spent where the data are dense, the rest evenly
_OWN = 1 / 3  # the place of a row's own value among few: no other's, which are the middles of equal parts
_MOST_ENTRIES = 1 << 22  # numbers that a row may become

_Attack = Callable[..., Tensor]


def on_columns(*, gradients: bool) -> Callable[[_Attack], _Attack]:
    """An attack on boxes that works on columns of a table as well: with `unit="column"` it sees `Columns`.

    `gradients` says whether it asks for them.
    """

    def decorate(attack: _Attack) -> _Attack:
        @functools.wraps(attack)
        def attack_columns(model: Model, x: Tensor, y: Tensor, threat: Any, **options: Any) -> Tensor:
            if not isinstance(threat, L0) or threat.schema is None:
                return attack(model, x, y, threat, **options)
            checks.model(model)
            threat.check_inputs(x)
            columns = Columns(x, threat, scores=gradients)
            if options.get("start") is not None:
                threat.schema.require(options["start"], name="start")
                options["start"] = columns.encode(options["start"])
            found = attack(columns.model(model), columns.z, y, columns.threat, **options)
            return columns.rows(found, torch.arange(len(x), device=x.device)).detach()

        return attack_columns

    return decorate


class _Decoded:
    """A model of rows as a model of positions; what watches the search is told of rows."""

    def __init__(self, inner: Model, decode: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.inner, self._decode = inner, decode
        self.differentiable = bool(getattr(inner, "differentiable", True))
        self.tile = getattr(inner, "tile", TILE)
        self._of: Tensor | None = None

    def passes_for(self, rows: Tensor) -> None:
        """The next pass is for these rows of the batch."""
        self._of = rows
        if (watch := getattr(self.inner, "passes_for", None)) is not None:
            watch(rows)

    def broken(self, rows: Tensor, z: Tensor) -> None:
        """These rows are broken, or so the attack says."""
        if (tell := getattr(self.inner, "broken", None)) is not None:
            tell(rows, self._decode(z, rows).detach())

    def __call__(self, z: Float[Tensor, "m g c"]) -> Any:
        of, self._of = self._of, None
        if of is None:
            raise ArgumentError("model: expected to be told which rows a pass is for, got a pass for none")
        # whatever fills a pass up is a copy of the last
        return self.inner(self._decode(z, torch.cat([of, of[-1:].expand(len(z) - len(of))])))


class Columns:
    """A batch of rows as positions with channels in [0, 1].

    A column of one feature has a place between the lowest and the highest value that the row may hold: the mean of its
    channels, each weighted twice as much as the next.  So the corners of its box are evenly spaced places, and a
    gradient moves all channels alike.  Places are dense where the data are (`Column.quantiles`).  Without gradients a
    column of few values has them in order, the row's own apart, so that every move is a change.

    With `scores` a one-hot group has a channel for each category, and the largest counts: its gradient is that of the
    exchange that promises most.

    Attributes:
        z: the rows themselves.
        threat: the box, the budget, and which columns may change.
    """

    def __init__(self, x: Float[Tensor, "n p"], threat: L0, *, scores: bool) -> None:
        schema: Any = threat.schema
        assert schema is not None
        self.schema, self.x, self.scores = schema, x.detach(), scores
        self._groups = [
            (u, place)
            for u, (column, place) in enumerate(zip(schema.columns, schema.slices, strict=True))
            if column.one_hot and scores
        ]
        finite = [u for u, column in enumerate(schema.columns) if not scores and _is_finite(column)]
        most = max((len(schema.columns[u].categories) for u in finite), default=0)
        bits = max(_BITS, (most - 1).bit_length())
        self.channels = (
            max((place.stop - place.start for _, place in self._groups), default=1) if scores else bits
        )
        if len(schema.columns) * self.channels > _MOST_ENTRIES:
            raise ArgumentError(
                f"schema: expected at most {_MOST_ENTRIES:,} columns times channels, got {len(schema.columns):,} "
                f"times {self.channels:,}; attacks by gradients have a channel for each one-hot category"
            )
        weights = 0.5 ** torch.arange(self.channels, dtype=torch.float64)
        self._weights = (weights / weights.sum()).to(x)
        self._number = _Numbers(schema, self.x)
        self._finite = _Finite(schema, self.x, finite)
        self.z = self.encode(self.x)
        self._movable = torch.tensor(
            [column.changes != "never" for column in schema.columns], device=x.device
        )
        if (allowed := threat.allowed_positions(x)) is not None:
            self._movable &= allowed
        mask = None if bool(self._movable.all()) else self._movable
        self.threat = L0(threat.k, "pixel", allowed=mask, channels="first")

    def model(self, model: Model) -> _Decoded:
        """A model of rows as one of these positions."""
        return _Decoded(model, self.rows)

    def encode(self, rows: Float[Tensor, "n p"]) -> Float[Tensor, "n g c"]:
        """The positions and channels of possible rows, one for each of the batch."""
        place = self._number.place(rows)
        if len(self._finite.columns):
            place[:, self._finite.columns] = self._finite.place(rows)
        z = place[:, None].expand(-1, self.channels, -1).clone()
        for u, features in self._groups:
            z[:, :, u] = 0.0
            z[:, : features.stop - features.start, u] = rows[:, features]
        return z

    def rows(self, z: Float[Tensor, "m g c"], of: Int[Tensor, "m"]) -> Float[Tensor, "m p"]:
        """The possible rows that are meant, of these examples of the batch; differentiable where values are."""
        changed = (z.detach() != self.z[of]).any(1) & self._movable
        place = (z * self._weights[:, None]).sum(1)
        rows = self.x[of]
        rows = self._number.write(rows, place, changed, of)
        if len(self._finite.columns):
            rows = self._finite.write(rows, place.detach(), changed, of)
        for u, features in self._groups:
            scores = z[:, : features.stop - features.start, u]
            hot = _Hottest.apply(scores, self._open(u, of))
            kept = rows[:, features] + (hot - hot.detach())
            rows = rows.clone()
            rows[:, features] = torch.where(changed[:, u, None], hot, kept)
        if self.schema.relations:
            possible = self.schema.repair(self.x[of], rows.detach())
            rows = possible + (rows - rows.detach())
        return rows

    def _open(self, u: int, of: Tensor) -> Bool[Tensor, "m w"]:
        """The categories that a one-hot group may have, its own among them."""
        column, features = self.schema.columns[u], self.schema.slices[u]
        own = self.x[of][:, features].argmax(1, keepdim=True)
        codes = torch.arange(column.width, device=own.device)
        free = _reachable(column).to(own.device).expand(len(own), -1)
        if column.changes == "up":
            free = free & (codes >= own)
        elif column.changes == "down":
            free = free & (codes <= own)
        return free | (codes == own)


class _Hottest(torch.autograd.Function):
    """Of each row the largest score among those that are open, as 1; ties go to the first.

    Backwards, the category that stands and the one that promises most instead are moved, by half of the gain each:
    the others would only add up.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, is_open: Tensor) -> Tensor:
        hot = scores.masked_fill(~is_open, -math.inf).argmax(1, keepdim=True)
        ctx.save_for_backward(hot, is_open)
        return torch.zeros_like(scores).scatter_(1, hot, 1.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (G,) = gradients
        hot, is_open = ctx.saved_tensors
        others = G.masked_fill(~is_open, -math.inf).scatter(1, hot, -math.inf)
        best, at = others.max(1, keepdim=True)
        gain = (best - G.gather(1, hot)).masked_fill(best == -math.inf, 0.0) / 2
        return torch.zeros_like(G).scatter_(1, at, gain).scatter_(1, hot, -gain), None


class _Numbers:
    """Columns of one feature, as places in [0, 1] between the least and the most that each row may hold."""

    def __init__(self, schema: Any, x: Tensor) -> None:
        device = x.device
        single = [u for u, column in enumerate(schema.columns) if column.width == 1]
        self.columns = torch.tensor(single, dtype=torch.int64, device=device)
        self.features = torch.tensor(
            [schema.slices[u].start for u in single], dtype=torch.int64, device=device
        )
        of = [schema.columns[u] for u in single]
        self.count, self.whole = (
            len(schema.columns),
            torch.tensor([c.is_whole for c in of], dtype=torch.bool, device=device),
        )
        absent = [c.missing and not c.directed for c in of]
        self.absent = torch.tensor(absent, dtype=torch.bool, device=device)
        # a missing value that never changes is its own bounds
        low, high = (end[:, self.features].double().nan_to_num(0.0) for end in schema.bounds(x))
        self.low, self.high = (
            torch.where(self.whole, end, end_) for end, end_ in ((low.ceil(), low), (high.floor(), high))
        )
        self.own = x[:, self.features].double()
        # a missing value that has no direction can be filled in, one that has cannot
        self.stuck = self.own.isnan() & ~self.absent
        self.knots = torch.stack([_knots(c) for c in of]).to(device) if of else low.new_zeros(0, _KNOTS)
        self.first, self.last = self._along(self.low), self._along(self.high)
        self._restricted = [
            (i, _reachable(c).to(device))
            for i, c in enumerate(of)
            if c.kind == "category" and c.reachable is not None
        ]

    def place(self, rows: Tensor) -> Float[Tensor, "n c"]:
        """Where the values of rows are; a missing one at the end."""
        values = rows[:, self.features].double()
        span = (self.last - self.first).clamp_min(1e-12)
        place = ((self._along(values) - self.first) / span).clamp(0.0, 1.0)
        place = torch.where(self.absent, torch.where(values.isnan(), 1.0, place * self._share), place)
        result = rows.new_full((len(rows), self.count), 0.5)
        result[:, self.columns] = place.nan_to_num(0.5).to(rows)
        return result

    def write(self, rows: Tensor, place: Tensor, changed: Tensor, of: Tensor) -> Tensor:
        """The rows with the values at these places where a column is changed."""
        if not len(self.columns):
            return rows
        u, differs = place[:, self.columns].double(), changed[:, self.columns]
        gone = self.absent & (u.detach() > (1.0 + self._share) / 2)
        u = torch.where(self.absent, (u / self._share).clamp_max(1.0), u)
        low, high = self.low[of], self.high[of]
        soft = self._at(self.first[of] + u * (self.last - self.first)[of])
        value = torch.where(u <= 0, low, torch.where(u >= 1, high, soft.detach()))
        value = torch.minimum(torch.maximum(value, low), high)
        value = torch.where(self.whole, value.round(), value)
        for i, reachable in self._restricted:
            value[:, i] = torch.where(reachable[value[:, i].long()], value[:, i], self.own[of][:, i])
        value = torch.where(gone, math.nan, value)
        value = torch.where(differs & ~self.stuck[of], value, self.own[of])
        result = rows.clone()
        result[:, self.features] = value.to(rows) + (soft - soft.detach()).to(rows)
        return result

    @property
    def _share(self) -> float:
        return 1.0 - 0.5**_BITS  # of the places stand for values, the rest for a missing one

    def _along(self, values: Tensor) -> Tensor:
        """How far along the knots values are, in [0, 1]; NaN of a missing one."""
        v = values.T.contiguous()
        at = torch.searchsorted(self.knots, v.nan_to_num(0.0), right=True).clamp(1, _KNOTS - 1) - 1
        left, right = self.knots.gather(1, at), self.knots.gather(1, at + 1)
        return ((at + ((v - left) / (right - left)).clamp(0.0, 1.0)) / (_KNOTS - 1)).T

    def _at(self, along: Tensor) -> Tensor:
        """The values so far along the knots."""
        steps = (along * (_KNOTS - 1)).clamp(0.0, _KNOTS - 1.0)
        at = steps.detach().long().clamp_max(_KNOTS - 2)
        lines = torch.arange(len(self.knots), device=along.device)
        left, right = self.knots[lines, at], self.knots[lines, at + 1]
        return left + (steps - at) * (right - left)


class _Finite:
    """Columns of few values: the others that each row may hold, in order, as evenly spaced places in [0, 1]."""

    def __init__(self, schema: Any, x: Tensor, columns: list[int]) -> None:
        device = x.device
        self.columns = torch.tensor(columns, dtype=torch.int64, device=device)
        self._slices = [schema.slices[u] for u in columns]
        self._one_hot = [schema.columns[u].one_hot for u in columns]
        if not columns:
            return
        of = [schema.columns[u] for u in columns]
        options = [_codes(column) for column in of]
        self.options = torch.full((len(of), max(map(len, options))), math.inf, dtype=torch.float64)
        for line, codes in zip(self.options, options, strict=True):
            line[: len(codes)] = codes
        self.options = self.options.to(device)
        self.own = self._values(x)
        low, high = schema.bounds(x)
        ends = []
        for column, place in zip(of, self._slices, strict=True):
            if not column.one_hot:
                ends.append((low[:, place.start].double(), high[:, place.start].double()))
                continue
            own = x[:, place].argmax(1).double()
            none, all_ = torch.zeros_like(own), torch.full_like(own, column.width - 1)
            ends.append((own if column.changes == "up" else none, own if column.changes == "down" else all_))
        least, most = (torch.stack(end, 1) for end in zip(*ends, strict=True))
        self.start = self._rank(least, right=False)
        count = self._rank(most, right=True) - self.start
        at = self._rank(self.own.nan_to_num(-1.0), right=False)
        found = self.options.expand(len(x), -1, -1).gather(
            2, at.clamp_max(self.options.shape[1] - 1)[:, :, None]
        )
        known = (found[:, :, 0] == self.own) & (at >= self.start) & (at < self.start + count)
        # where the row's own value is among them; beyond all where it is not
        self.skip = torch.where(known, at, self.options.shape[1])
        absent = torch.tensor([c.missing and not c.directed for c in of], device=device)
        stuck = self.own.isnan() & ~absent
        self.values = (count - known.long()).masked_fill(stuck, 0)  # to choose from
        self.count = self.values + (absent & ~self.own.isnan()).long()  # and to be left out

    def _values(self, rows: Tensor) -> Float[Tensor, "n f"]:
        parts = [
            rows[:, place].argmax(1) if hot else rows[:, place.start]
            for place, hot in zip(self._slices, self._one_hot, strict=True)
        ]
        return torch.stack([part.double() for part in parts], 1)

    def _rank(self, values: Tensor, *, right: bool) -> Int[Tensor, "n f"]:
        return torch.searchsorted(self.options, values.T.contiguous(), right=right).T

    def place(self, rows: Tensor) -> Float[Tensor, "n f"]:
        """Where the values of rows are: in the middle of their share; the row's own, where all would be."""
        values = self._values(rows)
        rank = self._rank(values.nan_to_num(-1.0), right=False)
        rank = rank - self.start - (rank > self.skip).long()
        rank = torch.where(values.isnan(), self.values, rank)
        place = ((rank + 0.5) / self.count.clamp_min(1)).clamp(0.0, 1.0)
        same = (values == self.own) | (values.isnan() & self.own.isnan())
        return torch.where(same, _OWN, place).to(rows)

    def write(self, rows: Tensor, place: Tensor, changed: Tensor, of: Tensor) -> Tensor:
        """The rows with the values at these places where a column is changed."""
        count, values = self.count[of], self.values[of]
        chosen = (place[:, self.columns].double() * count).long().clamp_min(0)
        chosen = torch.minimum(chosen, (count - 1).clamp_min(0))
        rank = self.start[of] + chosen
        rank = rank + (rank >= self.skip[of]).long()
        at = rank.clamp_max(self.options.shape[1] - 1)[:, :, None]
        value = self.options.expand(len(rows), -1, -1).gather(2, at)[:, :, 0]
        value = torch.where(chosen >= values, math.nan, value)
        value = torch.where(changed[:, self.columns] & (count > 0), value, self.own[of])
        result = rows.clone()
        for i, (features, hot) in enumerate(zip(self._slices, self._one_hot, strict=True)):
            if hot:
                codes = torch.arange(features.stop - features.start, device=rows.device)
                result[:, features] = (codes == value[:, i, None]).to(rows)
            else:
                result[:, features.start] = value[:, i].to(rows)
        return result


class Kept:
    """Rows between clean and adversarial ones: a position for each column, 1 where its change is kept, 0 where not.

    What is impossible in between stands for the clean row.
    """

    def __init__(self, x: Tensor, x_adv: Tensor, schema: TableSchema) -> None:
        self._x, self._x_adv, self._schema = x, x_adv, schema
        self._of_feature = torch.tensor(
            [u for u, column in enumerate(schema.columns) for _ in range(column.width)], device=x.device
        )
        self.changed = schema.changed(x, x_adv)[:, None].to(x.dtype)
        self.z = torch.zeros_like(self.changed)
        self.threat = L0(None, "pixel", channels="first")

    def model(self, model: Model) -> _Decoded:
        """A model of rows as one of these positions."""
        return _Decoded(model, self.rows)

    def rows(self, z: Float[Tensor, "m 1 c"], of: Int[Tensor, "m"]) -> Float[Tensor, "m p"]:
        """The rows with the changes that are kept."""
        x, x_adv = self._x[of], self._x_adv[of]
        rows = torch.where((z[:, 0] != 0)[:, self._of_feature], x_adv, x)
        return torch.where(self._schema.possible(x, rows)[:, None], rows, x)


def _is_finite(column: Any) -> bool:
    """Whether a column's values are few enough to go through them."""
    return column.kind in ("category", "binary") or (
        column.kind == "whole" and column.high - column.low < 1 << _BITS
    )


def _codes(column: Any) -> Float[Tensor, "r"]:
    """The values of a column of few, ascending."""
    if column.kind == "category":
        return _reachable(column).nonzero().flatten().double()
    return torch.arange(column.low, column.high + 1, dtype=torch.float64)


def _reachable(column: Any) -> Bool[Tensor, "r"]:
    names = column.categories
    return torch.tensor([column.reachable is None or name in column.reachable for name in names])


def _knots(column: Any) -> Float[Tensor, "k"]:
    """Values from low to high, closer together where the data lie; strictly ascending where low < high."""
    low, high = column.bounds
    even = torch.linspace(0.0, 1.0, _KNOTS, dtype=torch.float64)
    if column.quantiles:
        marks = torch.tensor([low, *column.quantiles, high], dtype=torch.float64)
        at = even * (len(marks) - 1)
        left = at.long().clamp_max(len(marks) - 2)
        dense = marks[left] + (at - left) * (marks[left + 1] - marks[left])
        knots = _DENSE * dense + (1 - _DENSE) * (low + even * (high - low))
    else:
        knots = low + even * (high - low)
    # a column that cannot change still has an axis
    return knots if high > low else low + even
