"""Exact ℓ0 robustness of forests and boosted trees: the smallest number of columns that flips the answer.

    outcome = zn.certification.smallest_change(model, x, zn.L0(None, unit="column", schema=schema))
    outcome.lower, outcome.upper, outcome.witness

**Cells.**  The thresholds of a column cut its line into cells.  A cell is kept if it holds a value that the adversary
may write, of the type that the model is given; the library's comparison and its casts are applied there and nowhere
else.  All points of a cell reach the same leaves, so the answer is a function of cells.  A *unit* is what counts as
one change: a column with an interval of cells, or a category with a set of them.

**Bound.**  Fix the changed units S with a box of cells each, excluded units X, and r further changes.  A leaf l of
value v(l) needs changes of m(l) outside of S; base(t) is the best leaf of tree t that needs none, and
g(l) = v(l) - base(t).  For any weights with Σ_{u in m(l)} λ(l, u) = 1 let

    μ_t,u(cell) = max(0, λ(l, u) g(l) over leaves l of t with u in m(l) that allow the cell),
    G(u) = max over cells of Σ_t μ_t,u(cell).

Then no point of the node has a sum above Σ base(t) + the r largest G.  For the point reaches in each tree a leaf with
m(l) among its changes A: its value is at most base(t), or base(t) + Σ_{u in m(l)} λ g(l) <= base(t) + Σ_{u in A} μ_t,u
at the point's own cells; summed over trees, <= Σ base + Σ_{u in A} G(u).  Cells may be taken together in buckets,
which only enlarges μ.  The same bound without u excludes it for good (fixing).

**Ties.**  A point whose sum is within the rounding of the library's arithmetic is decided, never guessed: for a
forest by its own sum of votes, for others by asking the library.

Source: the question is NP-hard (Kantchelian, Tygar & Joseph, ICML 2016); the bound and the search are this library's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from zeronorm import checks
from zeronorm.certification.certificate import UNBOUNDED, Certificate
from zeronorm.certification.row_relations import fewest_changes
from zeronorm.errors import ArgumentError
from zeronorm.kernels import trees as kernels
from zeronorm.models.tree_ensemble import TreeClassifier, TreeEnsemble
from zeronorm.threat_model import L0

WORK = 300_000_000  # leaf visits for one row: a few seconds

_DEEP = 5  # from so many changes on, the weights of the bound are optimised from the start
_DIVE = 0.03  # of the work, for each number of changes tried beyond the limit
_MOST_CATEGORIES = 64
_MOST_COLUMNS = 10_000


# compared by identity: equality of tensors has no single truth value
@dataclass(frozen=True, eq=False)
class TreeOutcome:
    """What is known of each row: no fewer than `lower` changes flip the answer, and `upper` do.

    Attributes:
        prediction: the library's answer.
        lower: the smallest number of changes that is not refuted; `UNBOUNDED` where no changes flip the answer.
        upper: the number of changes of the witness; `UNBOUNDED` where there is none.
        witness: a row with `upper` changes that the library answers differently; the row itself where there is none.
        visits: leaves looked at.
    """

    prediction: Int64[Tensor, "b"]
    lower: Int64[Tensor, "b"]
    upper: Int64[Tensor, "b"]
    witness: Float[Tensor, "b ..."]
    visits: Int64[Tensor, "b"]

    def __len__(self) -> int:
        return len(self.lower)

    @property
    def exact(self) -> Bool[Tensor, "b"]:
        """Where the smallest number of changes is known."""
        return self.lower == self.upper

    @property
    def certificate(self) -> Certificate:
        """The proved part: one change fewer than `lower` cannot flip the answer."""
        radius = torch.where(self.lower == UNBOUNDED, self.lower, self.lower - 1)
        return Certificate(self.prediction, radius)


def certify_tree_ensemble(model: Any, x: Any, threat: Any, work: int = WORK) -> Certificate:
    """How many columns (or features) of each row may change, as the threat model allows, without moving the answer.

    With `threat.k` nothing is asked beyond k changes; `smallest_change` gives the other half, a witness.
    """
    return smallest_change(model, x, threat, work).certificate


def smallest_change(model: Any, x: Any, threat: Any, work: int = WORK) -> TreeOutcome:
    """For each row the smallest number of changes that flips the answer, with a witness; or bounds.

    **Arguments:**

    - `model`: of `zn.models.from_sklearn`, `from_xgboost`, `from_lightgbm` or `from_catboost`.
    - `x`: rows `(b, feature)`, or images of one channel; float32 or float64, of which the adversary's values are too.
    - `threat`: an `L0`; `k` None asks for the smallest number whatever it is, else for at most k changes.
    - `work`: the most leaf visits for a row, after which its bounds are what is known.

    **Raises:** `ArgumentError`, before any work, for what is not understood.
    """
    return TreeProver(model, threat, work)(x)


class TreeProver:
    """`smallest_change` for one model and threat model: what can be prepared once is."""

    def __init__(self, model: Any, threat: Any, work: int = WORK) -> None:
        if not isinstance(model, TreeClassifier):
            raise ArgumentError(
                "model: expected one of zn.models.from_sklearn (trees and forests), from_xgboost, from_lightgbm or "
                f"from_catboost, got {type(model).__name__}"
            )
        if not isinstance(threat, L0):
            raise ArgumentError(f"threat: expected an L0 threat model, got {type(threat).__name__}")
        self.model: TreeClassifier = model
        self.threat: L0 = threat
        self.work = checks.integer("work", work, 1)
        self.trees = model.trees
        self._tables: dict[torch.dtype, _Table] = {}

    def __call__(self, x: Any) -> TreeOutcome:
        """The outcome for each row; rows are worked on one by one, and do not depend on each other."""
        x = self._checked(x)
        flat = x.detach().cpu().flatten(1)
        if x.dtype not in self._tables:
            self._tables[x.dtype] = _Table(self.trees, self.threat, flat)
        table = self._tables[x.dtype]
        rows = flat.numpy()
        answers = self.model.answers(x.detach().cpu().numpy()) if len(x) else np.zeros(0, np.int64)
        low, high = (end.detach().cpu().flatten(1).double().numpy() for end in self.threat.bounds(x))
        places = table.places(rows, low, high)
        found = [_Row(self, table, rows[i], places.of(i), int(answers[i])).solve() for i in range(len(x))]
        witness = flat.clone()
        for i, outcome in enumerate(found):
            if outcome.witness is not None:
                witness[i] = torch.from_numpy(outcome.witness)
        result = TreeOutcome(
            torch.from_numpy(answers),
            torch.tensor([outcome.lower for outcome in found], dtype=torch.int64),
            torch.tensor([outcome.upper for outcome in found], dtype=torch.int64),
            witness.reshape(x.shape),
            torch.tensor([outcome.visits for outcome in found], dtype=torch.int64),
        )
        self._confirm(x.detach().cpu(), result)
        return result

    def _checked(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.float64) or x.dim() < 2:
            what = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ArgumentError(f"x: expected float32 or float64 rows (batch, feature), got {what}")
        if x.dim() > 2 and self.threat.unit == "pixel" and x.shape[1] > 1:
            raise ArgumentError(
                f'unit: expected "feature" or "column", or pixels of one channel, got pixels of {x.shape[1]}'
            )
        features = math.prod(x.shape[1:])
        if features != self.trees.features:
            raise ArgumentError(
                f"x: expected {self.trees.features} features per example for this model, got {features}"
            )
        if features > _MOST_COLUMNS:
            raise ArgumentError(f"x: expected at most {_MOST_COLUMNS} features, got {features}")
        if not len(x):
            return x
        if self.threat.schema is None:
            checks.examples(x)
        elif bool(absent := (x.isnan().any(0) & ~torch.from_numpy(self.trees.takes_missing)).any()):
            at = int((x.isnan().any(0) & ~torch.from_numpy(self.trees.takes_missing)).nonzero()[0])
            raise ArgumentError(
                f"x: expected no missing value in feature {at}, which {self.trees.library} refuses, got {bool(absent)}"
            )
        self.threat.check_inputs(x)
        return x

    def _confirm(self, x: Tensor, outcome: TreeOutcome) -> None:
        """Every witness once more, by the library itself and by the threat model."""
        some = (outcome.upper < UNBOUNDED).nonzero().flatten()
        if not len(some):
            return
        answers = torch.from_numpy(self.model.answers(outcome.witness[some].numpy()))
        whole = self.threat.with_k(None)
        good = (answers != outcome.prediction[some]) & whole.contains(x[some], outcome.witness[some])
        good &= whole.distance(x[some], outcome.witness[some]) == outcome.upper[some]
        if not bool(good.all()):
            row = int(some[(~good).nonzero()[0]])
            raise RuntimeError(
                f"row {row}: a witness was found that the library or the threat model does not confirm; this is an "
                "error of zeronorm, please report it"
            )


# -- cells ---------------------------------------------------------------------------------------------------


def last_value_left(threshold: Any, cast: str, dtype: str) -> Float[np.ndarray, "n"]:
    """The largest value v of a type with cast(v) <= threshold, in float64; the cast rounds to nearest, ties to even."""
    threshold = np.asarray(threshold, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        if cast == "float64" and dtype == "float64":
            return threshold
        single = threshold.astype(np.float32)
        single = np.where(single > threshold, np.nextafter(single, np.float32(-np.inf)), single)
        if dtype == "float32":
            return single.astype(np.float64)
        # what rounds to `single` ends half way to the next one
        above = np.nextafter(single, np.float32(np.inf)).astype(np.float64)
        single = single.astype(np.float64)
        half = np.where(np.isinf(above) & np.isfinite(single), np.inf, single + (above - single) / 2)
        half = np.where(np.isinf(single), single, half)
        return np.where(half.astype(np.float32) <= single, half, np.nextafter(half, -np.inf))


class _Unit:
    """One thing that counts as a change: its features, and its cells."""

    def __init__(self, place: slice, column: Any, low: float, high: float, movable: bool) -> None:
        self.place, self.column, self.low, self.high, self.movable = place, column, low, high, movable
        kind = getattr(column, "kind", "real")
        self.whole = kind != "real"
        self.category = kind == "category"
        self.one_hot = bool(getattr(column, "one_hot", False))
        self.missing = bool(getattr(column, "missing", False))
        self.directed = bool(getattr(column, "directed", False))
        self.name = getattr(column, "name", f"feature {place.start}")
        self.is_mask = False
        self.cells = 1
        # of an interval: ends of the kept cells, and what the cuts were
        self.cuts = np.zeros(0)
        self.kept = np.zeros(1, np.int64)
        self.first, self.last = np.array([low]), np.array([high])
        # of a mask: the class of each category, the missing value after all others
        self.classes = np.zeros(1, np.int64)

    def cells_of(self, values: np.ndarray) -> np.ndarray:
        """The cell of each value of an interval; a missing one's comes after all."""
        raw = np.searchsorted(self.cuts, values)  # cuts below the value
        at = np.minimum(np.searchsorted(self.kept, raw), len(self.kept) - 1)
        absent = np.isnan(values)
        lost = ~absent & (self.kept[at] != raw)
        if lost.any():
            value = float(values[lost][0])
            raise ArgumentError(
                f"x: expected a value of {self.name!r} that the threat model allows, got {value!r}"
            )
        cells: np.ndarray = np.where(absent, self.cells, at)
        return cells


