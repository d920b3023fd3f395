"""What the columns of a table mean, and what each may become in an adversary's hands.

    schema = zn.data.Schema.infer(frame)      # guesses, and says what it guessed
    schema.write("credit.toml")               # for a person to edit
    schema = zn.data.Schema.read("credit.toml")
    threat = zn.L0(2, unit="column", schema=schema)

An input is a row of numbers `(feature,)`.  A column is one of them, or a one-hot group of several.  A category is its
place in the column's list of categories; a missing value is NaN.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from zeronorm import checks
from zeronorm.errors import ArgumentError
from zeronorm.files import read_file

_KINDS = ("real", "whole", "category", "binary")
_DIRECTIONS = ("any", "up", "down", "never")
_MOST_CATEGORIES = 10_000
_MOST_COLUMNS = 100_000
_SEPARATORS = re.compile(r"(.+?)(?:__|[=_.:\- ])")
_TERM = re.compile(r"\s*([+-]?)\s*(?:(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)\s*\*?\s*)?(?:`([^`]+)`|([^\W\d]\w*))?")
_PARTS = 16  # of the data, between the quantiles that are kept
_CLOSE = 1e-9  # two sides of a relation are equal when they differ by no more, relative to the largest term


@dataclass(frozen=True)
class Column:
    """What one column may become; changing it counts once, however many features it fills.

    **Arguments:**

    - `name`: as the table has it.
    - `kind`: "real" (any value of the range), "whole" (whole numbers of it), "binary" (0 or 1), "category".
    - `low`, `high`: the range of a real or whole column.
    - `categories`: names; a row holds the place of its category in this list, or with `one_hot` as many features, of
      which exactly one is 1 and the others are 0.
    - `features`: of a one-hot group, the names of its features; by default "name=category".
    - `reachable`: the categories that an adversary can choose; None: all.
    - `changes`: "any", "up" (never below the row's own value), "down" or "never".
    - `by`: the most the value may move from the row's own; None: no limit.
    - `missing`: whether a value may be missing (NaN), in the data and by the adversary's choice.  A missing value has
      no direction: with `changes` "up" or "down", or with `by`, it can neither appear nor be filled in.
    - `measure`: what the numbers are of, for people to read: "EUR", "years".
    - `quantiles`: values between `low` and `high`, ascending, where the data lie as densely as anywhere.  Nothing
      follows from them but which values a search tries more often.
    """

    name: str
    kind: str = "real"
    # numbers or None, which a file may hold otherwise
    low: Any = None
    high: Any = None
    categories: tuple[str, ...] = ()
    one_hot: bool = False
    features: tuple[str, ...] = ()
    reachable: tuple[str, ...] | None = None
    changes: str = "any"
    by: Any = None
    missing: bool = False
    measure: str = ""
    quantiles: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ArgumentError(f"name: expected the name of a column, got {self.name!r}")
        checks.choice(f"kind of {self.name}", self.kind, _KINDS)
        checks.choice(f"changes of {self.name}", self.changes, _DIRECTIONS)
        for flag in ("one_hot", "missing"):
            if not isinstance(getattr(self, flag), bool):
                raise ArgumentError(
                    f"{flag} of {self.name}: expected true or false, got {getattr(self, flag)!r}"
                )
        if not isinstance(self.measure, str):
            raise ArgumentError(f"measure of {self.name}: expected a text, got {self.measure!r}")
        if self.by is not None:
            object.__setattr__(self, "by", checks.real(f"by of {self.name}", self.by, 0.0))
        if self.kind == "category":
            self._check_categories()
        else:
            if self.categories or self.reachable is not None or self.one_hot or self.features:
                raise ArgumentError(
                    f"{self.name}: expected categories, one_hot, features and reachable of a category only, "
                    f"got kind {self.kind!r}"
                )
            self._check_range()

    def _check_categories(self) -> None:
        if self.low is not None or self.high is not None or self.by is not None or self.quantiles:
            raise ArgumentError(
                f"{self.name}: expected a category without low, high, by and quantiles, got some"
            )
        names = _strings(f"categories of {self.name}", self.categories)
        if not 2 <= len(names) <= _MOST_CATEGORIES or len(set(names)) < len(names):
            raise ArgumentError(
                f"categories of {self.name}: expected 2 to {_MOST_CATEGORIES} different names, got {len(names)} "
                f"of which {len(set(names))} differ"
            )
        object.__setattr__(self, "categories", names)
        if self.features:
            features = _strings(f"features of {self.name}", self.features)
            if not self.one_hot or len(set(features)) != len(names):
                raise ArgumentError(
                    f"features of {self.name}: expected a name for each of the {len(names)} features of a one-hot "
                    f"group, got {len(features)}"
                )
            object.__setattr__(self, "features", features)
        if self.one_hot and self.missing:
            raise ArgumentError(
                f"missing of {self.name}: expected false of a one-hot group, got true; "
                "make 'missing' one of its categories"
            )
        if self.reachable is not None:
            reachable = _strings(f"reachable of {self.name}", self.reachable)
            if unknown := [name for name in reachable if name not in names]:
                raise ArgumentError(f"reachable of {self.name}: expected its categories, got {unknown[0]!r}")
            object.__setattr__(self, "reachable", reachable)

    def _check_range(self) -> None:
        low, high = (0.0, 1.0) if self.kind == "binary" else (self.low, self.high)
        if self.kind == "binary" and (self.low not in (None, 0) or self.high not in (None, 1)):
            raise ArgumentError(
                f"{self.name}: expected a binary column from 0 to 1, got {self.low} to {self.high}"
            )
        if low is None or high is None:
            raise ArgumentError(
                f"{self.name}: expected low and high, the range of what may be, got {low} and {high}"
            )
        low, high = (
            checks.real(f"{end} of {self.name}", v, -math.inf) for end, v in (("low", low), ("high", high))
        )
        if self.kind == "whole":
            low, high = math.ceil(low), math.floor(high)
        if low > high:
            raise ArgumentError(f"high of {self.name}: expected at least low ({low:g}), got {high:g}")
        object.__setattr__(self, "low", float(low))
        object.__setattr__(self, "high", float(high))
        if not isinstance(self.quantiles, Sequence) or isinstance(self.quantiles, str):
            raise ArgumentError(f"quantiles of {self.name}: expected numbers, got {self.quantiles!r:.60}")
        inside = tuple(
            checks.real(f"quantiles of {self.name}", q, self.low, self.high) for q in self.quantiles
        )
        if list(inside) != sorted(inside):
            raise ArgumentError(f"quantiles of {self.name}: expected ascending numbers, got {inside!r:.60}")
        object.__setattr__(self, "quantiles", inside)

    @property
    def width(self) -> int:
        """Number of features the column fills."""
        return len(self.categories) if self.one_hot else 1

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest value of each of its features."""
        if self.kind == "category":
            return 0.0, 1.0 if self.one_hot else len(self.categories) - 1.0
        assert self.low is not None and self.high is not None
        return self.low, self.high

    @property
    def is_whole(self) -> bool:
        """Whether its features are whole numbers only."""
        return self.kind != "real"

    @property
    def directed(self) -> bool:
        """Whether a change is measured against the row's own value."""
        return self.changes in ("up", "down") or self.by is not None

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of its features."""
        if not self.one_hot:
            return (self.name,)
        return self.features or tuple(f"{self.name}={c}" for c in self.categories)

    def show(self, value: float) -> str:
        """A value, or a category's code, as a person knows it."""
        if math.isnan(value):
            return "missing"
        if self.kind == "category":
            return self.categories[int(value)]
        text = f"{value:,.0f}" if self.is_whole else f"{value:,.6g}"
        return f"{text} {self.measure}".rstrip()


@dataclass(frozen=True)
class Relation:
    """A linear relation that every possible row satisfies: the sum of `terms` is `sense` ("=" or "<=") `constant`."""

    terms: tuple[tuple[float, str], ...]
    sense: Literal["=", "<="]
    constant: float
    text: str = field(compare=False, default="")

    @classmethod
    def parse(cls, text: str) -> Relation:
        """From a line such as "total = a + 2 * b", "a <= b" or "`hours per week` >= 1"."""
        if not isinstance(text, str):
            raise ArgumentError(f"relations: expected lines of text, got {text!r}")
        sides = re.split(r"(<=|>=|==|=)", text)
        if len(sides) != 3:
            raise ArgumentError(f"relations: expected two sides with one of =, <=, >= between, got {text!r}")
        left, sign, right = sides
        total: dict[str, float] = {}
        constant = 0.0
        for side, of in ((left, 1.0), (right, -1.0)):
            at, first = 0, True
            while side[at:].strip():
                match = _TERM.match(side, at)
                sign_given, number, quoted, bare = match.groups() if match else ("", None, None, None)
                name = quoted or bare
                if (number is None and name is None) or (not sign_given and not first) or match is None:
                    raise ArgumentError(
                        "relations: expected sums of [number *] column, `in quotes` where its name has spaces, "
                        f"got {text!r}"
                    )
                value = of * (-1.0 if sign_given == "-" else 1.0) * float(number or 1.0)
                if name is None:
                    constant -= value
                else:
                    total[name] = total.get(name, 0.0) + value
                at, first = match.end(), False
        flip = -1.0 if sign == ">=" else 1.0
        terms = tuple((flip * c, name) for name, c in total.items() if c != 0)
        if not terms:
            raise ArgumentError(f"relations: expected columns in a relation, got {text!r}")
        return cls(terms, "=" if sign in ("=", "==") else "<=", flip * constant, text.strip())


@dataclass(frozen=True)
class Schema:
    """The columns of a table, in the order of its features, and the linear relations between them.

    Relations may be given as lines of text, and are kept as `Relation`s.
    `guesses` are lines on what `infer` had to guess; they are not part of what is written.
    """

    columns: tuple[Column, ...]
    relations: tuple[Any, ...] = ()
    guesses: tuple[str, ...] = field(compare=False, default=())

    def __post_init__(self) -> None:
        columns = tuple(self.columns)
        if not columns or len(columns) > _MOST_COLUMNS or not all(isinstance(c, Column) for c in columns):
            raise ArgumentError(f"columns: expected 1 to {_MOST_COLUMNS} columns, got {len(columns)} entries")
        names = [column.name for column in columns]
        if (
            twice := {name for name in names if names.count(name) > 1}
            if len(set(names)) < len(names)
            else set()
        ):
            raise ArgumentError(
                f"columns: expected a name of its own for each, got {sorted(twice)[0]!r} twice"
            )
        relations = tuple(Relation.parse(r) if isinstance(r, str) else r for r in self.relations)
        known = {column.name: column for column in columns}
        for relation in relations:
            for _, name in relation.terms:
                if name not in known:
                    raise ArgumentError(
                        f"relations: expected names of columns, got {name!r} in {relation.text!r}"
                    )
                if known[name].kind == "category":
                    raise ArgumentError(
                        f"relations: expected columns of numbers, got the category {name!r} in {relation.text!r}"
                    )
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "relations", relations)

    # -- shape -----------------------------------------------------------------------------------------

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Where each column's features are."""
        ends = np.cumsum([column.width for column in self.columns]).tolist()
        return tuple(slice(end - c.width, end) for end, c in zip(ends, self.columns, strict=True))

    @property
    def features(self) -> int:
        """Numbers in a row."""
        return self.slices[-1].stop

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the features."""
        return tuple(name for column in self.columns for name in column.feature_names)

    @property
    def low(self) -> Float[Tensor, "p"]:
        """Smallest value of every feature."""
        return self._ends(0)

    @property
    def high(self) -> Float[Tensor, "p"]:
        """Largest value of every feature."""
        return self._ends(1)

    def _ends(self, end: int) -> Tensor:
        widths = torch.tensor([column.width for column in self.columns])
        return torch.tensor([c.bounds[end] for c in self.columns], dtype=torch.float64).repeat_interleave(
            widths
        )

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise ArgumentError(f"columns: expected one of {', '.join(self.names[:8])}, got {name!r}")

    def with_column(self, name: str, **changes: Any) -> Schema:
        """The same, but for some fields of one column: `schema.with_column("age", changes="up")`."""
        changed = replace(self[name], **changes)
        return replace(self, columns=tuple(changed if c.name == name else c for c in self.columns))

    # -- rows ------------------------------------------------------------------------------------------

    def check_shape(self, x: Tensor, name: str = "x") -> None:
        """Raise `ArgumentError` unless `x` is rows of this schema."""
        if x.dim() != 2 or x.shape[1] != self.features:
            raise ArgumentError(
                f"{name}: expected rows of {self.features} features, as the schema says, got shape {tuple(x.shape)}"
            )

    def violations(self, x: Float[Tensor, "b p"], first: int = 0) -> list[str]:
        """What the rows break, one line for each column or relation and way to break it; empty if nothing.

        Rows are counted from `first`.
        """
        self.check_shape(x)
        lines: list[str] = []

        def say(what: str, bad: Tensor, expected: str, got: Tensor) -> None:
            if bool(bad.any()):
                row = int(bad.nonzero()[0])
                more = f" and {int(bad.sum()) - 1} more" if int(bad.sum()) > 1 else ""
                value = got[row].tolist()
                shown = f"{value:.10g}" if isinstance(value, float) else str(value)
                lines.append(f"{what}: expected {expected}, got {shown} in row {first + row}{more}")

        for column, place in zip(self.columns, self.slices, strict=True):
            if column.one_hot:
                group = x[:, place]
                hot = ((group == 1).sum(1) == 1) & ((group == 0).sum(1) == column.width - 1)
                say(column.name, ~hot, f"exactly one 1 among {column.width} features, the others 0", group)
                continue
            values = x[:, place.start]
            absent = values.isnan()
            if not column.missing:
                say(column.name, absent, "a value", values)
            low, high = (torch.tensor(end, dtype=torch.float64).to(x.dtype) for end in column.bounds)
            outside = ~absent & ~((values >= low) & (values <= high))
            say(column.name, outside, f"values in [{float(low):g}, {float(high):g}]", values)
            if column.is_whole:
                kind = (
                    f"a code of its {len(column.categories)} categories"
                    if column.categories
                    else "whole numbers"
                )
                say(column.name, ~absent & ~outside & (values != values.round()), kind, values)
        for relation in self.relations:
            say(
                relation.text,
                ~self._related(x, relation),
                "every row to satisfy it",
                self._excess(x, relation)[0],
            )
        return lines

    def require(self, x: Float[Tensor, "b p"], name: str = "x") -> None:
        """Raise `ArgumentError`, of one line, unless every row is possible."""
        if lines := self.violations(x):
            more = (
                f" (and {len(lines) - 1} more violations: Schema.violations lists them)"
                if len(lines) > 1
                else ""
            )
            raise ArgumentError(f"{name}: expected rows that the schema allows, got {lines[0]}{more}")

    def changed(self, x: Float[Tensor, "b p"], x_adv: Float[Tensor, "b p"]) -> Bool[Tensor, "b c"]:
        """Which columns differ; a missing value equals a missing value."""
        differs = (x != x_adv) & ~(x.isnan() & x_adv.isnan())
        counts = differs.new_zeros(len(x), len(self.columns), dtype=torch.int64)
        counts.index_add_(1, self._column_of.to(x.device), differs.long())
        return counts > 0

    @cached_property
    def _column_of(self) -> Tensor:
        return torch.tensor([i for i, column in enumerate(self.columns) for _ in range(column.width)])

    def differences(self, row: Float[Tensor, "p"], changed: Float[Tensor, "p"]) -> list[str]:
        """What changed between two rows, a line for each column: "income 1,200 EUR → 4,950 EUR"."""
        lines = []
        for differs, column, place in zip(
            self.changed(row[None], changed[None])[0], self.columns, self.slices, strict=True
        ):
            if bool(differs):
                old, new = (
                    float(part[place].argmax()) if column.one_hot else float(part[place.start])
                    for part in (row, changed)
                )
                lines.append(f"{column.name} {column.show(old)} → {column.show(new)}")
        return lines

    def bounds(self, x: Float[Tensor, "b p"]) -> tuple[Float[Tensor, "b p"], Float[Tensor, "b p"]]:
        """Smallest and largest value that each entry may take, given the row: the range, the direction and `by`.

        For an entry that is missing: of its range.  Whole numbers, categories and relations narrow this further.
        """
        self.check_shape(x)
        low, high = (end.to(x).expand_as(x).clone() for end in (self.low, self.high))
        for column, place in zip(self.columns, self.slices, strict=True):
            own = x[:, place]
            if column.changes == "never":
                low[:, place], high[:, place] = own, own
            if column.by is not None:
                low[:, place] = torch.fmax(low[:, place], own - column.by)
                high[:, place] = torch.fmin(high[:, place], own + column.by)
            if not column.one_hot:  # of a group, the code has a direction
                if column.changes == "up":
                    low[:, place] = torch.fmax(low[:, place], own)
                elif column.changes == "down":
                    high[:, place] = torch.fmin(high[:, place], own)
        return low, high

    def possible(self, x: Float[Tensor, "b p"], x_adv: Float[Tensor, "b p"]) -> Bool[Tensor, "b"]:
        """Whether each row of `x` may become that of `x_adv`, however many columns change."""
        self.check_shape(x_adv, "x_adv")
        low, high = self.bounds(x)
        good = torch.ones(len(x), dtype=torch.bool, device=x.device)
        changed = self.changed(x, x_adv)
        for i, (column, place) in enumerate(zip(self.columns, self.slices, strict=True)):
            own, new = x[:, place], x_adv[:, place]
            absent = new.isnan()
            inside = ((new >= low[:, place]) & (new <= high[:, place]) & ~absent).all(1)
            if column.is_whole:
                inside &= (new == new.round()).all(1)
            if column.missing and not column.directed:
                inside |= absent.all(1)
            if column.directed:
                inside &= ~own.isnan().any(1)
            if column.kind == "category":
                inside &= self._reached(column, own, new)
            good &= ~changed[:, i] | (inside & (column.changes != "never"))
        for relation in self.relations:
            good &= self._related(x_adv, relation)
        return good

    def _reached(self, column: Column, own: Tensor, new: Tensor) -> Tensor:
        """Whether these categories are some that can be chosen."""
        absent = new.isnan().any(1)
        code, before = self._code(column, new), self._code(column, own)
        fine = torch.ones_like(absent)
        if column.one_hot:
            fine &= ((new == 1).sum(1) == 1) & ((new == 0).sum(1) == column.width - 1)
            if column.changes == "up":
                fine &= code >= before
            elif column.changes == "down":
                fine &= code <= before
        if column.reachable is not None:
            reachable = torch.tensor(
                [name in column.reachable for name in column.categories], device=new.device
            )
            fine &= absent | reachable[code.clamp(0, len(column.categories) - 1)]
        return fine

    @staticmethod
    def _code(column: Column, entries: Tensor) -> Tensor:
        return entries.argmax(1) if column.one_hot else entries[:, 0].nan_to_num(0.0).long()

    def _excess(self, x: Tensor, relation: Relation) -> tuple[Tensor, Tensor]:
        """By how much the terms exceed the constant, and their largest size."""
        at = {column.name: place.start for column, place in zip(self.columns, self.slices, strict=True)}
        terms = torch.stack([c * x[:, at[name]].double() for c, name in relation.terms])
        return terms.sum(0) - relation.constant, terms.abs().amax(0).clamp_min(
            abs(relation.constant)
        ).clamp_min(1.0)

    def _related(self, x: Tensor, relation: Relation) -> Tensor:
        excess, size = self._excess(x, relation)
        near = excess.abs() <= _CLOSE * size if relation.sense == "=" else excess <= _CLOSE * size
        return near | excess.isnan()  # of a missing value nothing is known

    def repair(self, x: Float[Tensor, "b p"], x_adv: Float[Tensor, "b p"]) -> Float[Tensor, "b p"]:
        """For each row of `x_adv` a possible one near it: values rounded and clamped, the hottest of a group hot.

        Where a relation is broken, changed columns of it give way in turn.  A column that cannot be as wanted stays as
        in `x`, and so does a row that breaks a relation still.
        """
        self.check_shape(x_adv, "x_adv")
        low, high = self.bounds(x)
        result = x.clone()
        changed = self.changed(x, x_adv)
        for i, (column, place) in enumerate(zip(self.columns, self.slices, strict=True)):
            own, new = x[:, place], x_adv[:, place]
            absent = new.isnan().any(1, keepdim=True)
            if column.one_hot:
                near = torch.zeros_like(new).scatter_(
                    1, new.nan_to_num(-math.inf).argmax(1, keepdim=True), 1.0
                )
            else:
                near = torch.fmin(torch.fmax(new, low[:, place]), high[:, place])
                if column.is_whole:
                    near = torch.fmin(torch.fmax(near.round(), low[:, place].ceil()), high[:, place].floor())
                near = torch.where(absent, new, near)
            fits = torch.ones(len(x), dtype=torch.bool, device=x.device)
            if column.kind == "category":
                fits &= self._reached(column, own, near)
            if not column.missing or column.directed:
                fits &= ~absent[:, 0]
            if column.directed:
                fits &= ~own.isnan().any(1)
            take = changed[:, i] & fits & (column.changes != "never")
            result[:, place] = torch.where(take[:, None], near, own)
        if self.relations:
            self._give_way(result, self.changed(x, result), low, high)
        return torch.where(self.possible(x, result)[:, None], result, x)

    def _give_way(self, rows: Tensor, changed: Tensor, low: Tensor, high: Tensor) -> None:
        """Move changed columns of broken relations, one after the other, to where the relation holds; in place."""
        number = {column.name: i for i, column in enumerate(self.columns)}
        for relation in self.relations:
            for coefficient, name in relation.terms:
                column, at = self[name], self.slices[number[name]].start
                moves = ~self._related(rows, relation) & changed[:, number[name]]
                new = (rows[:, at].double() - self._excess(rows, relation)[0] / coefficient).to(rows)
                if column.is_whole:
                    outward = torch.floor if coefficient > 0 else torch.ceil
                    new = new.round() if relation.sense == "=" else outward(new)
                new = torch.fmin(torch.fmax(new, low[:, at]), high[:, at])
                rows[:, at] = torch.where(moves, new, rows[:, at])

    # -- frames ----------------------------------------------------------------------------------------

    @classmethod
    def infer(cls, table: Any, names: Sequence[str] | None = None) -> Schema:
        """What the columns of a pandas or pyarrow table, or of an array `(row, feature)`, seem to be.

        Ranges are those of the data; what could also be otherwise is in `guesses`, a line each.
        """
        arrow = as_arrow(table, names)
        columns, guesses = [], list[str]()
        for name in arrow.column_names:
            column, guess = _guess(name, arrow[name])
            columns.append(column)
            guesses += guess
        columns, groups = _with_groups(columns, arrow)
        return cls(tuple(columns), (), tuple(guesses + groups))

    @property
    def report(self) -> str:
        """The columns, and what was guessed about them, as text."""
        lines = [f"{len(self)} columns, {self.features} features"]
        for column in self.columns:
            if column.kind == "category":
                what = f"category of {len(column.categories)}" + (", one-hot" if column.one_hot else "")
            else:
                what = f"{column.kind}, {column.bounds[0]:g} to {column.bounds[1]:g}"
            what += f", changes: {column.changes}" if column.changes != "any" else ""
            lines.append(f"  {column.name}: {what}" + (", may be missing" if column.missing else ""))
        lines += [f"  relation: {relation.text}" for relation in self.relations]
        if self.guesses:
            lines += ["guessed:", *(f"  {guess}" for guess in self.guesses)]
        return "\n".join(lines)

    def encode(self, table: Any, what: str = "data") -> Float[Tensor, "b p"]:
        """A frame's rows as numbers, float64: categories as their codes, missing values as NaN.

        One-hot groups are taken as the features they are.  `ArgumentError` for a column that is not there, a category
        that is not known, or a value that the schema does not allow.
        """
        arrow = as_arrow(table)
        parts = []
        for column in self.columns:
            wanted = column.feature_names if column.one_hot else (column.name,)
            for name in wanted:
                if arrow.column_names.count(name) != 1:
                    raise ArgumentError(
                        f"{what}: expected one column {name!r}, got {arrow.column_names.count(name)}"
                    )
                parts.append(_numbers(column, arrow[name], what))
        x = torch.from_numpy(np.stack(parts, axis=1)) if parts else torch.empty(0, 0, dtype=torch.float64)
        self.require(x, what)
        return x

    def frame(self, x: Float[Tensor, "b p"]) -> Any:
        """The rows as a pandas DataFrame with the values a person knows: names of categories, whole numbers as such."""
        import pandas as pd  # of the extra `tables`

        self.check_shape(x)
        columns: dict[str, Any] = {}
        for column, place in zip(self.columns, self.slices, strict=True):
            for name, feature in zip(column.feature_names, range(place.start, place.stop), strict=True):
                values = x[:, feature].double().numpy()
                if column.kind == "category" and not column.one_hot:
                    names = np.array([*column.categories, None], dtype=object)
                    values = names[
                        np.where(np.isnan(values), len(column.categories), values).astype(np.int64)
                    ]
                elif column.is_whole and not np.isnan(values).any():
                    values = values.astype(np.int64)
                columns[name] = values
        return pd.DataFrame(columns)

    # -- files -----------------------------------------------------------------------------------------

    @classmethod
    def read(cls, path: str | Path) -> Schema:
        """From a TOML file, as `write` writes them and a person edits them."""
        try:
            text = read_file(Path(path)).decode()
        except (OSError, UnicodeError) as error:
            raise ArgumentError(f"schema: expected a readable TOML file at {path}, got: {error}") from None
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, where: str = "text") -> Schema:
        """From the text of such a file."""
        try:
            found = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ArgumentError(f"schema: expected TOML in {where}, got: {error}") from None
        if unknown := set(found) - {"columns", "relations"}:
            raise ArgumentError(
                f"schema: expected columns and relations in {where}, got {sorted(unknown)[0]!r}"
            )
        given, relations = found.get("columns"), found.get("relations", [])
        if not isinstance(given, list) or not all(isinstance(entry, dict) for entry in given):
            raise ArgumentError(f"schema: expected [[columns]] in {where}, got none")
        if not isinstance(relations, list):
            raise ArgumentError(f"relations: expected a list of lines in {where}, got {relations!r:.60}")
        known = {f.name for f in fields(Column)}
        columns = []
        for entry in given:
            name = entry.get("name", "?")
            if unknown := set(entry) - known:
                raise ArgumentError(
                    f"schema: expected of column {name!r} some of {', '.join(sorted(known))}, "
                    f"got {sorted(unknown)[0]!r}"
                )
            if "name" not in entry:
                raise ArgumentError(f"schema: expected a name for every column in {where}, got one without")
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
            columns.append(Column(**values))
        return cls(tuple(columns), tuple(relations))

    @property
    def text(self) -> str:
        """The schema as TOML."""
        lines = [
            "# What every column may become in an adversary's hands.  Edit it: the ranges are those of some data.",
            '# kind: "real", "whole", "binary" or "category"; changes: "any", "up", "down" or "never";',
            "# by: the most a value may move; missing: whether it may be absent; reachable: categories to choose from.",
            '# relations hold between columns: "total = a + b", "first <= last".',
        ]
        lines.append(f"relations = {_toml([relation.text for relation in self.relations])}")
        for column in self.columns:
            lines += ["", "[[columns]]"]
            for f in fields(column):
                value = getattr(column, f.name)
                if (value != f.default or f.name == "kind") and not (
                    column.kind == "binary" and f.name in ("low", "high")
                ):
                    lines.append(f"{f.name} = {_toml(value)}")
        return "\n".join(lines) + "\n"

    def write(self, path: str | Path) -> None:
        """To a TOML file."""
        Path(path).write_text(self.text, encoding="utf-8")


def as_arrow(table: Any, names: Sequence[str] | None = None) -> pa.Table:
    """A pandas or pyarrow table, or an array (row, feature), as a pyarrow table with a name for each column."""
    if isinstance(table, pa.Table):
        arrow = table
    elif hasattr(table, "columns") and hasattr(table, "dtypes"):
        for name, dtype in zip(table.columns, table.dtypes, strict=True):
            if not isinstance(name, str):
                raise ArgumentError(f"data: expected columns with names, got {name!r}")
            if str(dtype) == "object" and (odd := _odd(table[name])) is not None:
                raise ArgumentError(f"data: expected numbers or text in column {name!r}, got {odd}")
        try:
            arrow = pa.Table.from_pandas(table, preserve_index=False)
        except pa.ArrowException as error:
            said = " ".join(str(error).split())[:150]
            raise ArgumentError(f"data: expected columns of one type each, got: {said}") from None
    else:
        try:
            array = table.detach().cpu().numpy() if isinstance(table, Tensor) else np.asarray(table)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"data: expected a table, got {type(table).__name__} ({error})") from None
        if array.ndim != 2 or array.dtype.kind not in "fiub":
            raise ArgumentError(
                "data: expected a frame or an array of numbers (row, feature), "
                f"got {array.dtype} of shape {array.shape}"
            )
        known = [f"column {i}" for i in range(array.shape[1])] if names is None else list(names)
        if len(known) != array.shape[1]:
            raise ArgumentError(f"names: expected {array.shape[1]}, one for each column, got {len(known)}")
        arrow = pa.table(
            [pa.array(column, from_pandas=True) for column in array.T], names=[str(n) for n in known]
        )
        return arrow
    if names is not None:
        raise ArgumentError("names: expected None for a table that has its own, got some")
    return arrow


def _odd(values: Any) -> str | None:
    """The type of the first entry that is neither number nor text, if there is one."""
    for value in values:
        if (
            value is None
            or value is True
            or value is False
            or isinstance(value, str | int | float | np.generic)
        ):
            continue
        return type(value).__name__
    return None


def _guess(name: str, values: pa.ChunkedArray) -> tuple[Column, list[str]]:
    """What a column seems to be, and what about that is a guess."""
    kind, guesses = values.type, list[str]()
    missing = values.null_count > 0
    if pa.types.is_dictionary(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        found = _category_names(values)
        if len(found) < 2:
            guesses.append(
                f"{name}: one category in the data, {found[0] if found else 'none'!r}; it cannot change"
            )
            found = (*found, *("other", "another")[: 2 - len(found)])
            return Column(name, "category", categories=found, changes="never", missing=missing), guesses
        if len(found) > max(50, len(values) // 2):
            guesses.append(f"{name}: {len(found)} texts in {len(values)} rows: a name, not a category?")
        return Column(name, "category", categories=found, missing=missing), guesses
    if pa.types.is_boolean(kind):
        return Column(name, "binary", missing=missing), guesses
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise ArgumentError(f"data: expected numbers, booleans or text in column {name!r}, got {kind}")
    numbers = values.cast(pa.float64()).to_numpy()
    absent = np.isnan(numbers)
    missing = bool(absent.any())
    numbers = numbers[~absent]
    if not len(numbers) or not np.isfinite(numbers).all():
        what = "no values" if not len(numbers) else "infinity"
        raise ArgumentError(f"data: expected finite numbers in column {name!r}, got {what}")
    low, high = float(numbers.min()), float(numbers.max())
    whole = bool((numbers == np.round(numbers)).all())
    if low == high:
        guesses.append(f"{name}: the same everywhere, {low:g}; it cannot change")
        return Column(
            name, "whole" if whole else "real", low, high, changes="never", missing=missing
        ), guesses
    if whole and low == 0 and high == 1:
        if not pa.types.is_integer(kind):
            guesses.append(f"{name}: 0 or 1 everywhere: binary")
        return Column(name, "binary", missing=missing), guesses
    if whole and not pa.types.is_integer(kind):
        guesses.append(f"{name}: whole numbers everywhere, {low:g} to {high:g}: whole, not real")
    if missing:
        guesses.append(f"{name}: {int(absent.sum())} values are missing, so an adversary may leave it out")
    # few whole numbers are all tried anyway
    few = whole and high - low <= _PARTS
    between = [] if few else np.quantile(numbers, np.arange(1, _PARTS) / _PARTS, method="nearest").tolist()
    return Column(
        name, "whole" if whole else "real", low, high, missing=missing, quantiles=tuple(between)
    ), guesses


def _with_groups(columns: list[Column], table: pa.Table) -> tuple[list[Column], list[str]]:
    """Neighbouring binary columns with a common prefix of which exactly one is 1 in every row, as one category."""
    found: list[Column] = []
    guesses: list[str] = []
    at = 0
    while at < len(columns):
        prefixes = [m.group() for m in _SEPARATORS.finditer(columns[at].name)]
        best = 1
        for end in (sum(map(len, prefixes[: n + 1])) for n in range(len(prefixes))):
            prefix = columns[at].name[:end]
            size = 0
            for column in columns[at:]:
                if not (column.name.startswith(prefix) and _could_be_hot(column)):
                    break
                size += 1
            if size > max(best, 1) and _one_in_each(table, columns[at : at + size]):
                best, chosen = size, end
        if best == 1:
            found.append(columns[at])
        else:
            members = columns[at : at + best]
            prefix = columns[at].name[:chosen]
            name = prefix.rstrip("=_.:- ")
            found.append(
                Column(
                    name,
                    "category",
                    categories=tuple(c.name[chosen:] for c in members),
                    one_hot=True,
                    features=tuple(c.name for c in members),
                )
            )
            guesses.append(
                f"{name}: one category, one-hot in {best} columns {members[0].name} to {members[-1].name}"
            )
        at += best
    return found, guesses


def _one_in_each(table: pa.Table, columns: list[Column]) -> bool:
    parts = [table[column.name].cast(pa.int8(), safe=False).to_numpy() for column in columns]
    return bool((np.sum(parts, axis=0) == 1).all())


def _could_be_hot(column: Column) -> bool:
    constant = column.changes == "never" and column.low in (0.0, 1.0)  # a category that no row has
    return not column.missing and (column.kind == "binary" or (constant and column.kind == "whole"))


def _category_names(values: pa.ChunkedArray) -> tuple[str, ...]:
    if pa.types.is_dictionary(values.type):
        values = values.unify_dictionaries()
        names = values.chunk(0).dictionary.to_pylist() if values.num_chunks else []
    else:
        names = sorted(name for name in pc.unique(values).to_pylist() if name is not None)
    if len(names) > _MOST_CATEGORIES:
        raise ArgumentError(
            f"data: expected at most {_MOST_CATEGORIES} categories in a column, got {len(names)}"
        )
    return tuple(str(name) for name in names)


def _numbers(column: Column, values: pa.ChunkedArray, what: str) -> np.ndarray:
    """A frame's column as float64; categories by their place."""
    if column.kind == "category" and not column.one_hot:
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        texts = values.cast(pa.string())
        codes = pc.index_in(texts, value_set=pa.array(column.categories, pa.string()))
        unknown = pc.and_(pc.is_valid(texts), pc.is_null(codes))
        if pc.any(unknown).as_py():
            row = pc.index(unknown, True).as_py()
            raise ArgumentError(
                f"{what}: expected a category of {column.name!r} ({', '.join(column.categories[:6])}"
                f"{', ...' if len(column.categories) > 6 else ''}), got {texts[row].as_py()!r} in row {row}"
            )
        return codes.cast(pa.float64()).to_numpy()
    try:
        if pa.types.is_boolean(values.type):
            values = values.cast(pa.int8())
        return values.cast(pa.float64()).to_numpy()
    except pa.ArrowException:
        raise ArgumentError(
            f"{what}: expected numbers in column {column.name!r}, got {values.type}"
        ) from None


def _strings(name: str, values: Any) -> tuple[str, ...]:
    if (
        isinstance(values, str)
        or not isinstance(values, Sequence)
        or not all(isinstance(v, str) for v in values)
    ):
        raise ArgumentError(f"{name}: expected a list of texts, got {values!r:.60}")
    return tuple(values)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # a JSON text is a TOML text, but for DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(float(value)) if value != int(value) or abs(value) >= 1e15 else str(int(value))
