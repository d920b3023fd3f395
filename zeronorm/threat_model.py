"""What the adversary may do: a budget, the unit it is counted in, and the box inputs must stay in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zeronorm import distances
from zeronorm.checks import choice, integer, real
from zeronorm.errors import ArgumentError

Bound = float | Tensor

_UNBOUNDED = "; of values without a bound, give one that no input passes"
_FEW = (1, 3, 4)  # channels of an image
_ROUNDING = 8  # units in the last place that a change of scale may be off by
_FLOAT32 = torch.finfo(torch.float32).eps  # in which values of float64 may have been computed


@runtime_checkable
class TableSchema(Protocol):
    """What the columns of a table may become: what `L0` asks of a `zeronorm.data.Schema`."""

    @property
    def columns(self) -> Any: ...
    @property
    def relations(self) -> Any: ...
    @property
    def low(self) -> Tensor: ...
    @property
    def high(self) -> Tensor: ...
    @property
    def text(self) -> str: ...
    def check_shape(self, x: Tensor, name: str = ...) -> None: ...
    def require(self, x: Tensor, name: str = ...) -> None: ...
    def changed(self, x: Tensor, x_adv: Tensor) -> Tensor: ...
    def bounds(self, x: Tensor) -> tuple[Tensor, Tensor]: ...
    def possible(self, x: Tensor, x_adv: Tensor) -> Tensor: ...
    def repair(self, x: Tensor, x_adv: Tensor) -> Tensor: ...


class Box:
    """The values inputs may take: `low <= x <= high`, numbers or tensors that broadcast against one example.

    An entry whose bounds are equal, such as a feature that is the same for everyone, cannot change.
    """

    low: Bound
    high: Bound

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            bound = getattr(self, name)
            if isinstance(bound, Tensor):
                if not bool(bound.isfinite().all()):
                    raise ArgumentError(f"{name}: expected finite bounds, got NaN or infinity{_UNBOUNDED}")
            elif getattr(bound, "ndim", 0):
                raise ArgumentError(
                    f"{name}: expected a number or a torch tensor, got {type(bound).__name__}"
                )
            elif isinstance(bound, float | int) and math.isinf(bound):
                raise ArgumentError(f"{name}: expected a finite number, got {bound}{_UNBOUNDED}")
            else:
                real(name, bound, -math.inf)
        low, high = torch.as_tensor(self.low), torch.as_tensor(self.high)
        try:
            # an entry whose bounds are equal cannot change; at least one can
            ordered = bool((low <= high).all() and (low < high).any())
        except RuntimeError:
            raise ArgumentError(
                f"low, high: expected shapes that broadcast, got {tuple(low.shape)} and {tuple(high.shape)}"
            ) from None
        if not ordered:
            wrong = int((low > high).sum())
            where = f" ({wrong} entries lie below their low)" if wrong and low.dim() + high.dim() else ""
            raise ArgumentError(
                f"high: expected more than low ({_show(self.low)}), got {_show(self.high)}{where}"
            )

    # bounds and masks may be tensors, which `==` compares entry by entry
    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> str:
        return repr((vars(self).get("k"), vars(self).get("epsilon"), self.describe()))

    def bounds(self, x: Float[Tensor, "b ..."]) -> tuple[Tensor, Tensor]:
        """Smallest and largest value of every entry of `x`, in its shape."""
        low, high = (torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in (self.low, self.high))
        try:
            return low.expand(x.shape), high.expand(x.shape)
        except RuntimeError:
            raise ArgumentError(
                f"low, high: expected numbers or tensors that broadcast to one example {tuple(x.shape[1:])}, "
                f"got shapes {tuple(low.shape)} and {tuple(high.shape)}"
            ) from None

    def check_inputs(self, x: Float[Tensor, "b ..."]) -> None:
        """Raise `ArgumentError` unless every entry of `x` lies in the box."""
        low, high = Box.bounds(self, x)
        outside = (x < low) | (x > high)
        if not bool(outside.any()):
            return
        excess = float(torch.maximum(low - x, x - high).max())
        scale = float(torch.maximum(low.abs(), high.abs()).max())
        box, eps = f"[{_show(self.low)}, {_show(self.high)}]", max(torch.finfo(x.dtype).eps, _FLOAT32)
        if excess <= _ROUNDING * eps * scale:
            raise ArgumentError(
                f"x: expected values in {box}, got {int(outside.sum())} outside by {excess:.2g} at most, which is "
                f"rounding: clamp them first, x.clamp({_show(self.low)}, {_show(self.high)})"
            )
        raise ArgumentError(
            f"x: expected values in {box}, got [{float(x.min()):.9g}, {float(x.max()):.9g}]; give the threat model "
            "your inputs' own low and high, and keep normalisation inside the model"
        )

    def describe(self) -> dict[str, Any]:
        """The threat model as plain values, for a record."""
        return {"low": _plain(self.low), "high": _plain(self.high)}


@dataclass(frozen=True, eq=False)
class L0(Box):
    """At most `k` positions of an input may change, each to any value of the box.

    Attributes:
        k: number of positions, at least 0; None means unbounded (minimal-distance attacks only).
        unit: "pixel" counts a position of an image `(channel, height, width)` once however many of its
            channels change; "feature" counts every entry.  Flat inputs `(feature,)` know only features.
            "column" counts the columns of `schema`: a one-hot group or a category is one.
        low, high: the box, numbers or tensors that broadcast against one example.
        linf: cap on the change of each entry, in input units, or None.
        allowed: boolean mask of the positions the adversary may touch, `(height, width)` for pixels or the
            shape of one example for features (either may be flat), `(column,)` for columns, or None for all.
        channels: the axis of an example that holds the channels of a position, its "first" or its "last"; None:
            the first, and inputs that look as if it were the last are refused.
        schema: what the columns of a table may become, with unit "column"; the box is then the schema's.
    """

    k: int | None
    unit: Literal["pixel", "feature", "column"] = "pixel"
    low: Bound = 0.0
    high: Bound = 1.0
    linf: float | None = None
    allowed: Tensor | None = None
    channels: Literal["first", "last"] | None = None
    schema: TableSchema | None = None

    def __post_init__(self) -> None:
        choice("unit", self.unit, ("pixel", "feature", "column"))
        if self.unit == "column" or self.schema is not None:
            self._take_schema()
        super().__post_init__()
        if self.channels is not None:
            choice("channels", self.channels, ("first", "last"))
        if self.k is not None:
            object.__setattr__(self, "k", integer("k", self.k, 0))
        if self.linf is not None:
            real("linf", self.linf, 0.0, open_low=True)
        if self.allowed is not None and (
            not isinstance(self.allowed, Tensor) or self.allowed.dtype != torch.bool
        ):
            raise ArgumentError("allowed: expected a boolean tensor, the mask of positions that may change")

    def _take_schema(self) -> None:
        if self.unit != "column" or not isinstance(self.schema, TableSchema):
            raise ArgumentError(
                f'schema: expected a zeronorm.data.Schema with unit="column", got {type(self.schema).__name__} '
                f"with unit={self.unit!r}"
            )
        if self.linf is not None:
            raise ArgumentError(
                'linf: expected None with unit="column", whose schema says by how much, got a number'
            )
        for name, default in (("low", 0.0), ("high", 1.0)):
            given, own = getattr(self, name), getattr(self.schema, name)
            if not (torch.equal(given, own) if isinstance(given, Tensor) else given == default):
                raise ArgumentError(
                    f"{name}: expected the schema's own with unit='column', got {_show(given)}"
                )
            object.__setattr__(self, name, own)

    def with_k(self, k: int | None) -> L0:
        """The same threat model with another budget."""
        return replace(self, k=k)

    def grid(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b g p"]:
        """`x` as (batch, channels that change together, positions that are counted); a view where possible.

        Columns of a table have several features each: there it is the features, as records keep them.
        """
        if self.schema is not None:
            return x.reshape(len(x), 1, math.prod(x.shape[1:]))
        sides = self.sides(x)
        if len(sides) == x.dim() - 1:
            return x.reshape(len(x), 1, math.prod(sides))
        if self.channels == "last":
            return x.reshape(len(x), math.prod(sides), x.shape[-1]).transpose(1, 2)
        return x.reshape(len(x), x.shape[1], math.prod(sides))

    def ungrid(self, grid: Float[Tensor, "n g p"], shape: Sequence[int]) -> Float[Tensor, "n ..."]:
        """What `grid` made of inputs of that shape, back in it; a view where possible."""
        if self.channels == "last" and self.unit == "pixel" and len(shape) > 1:
            grid = grid.transpose(1, 2)
        return grid.reshape(len(grid), *shape)

    def sides(self, x: Float[Tensor, "b ..."]) -> torch.Size:
        """The lengths of the axes along which positions are counted."""
        if self.schema is not None:
            return torch.Size([len(self.schema.columns)])
        if self.unit == "feature" or x.dim() <= 2:
            return x.shape[1:]
        return x.shape[1:-1] if self.channels == "last" else x.shape[2:]

    def positions(self, x: Float[Tensor, "b ..."]) -> int:
        """Number of positions of one example."""
        return math.prod(self.sides(x))

    def bounds(self, x: Float[Tensor, "b ..."]) -> tuple[Tensor, Tensor]:
        """Smallest and largest value of every entry of `x`: the box, and within `linf` of `x`."""
        if self.schema is not None:
            return self.schema.bounds(x)
        low, high = super().bounds(x)
        if self.linf is None:
            return low, high
        return torch.maximum(low, x - self.linf), torch.minimum(high, x + self.linf)

    def allowed_positions(self, x: Float[Tensor, "b ..."]) -> Bool[Tensor, "p"] | None:
        """The mask of positions that may change, or None for all."""
        if self.allowed is None:
            return None
        if tuple(self.allowed.shape) not in (sides := self.sides(x), (math.prod(sides),)):
            raise ArgumentError(
                f"allowed: expected a mask of {math.prod(sides)} {self.unit}s, of shape {tuple(sides)} or flat, "
                f"got shape {tuple(self.allowed.shape)}"
            )
        return self.allowed.to(x.device).flatten()

    def available(self, x: Float[Tensor, "b ..."]) -> int:
        """Number of positions of one example that may change."""
        allowed = self.allowed_positions(x)
        if self.schema is not None:
            movable = torch.tensor([column.changes != "never" for column in self.schema.columns])
            return int((movable if allowed is None else movable & allowed.cpu()).sum())
        return self.positions(x) if allowed is None else int(allowed.sum())

    def as_linf(self, x: Float[Tensor, "b ..."]) -> Linf | None:
        """The ℓ∞ ball that equals this threat model on inputs like x, or None if it is none."""
        features = math.prod(x.shape[1:])
        whole = self.k == features == self.positions(x) and self.allowed is None
        return Linf(self.linf, self.low, self.high) if whole and self.linf is not None else None

    def distance(self, x: Float[Tensor, "b ..."], x_adv: Float[Tensor, "b ..."]) -> Int[Tensor, "b"]:
        """Number of changed positions, in this threat model's unit."""
        if self.schema is not None:
            return self.schema.changed(x, x_adv).sum(1)
        if self.unit == "feature":
            return distances.l0_features(x, x_adv)
        return distances.l0_pixels(self.grid(x), self.grid(x_adv))

    def contains(self, x: Float[Tensor, "b ..."], x_adv: Float[Tensor, "b ..."]) -> Bool[Tensor, "b"]:
        """Whether each `x_adv` is within the budget, the box, the cap, the allowed positions and the schema."""
        if self.schema is not None:
            return self._contains_rows(x, x_adv, self.schema)
        low, high = self.bounds(x)
        inside = ((x_adv >= low) & (x_adv <= high)).flatten(1).all(1)
        if self.k is not None:
            inside &= self.distance(x, x_adv) <= self.k
        if (allowed := self.allowed_positions(x)) is not None:
            inside &= ~(self.grid(x) != self.grid(x_adv))[:, :, ~allowed].flatten(1).any(1)
        return inside

    def _contains_rows(self, x: Tensor, x_adv: Tensor, schema: TableSchema) -> Tensor:
        changed = schema.changed(x, x_adv)
        inside = schema.possible(x, x_adv)
        if self.k is not None:
            inside = inside & (changed.sum(1) <= self.k)
        if (allowed := self.allowed_positions(x)) is not None:
            inside = inside & ~changed[:, ~allowed].any(1)
        return inside

    def check_inputs(self, x: Float[Tensor, "b ..."]) -> None:
        """Raise `ArgumentError` unless `x` lies in the box, with channels where they should be, and the budget fits."""
        if self.schema is None:
            super().check_inputs(x)
        else:
            self.schema.require(x)
        *sides, last = x.shape[1:]
        if (
            self.channels is None
            and self.unit == "pixel"
            and len(sides) > 0
            and last in _FEW
            and min(sides) > max(_FEW)
        ):
            raise ArgumentError(
                f"channels: inputs of shape {tuple(x.shape[1:])} look as if their channels were last, so that one "
                f"change would be up to {sides[0]} pixels; say channels='last', or 'first' if the {sides[0]} are "
                "channels"
            )
        available = self.available(x)
        if self.k is not None and self.k > available:
            kind = self.unit if x.dim() > 2 or self.schema is not None else "feature"
            raise ArgumentError(
                f"k: expected between 0 and {available}, the number of {kind}s of an input of shape "
                f"{tuple(x.shape[1:])} that may change, got {self.k}"
            )

    def describe(self) -> dict[str, Any]:
        """The threat model as plain values, for a record; the budget apart."""
        allowed = None if self.allowed is None else self.allowed.flatten().nonzero().flatten().tolist()
        told = {"norm": "L0", "unit": self.unit, **super().describe(), "linf": self.linf, "allowed": allowed}
        told |= {"channels": "last"} if self.channels == "last" else {}
        return told if self.schema is None else {**told, "schema": self.schema.text}