@dataclass
class _Places:
    """The cells of the numbers of rows: their own, and those that the adversary may choose; the ends of the range."""

    own: np.ndarray
    d_lo: np.ndarray
    d_hi: np.ndarray
    d_nan: np.ndarray
    ends: np.ndarray

    def of(self, i: int) -> _Places:
        """Those of one row."""
        return _Places(self.own[i], self.d_lo[i], self.d_hi[i], self.d_nan[i], self.ends[i])


class _Table:
    """Cells, leaves as conditions on cells, and the order of leaves for each pair of classes."""

    def __init__(self, trees: TreeEnsemble, threat: L0, example: Tensor) -> None:
        self.trees, self.dtype = trees, str(example.dtype).removeprefix("torch.")
        self.units = _units(threat, example, trees)
        self._cut()
        self._read_leaves()
        self.relations = _relations(threat)
        self._pairs: dict[tuple[int, int], _Pair] = {}

    def _cut(self) -> None:
        trees = self.trees
        n = len(trees.feature)
        unit_of = np.zeros(trees.features, np.int64)
        for u, unit in enumerate(self.units):
            unit_of[unit.place] = u
        inner = np.flatnonzero(trees.feature >= 0)
        self.node_unit = np.full(n, -1, np.int64)
        self.node_unit[inner] = unit_of[trees.feature[inner]]
        self.node_cut = np.zeros(n, np.int64)
        self.node_mask = np.zeros(n, np.uint64)
        cuts = np.zeros(n)
        cuts[inner] = last_value_left(trees.threshold[inner], trees.cast, self.dtype)
        by_unit = inner[np.argsort(self.node_unit[inner], kind="stable")]
        borders = np.searchsorted(self.node_unit[by_unit], np.arange(len(self.units) + 1))
        sets = set(trees.sets)
        for u, unit in enumerate(self.units):
            mine = by_unit[borders[u] : borders[u + 1]]
            if self._as_mask(unit, mine, sets):
                self._cut_mask(unit, mine, cuts)
            else:
                self._cut_interval(unit, mine, cuts)

    def _as_mask(self, unit: _Unit, mine: np.ndarray, sets: set[int]) -> bool:
        splits = [node for node in mine if int(node) in sets]
        if splits and (not unit.category or unit.one_hot):
            raise ArgumentError(
                f"schema: expected kind 'category' of {unit.name!r}, which the model splits by categories, got another"
            )
        if not unit.category:
            return False
        reachable = unit.column.reachable is not None
        # codes that are only compared may as well be whole numbers
        return unit.one_hot or bool(splits) or reachable or len(unit.column.categories) < _MOST_CATEGORIES

    def _cut_interval(self, unit: _Unit, mine: np.ndarray, cuts: np.ndarray) -> None:
        if unit.whole and self.dtype == "float32" and max(abs(unit.low), abs(unit.high)) > 2**24:
            raise ArgumentError(
                f"x: expected float64 for the whole numbers of {unit.name!r}, which float32 does not hold, got float32"
            )
        edges = np.unique(cuts[mine])
        before, after = np.concatenate([[-np.inf], edges]), np.concatenate([edges, [np.inf]])
        with np.errstate(over="ignore"):
            if unit.whole:
                first, last = np.floor(before) + 1, np.floor(after)
            else:
                first = np.nextafter(before.astype(self.dtype), np.array(np.inf, self.dtype)).astype(
                    np.float64
                )
                last = after
        first, last = np.maximum(first, unit.low), np.minimum(last, unit.high)
        unit.cuts, unit.kept = edges, np.flatnonzero(first <= last)
        unit.first, unit.last = first[unit.kept], last[unit.kept]
        unit.cells = len(unit.kept)
        # raw cells up to the cut go left
        raw = np.searchsorted(edges, cuts[mine])
        self.node_cut[mine] = np.searchsorted(unit.kept, raw, side="right") - 1

    def _cut_mask(self, unit: _Unit, mine: np.ndarray, cuts: np.ndarray) -> None:
        unit.is_mask = True
        trees, count = self.trees, len(unit.column.categories)
        goes = np.zeros((len(mine), count + 1), bool)  # left: node, category; the missing value last
        for n, node in enumerate(mine):
            if unit.one_hot:
                goes[n, :count] = cuts[node] >= 0.0
                goes[n, trees.feature[node] - unit.place.start] = cuts[node] >= 1.0
            elif int(node) in trees.sets:
                goes[n, [c for c in trees.sets[int(node)] if c < count]] = True
            else:
                goes[n, :count] = np.arange(count) <= cuts[node]
            goes[n, count] = trees.nan_left[node]
        # categories that no split tells apart are one cell
        kinds, unit.classes = np.unique(goes, axis=1, return_inverse=True)
        unit.classes = unit.classes.reshape(-1)
        unit.cells = int(kinds.shape[1])
        if unit.cells > _MOST_CATEGORIES:
            raise ArgumentError(
                f"schema: expected at most {_MOST_CATEGORIES} categories that the model tells apart, "
                f"got {unit.cells} of {unit.name!r}"
            )
        bits = np.uint64(1) << np.arange(unit.cells, dtype=np.uint64)
        self.node_mask[mine] = (kinds * bits).sum(1, dtype=np.uint64) if len(mine) else 0

    def _read_leaves(self) -> None:
        trees, units = self.trees, self.units
        self.plain = np.zeros(len(units), kernels.UNIT)
        for u, unit in enumerate(units):
            plain = self.plain[u]
            plain["is_mask"], plain["cells"] = unit.is_mask, unit.cells
            plain["missing"] = unit.missing and not unit.is_mask
            plain["every"] = (1 << unit.cells) - 1 if unit.is_mask else 0
        self.plain["first_cell"] = np.cumsum(self.plain["cells"] + 1) - self.plain["cells"] - 1
        self.all_cells = int((self.plain["cells"] + 1).sum())
        parent = np.full(len(trees.feature), -1, np.int64)
        inner = np.flatnonzero(trees.feature >= 0)
        parent[trees.left[inner]] = inner
        parent[trees.right[inner]] = inner
        leaves, room = trees.leaves, 16 * len(trees.leaves)
        while True:
            start, reachable = np.zeros(len(leaves) + 1, np.int64), np.zeros(len(leaves), np.bool_)
            conditions = np.zeros(room, kernels.CONDITION)
            end = kernels.leaf_conditions(
                leaves, parent, trees.left, self.node_unit, self.node_cut, self.node_mask, trees.nan_left,
                self.plain, start, conditions, reachable,
            )  # fmt: skip
            if end > room:
                room = end
            elif not reachable.all():
                leaves = leaves[reachable]
            else:
                break
        self.leaf_node, self.start = leaves, start
        self.conditions = conditions[: max(end, 1)].copy()  # `bad` is of the row at hand
        self.leaf_tree = trees.tree_of[leaves]
        self.weight, self.dirty = np.ones(len(self.conditions)), False

    def places(self, rows: np.ndarray, low: np.ndarray, high: np.ndarray) -> _Places:
        """Where the numbers of rows are, and where each may go."""
        shape = (len(rows), len(self.units))
        own, d_lo, d_hi = (np.zeros(shape, np.int32) for _ in range(3))
        d_nan, ends = np.zeros(shape, np.uint8), np.zeros((*shape, 2))
        for u, unit in enumerate(self.units):
            if unit.is_mask:
                continue
            at = unit.place.start
            value = rows[:, at].astype(np.float64)
            absent = np.isnan(value)
            fixed = absent & unit.directed if unit.movable else np.ones_like(absent)
            lo, hi = np.where(fixed, value, low[:, at]), np.where(fixed, value, high[:, at])
            if unit.whole:
                lo, hi = np.ceil(lo), np.floor(hi)
            ends[:, u, 0], ends[:, u, 1] = lo, hi
            own[:, u] = unit.cells_of(value)
            # one that is missing, and stays so, has no other cells
            stays = fixed & absent
            d_lo[:, u] = np.where(stays, 1, unit.cells_of(lo))
            d_hi[:, u] = np.where(stays, 0, unit.cells_of(hi))
            may = unit.missing and not unit.directed and bool(self.trees.takes_missing[at])
            d_nan[:, u] = absent | (may & ~fixed)
        return _Places(own, d_lo, d_hi, d_nan, ends)

    def pair(self, answer: int, rival: int) -> _Pair:
        """What decides between two classes."""
        if (answer, rival) not in self._pairs:
            self._pairs[answer, rival] = _Pair(self, answer, rival)
        return self._pairs[answer, rival]


