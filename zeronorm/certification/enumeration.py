"""Exact ℓ0 robustness of anything that can be called, where the columns have few possible values: ask about all.

plan = zn.certification.enumeration_queries(x, threat, k=2)     # how many rows that is, before any is asked
outcome = zn.certification.certify_enumeration(model, x, threat)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from zeronorm import checks
from zeronorm.certification.certificate import UNBOUNDED, Certificate
from zeronorm.errors import ArgumentError
from zeronorm.threat_model import L0

QUERIES = 10_000_000  # unless the caller says otherwise
_MOST_VALUES = 100_000  # of one column


@dataclass(frozen=True, eq=False)
class Enumeration:
    """What asking about every row within the budget showed.

    Attributes:
        certificate: the answer, and how many changes it withstands, proved; `UNBOUNDED` where all may change.
        changes: the smallest number of changes that flips the answer, `UNBOUNDED` where none within the budget does.
        witness: a row with so many changes that is answered differently, or the row itself.
        queries: rows that were asked about, of each example.
    """

    certificate: Certificate
    changes: Int64[Tensor, "b"]
    witness: Float[Tensor, "b ..."]
    queries: Int64[Tensor, "b"]


def enumeration_queries(x: Float[Tensor, "b ..."], threat: L0, k: int | None = None) -> int:
    """How many rows have to be asked about for all examples, at most: every choice of up to k columns and values.

    `ArgumentError` if a column has infinitely many values (kind "real"), or no schema says which it has.
    """
    k = checks.integer("k", threat.k if k is None else k, 0)
    total = 0
    for row in x:
        counts = [len(values) for values in _choices(row, threat)]
        # elementary symmetric polynomials: the sum of the products of every k of the counts
        sums = [1, *[0] * k]
        for count in counts:
            for size in range(k, 0, -1):
                sums[size] += sums[size - 1] * count
        total += 1 + sum(sums[1:])
    return total


@torch.no_grad()
def certify_enumeration(
    model: Any, x: Float[Tensor, "b ..."], threat: L0, queries: int = QUERIES, batch_size: int = 4096
) -> Enumeration:
    """Every row within `threat.k` changes is asked about, fewer changes first; an example that flips is done.

    This is a proof, for the real program with all of its rounding, where every column is a whole number, a category or
    binary.  A model whose answer to a row depends on the rest of the batch proves nothing.

    **Arguments:**

    - `model`: any callable from rows to logits `(b, class)`.
    - `threat`: an `L0` with unit "column" and a schema, and a budget of a few changes.
    - `queries`: refuse, before any is asked, more rows than this.
    - `batch_size`: rows in one call.
    """
    checks.model(model)
    checks.evaluation_mode(model)
    if not isinstance(threat, L0) or threat.schema is None or threat.k is None:
        raise ArgumentError('threat: expected an L0 with a budget k, unit="column" and a schema, got another')
    checks.integer("queries", queries, 1)
    checks.integer("batch_size", batch_size, 1)
    threat.check_inputs(x)
    needed = enumeration_queries(x, threat)
    if needed > queries:
        raise ArgumentError(
            f"queries: expected at least {needed:,} for {len(x)} rows at k={threat.k}, got {queries:,}; "
            "fewer rows or changes, or a narrower schema, need fewer"
        )
    answers, radii, changes, witnesses, asked = [], [], [], [], []
    for row in x:
        answer = int(_answers(model, row[None])[0])
        choices = _choices(row, threat)
        movable = sum(bool(values) for values in choices)
        found, witness, count = UNBOUNDED, row, 1
        for size in range(1, min(threat.k, movable) + 1):
            for rows in _rows(row, choices, size, batch_size, threat):
                count += len(rows)
                flipped = (_answers(model, rows) != answer).nonzero().flatten()
                if len(flipped):
                    found, witness = size, rows[int(flipped[0])]
                    break
            if found < UNBOUNDED:
                break
        answers.append(answer)
        radii.append(found - 1 if found < UNBOUNDED else UNBOUNDED if movable <= threat.k else threat.k)
        changes.append(found)
        witnesses.append(witness)
        asked.append(count)
    certificate = Certificate(
        torch.tensor(answers, dtype=torch.int64),
        torch.tensor(radii, dtype=torch.int64),
        passes=torch.tensor(asked, dtype=torch.int64),
    )
    return Enumeration(
        certificate,
        torch.tensor(changes, dtype=torch.int64),
        torch.stack(witnesses) if witnesses else x.clone(),
        torch.tensor(asked, dtype=torch.int64),
    )


def _answers(model: Any, rows: Tensor) -> Tensor:
    logits = checks.logits(model(rows.clone()), len(rows))
    if bool(logits.isnan().any()):
        raise ArgumentError("model: expected logits that are numbers, got NaN")
    return logits.argmax(1).cpu()


def _choices(row: Tensor, threat: L0) -> list[list[Tensor]]:
    """For each column what else the row may hold there, the features of each value."""
    schema = threat.schema
    if schema is None:
        raise ArgumentError('threat: expected unit="column" and a schema, got none')
    allowed = threat.allowed_positions(row[None])
    low, high = schema.bounds(row[None])
    found: list[list[Tensor]] = []
    end = 0
    for u, column in enumerate(schema.columns):
        place = slice(end, end + column.width)
        end += column.width
        if column.changes == "never" or (allowed is not None and not bool(allowed[u])):
            found.append([])
            continue
        if column.kind == "real":
            raise ArgumentError(
                f"schema: expected columns of finitely many values, got {column.name!r}, which is real; "
                "zn.certification.smallest_change decides trees on such columns"
            )
        if column.one_hot:
            values = torch.eye(column.width, dtype=row.dtype, device=row.device)
        else:
            first, last = math.ceil(float(low[0, place.start])), math.floor(float(high[0, place.start]))
            if last - first >= _MOST_VALUES:
                raise ArgumentError(
                    f"schema: expected at most {_MOST_VALUES:,} values of {column.name!r}, got {last - first + 1:,}"
                )
            values = torch.arange(first, last + 1, device=row.device).to(row.dtype)[:, None]
            if column.missing:
                values = torch.cat([values, values.new_full((1, 1), math.nan)])
        rows = row.repeat(len(values), 1)
        rows[:, place] = values
        alone: Any = replace(schema, relations=()) if schema.relations else schema  # type: ignore[type-var]
        before = row[None].expand_as(rows)
        good = alone.possible(before, rows) & alone.changed(before, rows).any(1)
        found.append(list(values[good]))
    return found


def _rows(
    row: Tensor, choices: list[list[Tensor]], size: int, batch_size: int, threat: L0
) -> Iterator[Tensor]:
    """All possible rows with exactly `size` changed columns, so many at a time."""
    schema = threat.schema
    assert schema is not None
    ends = list(itertools.accumulate(column.width for column in schema.columns))
    waiting: list[Tensor] = []

    def possible() -> Tensor:
        rows = torch.stack(waiting)
        waiting.clear()
        return rows[schema.possible(row[None].expand_as(rows), rows)] if schema.relations else rows

    for columns in itertools.combinations([u for u, values in enumerate(choices) if values], size):
        for values in itertools.product(*(choices[u] for u in columns)):
            changed = row.clone()
            for u, value in zip(columns, values, strict=True):
                changed[ends[u] - len(value) : ends[u]] = value
            waiting.append(changed)
            if len(waiting) == batch_size and len(rows := possible()):
                yield rows
    if waiting:
        rows = possible()
        if len(rows):
            yield rows