@dataclass(frozen=True, eq=False)
class Linf(Box):
    """Every entry may change by at most `epsilon`, in input units."""

    epsilon: float
    low: Bound = 0.0
    high: Bound = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        real("epsilon", self.epsilon, 0.0)

    def bounds(self, x: Float[Tensor, "b ..."]) -> tuple[Tensor, Tensor]:
        """Smallest and largest value of every entry of `x`: the box, and within `epsilon` of `x`."""
        low, high = super().bounds(x)
        return torch.maximum(low, x - self.epsilon), torch.minimum(high, x + self.epsilon)

    def distance(self, x: Float[Tensor, "b ..."], x_adv: Float[Tensor, "b ..."]) -> Float[Tensor, "b"]:
        """Largest change of an entry."""
        return distances.linf(x, x_adv)

    def contains(self, x: Float[Tensor, "b ..."], x_adv: Float[Tensor, "b ..."]) -> Bool[Tensor, "b"]:
        """Whether each `x_adv` is within the budget and the box, whose bounds are rounded as `bounds` does."""
        low, high = self.bounds(x)
        return ((x_adv >= low) & (x_adv <= high)).flatten(1).all(1)

    def as_l0(self, x: Float[Tensor, "b ..."]) -> L0:
        """The same threat model as an `L0`: any number of features may change, each by at most `epsilon`."""
        everything = math.prod(x.shape[1:]) if self.epsilon > 0 else 0
        return L0(everything, "feature", self.low, self.high, self.epsilon or None)

    def describe(self) -> dict[str, Any]:
        """The threat model as plain values, for a record; the budget apart."""
        return {"norm": "Linf", **super().describe()}


