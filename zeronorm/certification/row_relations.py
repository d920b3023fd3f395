"""Values inside a box of a table's columns that satisfy linear relations, with as few changed columns as can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import Bounds, LinearConstraint, milp


def fewest_changes(
    relations: Sequence[tuple[Sequence[tuple[float, int]], str, float]],
    own: Float[np.ndarray, "c"],
    low: Float[np.ndarray, "c"],
    high: Float[np.ndarray, "c"],
    changed: Bool[np.ndarray, "c"],
    whole: Bool[np.ndarray, "c"],
) -> Float[np.ndarray, "c"] | None:
    """Values in [low, high] of the columns in `relations`, or None where there are none.

    A relation is its terms (coefficient, column), "=" or "<=", and a constant.  Columns not `changed` keep their own
    value if they can: as few of them as possible move, which a mixed-integer program of HiGHS decides.
    """
    c = len(own)
    # values, then whether each moves
    weights = np.concatenate([np.zeros(c), np.where(changed, 0.0, 1.0)])
    rows, below, above = [], list[float](), list[float]()

    def constrain(row: Any, at_least: float, at_most: float) -> None:
        rows.append(row)
        below.append(at_least)
        above.append(at_most)

    for terms, sense, constant in relations:
        row = np.zeros(2 * c)
        for coefficient, column in terms:
            row[column] += coefficient
        constrain(row, constant if sense == "=" else -np.inf, constant)
    for u in np.flatnonzero(~changed).tolist():
        for end, upper in ((high[u], True), (low[u], False)):
            row = np.zeros(2 * c)
            row[u], row[c + u] = 1.0, own[u] - end  # value <= own + (high - own) * moves
            constrain(row, -np.inf if upper else own[u], own[u] if upper else np.inf)
    bounds = Bounds(np.concatenate([low, np.zeros(c)]), np.concatenate([high, np.ones(c)]))
    kinds = np.concatenate([whole.astype(np.int64), np.ones(c, np.int64)])
    found = milp(
        weights, constraints=LinearConstraint(np.array(rows), below, above), bounds=bounds, integrality=kinds
    )
    if found.x is None:
        return None
    moved = changed | (found.x[c:] > 0.5)
    values = np.where(moved, np.clip(found.x[:c], low, high), own)
    values = np.where(whole & moved, np.round(values), values)
    # an equation holds to the solver's tolerance: one real column makes it hold to rounding
    for terms, sense, constant in relations:
        if sense == "=":
            real = [(coefficient, u) for coefficient, u in terms if moved[u] and not whole[u]]
            if real:
                coefficient, u = max(
                    real,
                    key=lambda term: min(values[term[1]] - low[term[1]], high[term[1]] - values[term[1]]),
                )
                rest = sum(b * values[v] for b, v in terms if v != u)
                values[u] = min(max((constant - rest) / coefficient, low[u]), high[u])
    return values