class _Pair:
    """The leaves that speak for a rival against the answer, each tree's best first."""

    def __init__(self, table: _Table, answer: int, rival: int) -> None:
        trees = table.trees
        group = trees.group[table.leaf_tree]
        value = trees.value[table.leaf_node]
        if (trees.group < 0).any():
            self.value = value[:, rival] - value[:, answer]
            used = np.arange(trees.trees)
        else:
            self.value = value[:, 0] * np.where(group == rival, 1.0, np.where(group == answer, -1.0, 0.0))
            used = np.flatnonzero((trees.group == rival) | (trees.group == answer))
        number = np.full(trees.trees, -1)
        number[used] = np.arange(len(used))
        mine = np.flatnonzero(number[table.leaf_tree] >= 0)
        order = mine[np.lexsort((-self.value[mine], table.leaf_tree[mine]))]
        self.order = order.astype(np.int32)
        self.tree = number[table.leaf_tree[order]]
        self.trees = len(used)
        self.first_leaf = np.searchsorted(table.leaf_tree, used)
        self.last_leaf = np.searchsorted(table.leaf_tree, used, side="right")
        self.widest = int((self.last_leaf - self.first_leaf).max(initial=0))
        self.base = float(trees.base[rival] - trees.base[answer])
        self.tolerance = float(trees.slack[rival] + trees.slack[answer])