@dataclass(frozen=True, eq=False)
class L2(Box):
    """The change may have Euclidean length at most `epsilon`, in input units.

    None means unbounded (minimal-distance attacks only).
    """

    epsilon: float | None
    low: Bound = 0.0
    high: Bound = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon is not None:
            real("epsilon", self.epsilon, 0.0)

    def distance(self, x: Float[Tensor, "b ..."], x_adv: Float[Tensor, "b ..."]) -> Float[Tensor, "b"]:
        """Euclidean length of the change, in float64."""
        return distances.l2(x.double(), x_adv.double())

    def contains(self, x: Float[Tensor, "b ..."], x_adv: Float[Tensor, "b ..."]) -> Bool[Tensor, "b"]:
        """Whether each `x_adv` is within the budget and the box."""
        low, high = self.bounds(x)
        inside = ((x_adv >= low) & (x_adv <= high)).flatten(1).all(1)
        return inside if self.epsilon is None else inside & (self.distance(x, x_adv) <= self.epsilon)

    def as_l0(self, x: Float[Tensor, "b ..."]) -> L0:
        """The same box as an `L0`: any number of features may change; none if the budget is 0."""
        return L0(0 if self.epsilon == 0 else math.prod(x.shape[1:]), "feature", self.low, self.high)

    def describe(self) -> dict[str, Any]:
        """The threat model as plain values, for a record; the budget apart."""
        return {"norm": "L2", **super().describe()}


def _plain(bound: Bound) -> Any:
    return bound.tolist() if isinstance(bound, Tensor) else float(bound)


def _show(bound: Bound) -> str:
    values: Iterator[float] = iter(torch.as_tensor(bound, dtype=torch.float64).flatten().tolist())
    numbers = sorted(set(values))
    return f"{numbers[0]:g}" if len(numbers) == 1 else f"{numbers[0]:g} to {numbers[-1]:g}"
