"""The smallest number of changed columns that flips a classifier of trees, by asking the library about every cell.

Nothing of the prover is used: for each column the values at and beside every threshold, and the ends of its range.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch

NEVER = 2**63 - 1


def candidates(schema, trees, row, dtype):
    """For each column the ways it may be written, each a tuple of features, the row's own first."""
    found = []
    for column, place in zip(schema.columns, schema.slices, strict=True):
        own = tuple(row[place].tolist())
        if column.one_hot:
            options = [tuple(float(i == j) for j in range(column.width)) for i in range(column.width)]
        else:
            if column.kind == "category":
                values = np.arange(len(column.categories), dtype=np.float64)
            elif column.is_whole:
                values = np.arange(column.bounds[0], column.bounds[1] + 1)
            else:
                values = beside(trees, place.start, *column.bounds, dtype)
                if column.by is not None:
                    ends = (
                        torch.tensor(own, dtype=dtype) + torch.tensor([-column.by, column.by], dtype=dtype)
                    ).double()
                    values = np.concatenate(
                        [values, ends.numpy(), beside(trees, place.start, *ends.tolist(), dtype)]
                    )
                values = np.concatenate([values, list(own)])
            options = [(float(v),) for v in values]
            if column.missing and trees.takes_missing[place.start]:
                options.append((math.nan,))
        possible = torch.tensor(options, dtype=dtype)
        rows = torch.tensor(np.repeat(row[None].numpy(), len(options), 0))
        changed = rows.clone()
        changed[:, place] = possible
        kept = possible[schema.possible(rows, changed)].unique(dim=0).tolist()
        others = [tuple(option) for option in kept if not same(option, own)]
        found.append([own, *others])
    return found


def same(a, b):
    return all(p == q or (math.isnan(p) and math.isnan(q)) for p, q in zip(a, b, strict=True))


def beside(trees, feature, low, high, dtype):
    """Values of a type at, just below and just above each threshold, and half way between, inside [low, high]."""
    kind = np.float32 if dtype == torch.float32 else np.float64
    thresholds = np.unique(trees.threshold[trees.feature == feature])
    thresholds = thresholds[np.isfinite(thresholds)]
    points = [low, high, *thresholds]
    for single in thresholds.astype(np.float32):
        below, above = np.nextafter(single, np.float32(-np.inf)), np.nextafter(single, np.float32(np.inf))
        points += [
            below,
            single,
            above,
            (float(below) + float(single)) / 2,
            (float(above) + float(single)) / 2,
        ]
    ordered = np.unique(np.array(points, np.float64))
    points = np.concatenate([ordered, (ordered[1:] + ordered[:-1]) / 2])
    points = points.astype(kind)
    points = np.concatenate([points, np.nextafter(points, kind(-np.inf)), np.nextafter(points, kind(np.inf))])
    points = np.unique(points.astype(np.float64))
    points = points[(points >= low) & (points <= high)]
    # one of each cell is enough: the leaves reached are the same
    cell = np.searchsorted(
        thresholds, points.astype(np.float32).astype(np.float64) if trees.cast == "float32" else points
    )
    return points[np.unique(cell, return_index=True)[1]]


def smallest(schema, model, row, dtype, answer, most=None):
    """The smallest number of columns, and a row; `NEVER` where none flips (up to `most` columns)."""
    options = candidates(schema, model.trees, row, dtype)
    n = len(options)
    for k in range(1, (n if most is None else most) + 1):
        for chosen in itertools.combinations(range(n), k):
            writes = list(itertools.product(*(options[u][1:] for u in chosen)))
            if not writes:
                continue
            rows = row.repeat(len(writes), 1)
            for at, u in enumerate(chosen):
                rows[:, schema.slices[u]] = torch.tensor([w[at] for w in writes], dtype=dtype)
            flipped = model.answers(rows.numpy()) != answer
            if flipped.any():
                return k, rows[int(flipped.argmax())]
    return NEVER, row