def _relations(threat: L0) -> list[tuple[list[tuple[float, int]], str, float]]:
    """The schema's linear relations, with columns by number."""
    if threat.schema is None:
        return []
    number = {column.name: u for u, column in enumerate(threat.schema.columns)}
    for relation in threat.schema.relations:
        for _, name in relation.terms:
            if threat.schema.columns[number[name]].missing:
                raise ArgumentError(
                    f"schema: expected columns that are never missing in {relation.text!r}, got {name!r}, which may be"
                )
    return [
        (
            [(coefficient, number[name]) for coefficient, name in relation.terms],
            relation.sense,
            relation.constant,
        )
        for relation in threat.schema.relations
    ]


def _units(threat: L0, example: Tensor, trees: TreeEnsemble) -> list[_Unit]:
    """The units of a threat model, with ranges in the inputs' own type."""
    shape = (1, trees.features)
    low, high = (
        torch.as_tensor(end, dtype=example.dtype).reshape(-1).expand(shape).flatten().double().tolist()
        if torch.as_tensor(end).numel() in (1, trees.features)
        else None
        for end in (threat.low, threat.high)
    )
    if low is None or high is None:
        raise ArgumentError(f"low, high: expected a number or {trees.features} of them, got another shape")
    allowed = threat.allowed
    if threat.schema is None:
        places: Sequence[slice] = [slice(f, f + 1) for f in range(trees.features)]
        columns: Sequence[Any] = [None] * trees.features
    else:
        columns = threat.schema.columns
        ends = np.cumsum([column.width for column in columns]).tolist()
        places = [slice(end - column.width, end) for end, column in zip(ends, columns, strict=True)]
    if trees.cast == "float32" and max(map(abs, [*low, *high])) > float(np.finfo(np.float32).max):
        raise ArgumentError(
            f"low, high: expected numbers that float32 holds, in which {trees.library} compares, got more"
        )
    free = [True] * len(places) if allowed is None else allowed.flatten().tolist()
    return [
        _Unit(
            place,
            column,
            low[place.start],
            high[place.start],
            free[u] and getattr(column, "changes", "") != "never",
        )
        for u, (place, column) in enumerate(zip(places, columns, strict=True))
    ]


