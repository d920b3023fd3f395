"""The columns of a run on a table, from its plan: their names, their units, and their values as a person reads them."""

from __future__ import annotations

import functools
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from zeronorm.errors import ArgumentError

Floats = npt.NDArray[np.float64]

_MOST = 1 << 20  # features of a row


@dataclass(frozen=True)
class TableColumn:
    """A column: its first feature, how many it has, and what its values are called."""

    name: str
    start: int
    width: int
    whole: bool
    categories: tuple[str, ...]
    measure: str

    def show(self, features: Floats) -> str:
        """The column's value in a row, from its features: "1,200 EUR", "clerk", "missing"."""
        value = float(np.argmax(features)) if self.width > 1 else float(features[0])
        if math.isnan(value):
            return "missing"
        if self.categories:
            known = value.is_integer() and 0 <= value < len(self.categories)
            return self.categories[int(value)] if known else f"category {value:g}"
        text = f"{value:,.0f}" if self.whole else f"{value:,.6g}"
        return f"{text} {self.measure}".rstrip()


@dataclass(frozen=True)
class ColumnUse:
    """How often the smallest changes that break a row are in a column: in all, and in it alone, of `broken` rows."""

    name: str
    rows: int
    alone: int
    broken: int


def table_columns(plan: Mapping[str, Any]) -> tuple[TableColumn, ...] | None:
    """The columns of the table that a run is on, where its adversary changes columns."""
    text = plan["threat"].get("schema")
    return None if text is None else _read(str(text))


@functools.lru_cache(maxsize=16)
def _read(text: str) -> tuple[TableColumn, ...]:
    try:
        found, start = [], 0
        for entry in tomllib.loads(text)["columns"]:
            categories = tuple(map(str, entry.get("categories", ())))
            width = len(categories) if entry.get("one_hot", False) else 1
            found.append(
                TableColumn(
                    str(entry["name"]), start, width, entry.get("kind", "real") != "real", categories,
                    str(entry.get("measure", "")),
                )
            )  # fmt: skip
            start += width
        if not 0 < start <= _MOST or any(column.width < 1 for column in found):
            raise ValueError("columns without features")
        return tuple(found)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ArgumentError(
            f"run: expected the schema of a table in its plan, got another ({error})"
        ) from None


def changed_columns(
    columns: Sequence[TableColumn], clean: Floats, changed: Floats
) -> list[tuple[str, str, str]]:
    """Name, old and new value of every column that differs between two rows; missing equals missing."""
    told = []
    for column in columns:
        before, after = (row[column.start : column.start + column.width] for row in (clean, changed))
        if not np.array_equal(before, after, equal_nan=True):
            told.append((column.name, column.show(before), column.show(after)))
    return told


def column_use(columns: Sequence[TableColumn], rows: pa.Table) -> list[ColumnUse]:
    """The columns that the smallest changes found are in, the most used first; none where nothing was broken."""
    best: dict[int, dict[str, Any]] = {}
    for row in (
        rows.filter(pc.equal(rows["outcome"], "broken"))
        .select(["example", "distance", "positions"])
        .to_pylist()
    ):
        known = best.get(row["example"])
        if known is None or (row["distance"] or 0) < (known["distance"] or 0):
            best[row["example"]] = row
    of_feature = np.repeat(np.arange(len(columns)), [column.width for column in columns])
    used, alone = np.zeros(len(columns), np.int64), np.zeros(len(columns), np.int64)
    for row in best.values():
        positions = np.asarray(row["positions"] or [], np.int64)
        if len(positions) and (positions.min() < 0 or positions.max() >= len(of_feature)):
            raise ArgumentError(
                f"run: expected changes within {len(of_feature)} features of example {row['example']}, got others"
            )
        mine = np.unique(of_feature[positions])
        used[mine] += 1
        alone[mine] += len(mine) == 1
    order = np.argsort(-used, kind="stable")
    return [
        ColumnUse(columns[u].name, int(used[u]), int(alone[u]), len(best)) for u in order.tolist() if used[u]
    ]