# -- one row -------------------------------------------------------------------------------------------------


@dataclass
class _Found:
    lower: int
    upper: int
    witness: np.ndarray | None
    visits: int


class _Row:
    """The search for one row."""

    def __init__(
        self,
        prover: TreeProver,
        table: _Table,
        row: np.ndarray,
        place: _Places,
        answer: int,
    ) -> None:
        self.prover, self.table, self.row, self.answer = prover, table, row, answer
        units, takes = table.units, table.trees.takes_missing
        self.units = table.plain.copy()
        self.ends = place.ends
        for name in ("own", "d_lo", "d_hi", "d_nan"):
            self.units[name] = getattr(place, name)
        for u, unit in enumerate(units):
            if unit.is_mask:
                self._place_category(u, unit, bool(takes[unit.place.start]))
        self.cell_bucket = np.zeros(table.all_cells, np.int64)
        self.buckets = int(kernels.number_buckets(self.units, self.cell_bucket))
        self.own = self.units["own"].astype(np.int64)
        self.count = np.zeros(len(table.leaf_node), np.int16)
        kernels.mark_row(table.start, table.conditions, self.units, self.count)
        self.movable = sum(self._choices(u, unit) for u, unit in enumerate(units))
        self.visits = 0
        self.asked: dict[bytes, bool] = {}
        self.unsure = False  # whether a way was dropped that may exist

    def _choices(self, u: int, unit: _Unit) -> bool:
        me = self.units[u]
        if self.table.relations:
            return unit.movable  # a change that no tree sees may let another one be
        if unit.is_mask:
            return int(me["d_mask"]).bit_count() > 1
        return max(0, int(me["d_hi"]) - int(me["d_lo"]) + 1) + int(me["d_nan"]) > 1

    def _place_category(self, u: int, unit: _Unit, takes: bool) -> None:
        names = unit.column.categories
        entries = self.row[unit.place]
        if not unit.one_hot and math.isnan(entries[0]):
            code = len(names)
        else:
            code = int(entries.argmax() if unit.one_hot else entries[0])
        self.units[u]["own"] = unit.classes[code]
        self.ends[u] = code, 0
        mask = 1 << int(unit.classes[code])
        for c in self._choosable(unit, code, takes):
            mask |= 1 << int(unit.classes[c])
        self.units[u]["d_mask"] = mask

    @staticmethod
    def _choosable(unit: _Unit, code: int, takes: bool) -> list[int]:
        """The categories that the adversary may choose where the row has `code`; the missing value is the last."""
        column, names = unit.column, unit.column.categories
        if not unit.movable or (unit.directed and code == len(names)):
            return []
        found = [
            c
            for c in range(len(names))
            if (column.reachable is None or names[c] in column.reachable)
            and not (column.changes == "up" and c < code)
            and not (column.changes == "down" and c > code)
        ]
        return [*found, len(names)] if unit.missing and not unit.directed and takes else found

    # -- the search --------------------------------------------------------------------------------------

    def solve(self) -> _Found:
        """Refute 1, 2, ... changes until a witness is found, or the work is done."""
        prover, trees = self.prover, self.table.trees
        most = self.movable if prover.threat.k is None else min(prover.threat.k, self.movable)
        scores = trees.scores(self.row[None])[0]
        rivals = [j for j in np.argsort(-scores, kind="stable").tolist() if j != self.answer]
        upper, witness = UNBOUNDED, None
        if most == 0:
            return _Found(UNBOUNDED if self.movable == 0 else 1, upper, witness, self.visits)
        reach = dict.fromkeys(rivals, UNBOUNDED)
        for j in rivals:
            if upper == 1:
                break
            cells, changes = self._climb(j, min(most, upper - 1))
            row = self._write(cells, cells, cells) if changes < upper else None
            if row is not None:
                reach[j] = upper = self._distance(row)
                witness = row
        if self.table.dirty:  # another row's weights would do, but would make rows depend on each other
            self.table.weight[:], self.table.dirty = 1.0, False
        rivals.sort(key=lambda j: reach[j])
        searches = {j: _Search(self, j) for j in rivals}
        # where no way is known there may be none at all
        ask_all = upper == UNBOUNDED and prover.threat.k is None
        limit = self.visits + prover.work // 20
        if ask_all and all(searches[j].run(most, limit) == kernels.EXHAUSTED for j in rivals):
            return _Found(UNBOUNDED, UNBOUNDED, None, self.visits)
        k = 0
        while k < min(most, upper - 1):
            k += 1
            for j in rivals:
                verdict = searches[j].run(k, prover.work)
                if verdict == kernels.FOUND:
                    return _Found(k, searches[j].changes, searches[j].witness, self.visits)
                if verdict == kernels.LIMIT:
                    return self._dive(k, most, upper, witness, rivals, searches)
        if upper == UNBOUNDED:
            return _Found(UNBOUNDED if k == self.movable else k + 1, upper, witness, self.visits)
        return _Found(upper, upper, witness, self.visits)

    def _dive(
        self, k: int, most: int, upper: int, witness: Any, rivals: list[int], searches: dict[int, _Search]
    ) -> _Found:
        """The work is done at k changes: is there a better witness with a few more?"""
        for more in range(k + 1, min(most + 1, upper)):
            for j in rivals:
                if searches[j].run(more, self.visits + int(_DIVE * self.prover.work)) == kernels.FOUND:
                    return _Found(k, searches[j].changes, searches[j].witness, self.visits)
        return _Found(k, upper, witness, self.visits)

    def _climb(self, rival: int, most: int) -> tuple[np.ndarray, int]:
        """Change one unit after the other to where it helps the rival most; how many it took, or `UNBOUNDED`."""
        table, pair = self.table, self.table.pair(self.answer, rival)
        point = self.own.copy()
        visits = np.zeros(1, np.int64)
        score = kernels.climb(
            pair.value, pair.first_leaf, pair.last_leaf, table.start, table.conditions, self.units, point, pair.base,
            pair.tolerance, most, self.count, np.zeros(table.all_cells), np.zeros((pair.widest, 2), np.int64), visits,
        )  # fmt: skip
        self.visits += int(visits[0])
        changed = int((point != self.own).sum())
        return point, changed if score > pair.tolerance else UNBOUNDED

    def _write(self, cells: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> np.ndarray | None:
        """The row with a value of each changed unit's cell; None if the schema's relations allow no such row.

        With relations, intervals may take any value of the cells `lo` to `hi`, which reach the same leaves, and
        other columns may move as well, within theirs, as few as possible.
        """
        row = self.row.copy()
        for u in np.flatnonzero(cells != self.own):
            self._set(row, int(u), int(cells[u]))
        return self._relate(row, cells != self.own, lo, hi) if self.table.relations else row

    def _relate(
        self, row: np.ndarray, moved: np.ndarray, lo: np.ndarray, hi: np.ndarray
    ) -> np.ndarray | None:
        units = self.table.units
        at = [unit.place.start for unit in units]
        relations = self.table.relations
        columns = sorted({u for terms, _, _ in relations for _, u in terms})
        place = {u: n for n, u in enumerate(columns)}
        ends = []
        for u in columns:
            unit, (least, greatest) = units[u], self.ends[u]
            ends.append((max(unit.first[lo[u]], least), min(unit.last[hi[u]], greatest)))
        values = fewest_changes(
            [([(c, place[u]) for c, u in terms], sense, constant) for terms, sense, constant in relations],
            np.array([float(self.row[at[u]]) for u in columns]),
            np.array([first for first, _ in ends]),
            np.array([last for _, last in ends]),
            np.array([bool(moved[u]) for u in columns]),
            np.array([units[u].whole for u in columns]),
        )
        if values is None:
            return None
        for n, u in enumerate(columns):
            row[at[u]] = values[n]
        pair = torch.from_numpy(self.row[None]), torch.from_numpy(row[None])
        if not bool(self.prover.threat.with_k(None).contains(*pair)):
            self.unsure = True  # possible to the solver's tolerance, not to rounding
            return None
        return row

    def _distance(self, row: np.ndarray) -> int:
        pair = torch.from_numpy(self.row[None]), torch.from_numpy(row[None])
        return int(self.prover.threat.distance(*pair)[0])

    def _set(self, row: np.ndarray, u: int, cell: int) -> None:
        unit = self.table.units[u]
        if unit.is_mask:
            code = int(self.ends[u, 0])
            takes = bool(self.table.trees.takes_missing[unit.place.start])
            chosen = next(c for c in self._choosable(unit, code, takes) if unit.classes[c] == cell)
            if unit.one_hot:
                row[unit.place] = 0
                row[unit.place.start + chosen] = 1
            else:
                row[unit.place] = math.nan if chosen == len(unit.column.categories) else chosen
            return
        if cell == unit.cells:
            row[unit.place] = math.nan
            return
        first, last = max(unit.first[cell], self.ends[u, 0]), min(unit.last[cell], self.ends[u, 1])
        if unit.whole:
            row[unit.place] = math.floor(first / 2 + last / 2)
        else:
            row[unit.place] = first / 2 + last / 2
        if not first <= row[unit.place.start] <= last:
            row[unit.place] = first

    def flips(self, row: np.ndarray) -> bool:
        """Whether the library answers differently."""
        key = row.tobytes()
        if key not in self.asked:
            self.asked[key] = int(self.prover.model.answers(row[None])[0]) != self.answer
        return self.asked[key]


class _Search:
    """Branch and bound for one rival: arrays that the kernel works on, and grows when it asks."""

    def __init__(self, row: _Row, rival: int) -> None:
        self.of, self.pair = row, row.table.pair(row.answer, rival)
        self.witness: np.ndarray | None = None
        self.changes = 0

    def run(self, r: int, most_visits: int) -> int:
        """Search all points with at most r changes; `FOUND`, `EXHAUSTED` or, at so many visits in all, `LIMIT`."""
        of, pair, table = self.of, self.pair, self.of.table
        units, trees = len(of.units), pair.trees
        count = of.count[pair.order]
        alive = (count >= 0) & (count <= r)
        leaves = pair.order[alive]
        depth = r + 12
        frame_start = np.zeros((depth, trees + 1), np.int64)
        frame_start[0, 1:] = np.cumsum(np.bincount(pair.tree[alive], minlength=trees))
        arrays: dict[str, np.ndarray] = {
            "pool_leaf": np.zeros(3 * len(leaves) + 16, np.int32),
            "pool_count": np.zeros(3 * len(leaves) + 16, np.int16),
            "frame_start": frame_start,
            "state": np.zeros((depth, units), np.uint8),
            "box_lo": np.zeros((depth, units), np.int64),
            "box_hi": np.zeros((depth, units), np.int64),
            "box_mask": np.zeros((depth, units), np.uint64),
            "left_to": np.zeros(depth, np.int64),
            "task": np.zeros((64, 5), np.int64),
            "task_mask": np.zeros(64, np.uint64),
        }
        arrays["pool_leaf"][: len(leaves)], arrays["pool_count"][: len(leaves)] = leaves, count[alive]
        arrays["left_to"][0] = r
        arrays["task"][0, 1] = 3  # look at the whole
        reg = np.zeros(kernels.SIZE, np.int64)
        reg[kernels.TASKS] = 1
        reg[kernels.VISITS], reg[kernels.MOST_VISITS] = of.visits, most_visits
        reg[kernels.MULTIPLIERS] = r >= _DEEP
        met_lo, met_hi, met_mask = (
            np.zeros(units, np.int64),
            np.zeros(units, np.int64),
            np.zeros(units, np.uint64),
        )
        votes = table.trees.value if table.trees.votes else np.zeros((0, 1))
        while True:
            verdict = kernels.search(
                pair.value, table.start, table.conditions, of.units, of.cell_bucket, of.buckets, pair.base,
                pair.tolerance, of.answer, votes, table.leaf_node, *arrays.values(), reg, table.weight,
                met_lo, met_hi, met_mask,
            )  # fmt: skip
            of.visits = int(reg[kernels.VISITS])
            table.dirty |= reg[kernels.MULTIPLIERS] == 2
            if verdict == kernels.GROW:
                for name, array in arrays.items():
                    more = np.zeros((2 * len(array), *array.shape[1:]), array.dtype)
                    more[: len(array)] = array
                    arrays[name] = more
                continue
            if verdict == kernels.EXHAUSTED and of.unsure:
                return int(kernels.LIMIT)
            if verdict in (kernels.EXHAUSTED, kernels.LIMIT):
                return int(verdict)
            state = arrays["state"][reg[kernels.FRAME]]
            cells = of.own.copy()
            for u in np.flatnonzero(state == 1):
                cells[u] = _lowest_bit(int(met_mask[u])) if of.units[u]["is_mask"] else met_lo[u]
            witness = of._write(cells, met_lo, met_hi)
            if (
                witness is None
                or of._distance(witness) > r
                or (verdict == kernels.ASK and not of.flips(witness))
            ):
                reg[kernels.VERDICT] = kernels.REFUSED
                continue
            self.witness, self.changes = witness, of._distance(witness)
            return int(kernels.FOUND)


def _lowest_bit(mask: int) -> int:
    return (mask & -mask).bit_length() - 1
