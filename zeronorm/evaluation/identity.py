"""Whether a model is the one that a folder's rows are of: some clean examples, drawn anew each time, are asked again.

A digest of weights identifies a network; of a function, a black box or a network with weights elsewhere a name is all
there is, and a name identifies nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import SystemRandom
from typing import Any

from zeronorm.attacks.batch_under_attack import Model
from zeronorm.data import Dataset, Stream
from zeronorm.errors import ArgumentError
from zeronorm.evaluation.fresh_pass import predict, verdict

ASKED = 16  # examples


def check_answers(
    model: Model, examples: Dataset | Stream, rows: Sequence[Mapping[str, Any]], folder: Path
) -> None:
    """`ArgumentError` unless the model answers some clean examples as their rows say, in prediction and margin.

    Of a model that answers differently each time, most predictions have to be those of the rows.
    """
    place = {example: i for i, example in enumerate(examples.ids.tolist())}
    clean = [row for row in rows if row["stage"] == -1 and row["example"] in place]
    some = SystemRandom().sample(clean, min(ASKED, len(clean)))
    if not some:
        return
    asked = examples.at([place[row["example"]] for row in some])
    found = verdict(predict(model, asked.x), asked.y)
    others = [
        (row, prediction, margin)
        for row, prediction, margin in zip(some, found.prediction, found.margin, strict=True)
        if prediction != row["prediction"] or not alike(row["margin"], margin)
    ]
    if not others:
        return
    again = verdict(predict(model, asked.x), asked.y)
    moves = any(not alike(one, other) for one, other in zip(found.margin, again.margin, strict=True))
    same = sum(p == row["prediction"] for row, p in zip(some, found.prediction, strict=True))
    if moves and 2 * same > len(some):
        return
    row, prediction, margin = others[0]
    raise ArgumentError(
        f"out: {folder} holds the answers of another model: of {row['name'] or row['example']} it predicted "
        f"{row['prediction']} (margin {shown(row['margin'])}), this one {prediction} ({shown(margin)}), and "
        f"{len(others)} of {len(some)} differ; choose another folder"
    )


def alike(claimed: float | None, found: float) -> bool:
    """Whether two margins are one up to rounding; None stands for one that is infinite."""
    if claimed is None or not math.isfinite(found):
        return claimed is None and not math.isfinite(found)
    return math.isclose(claimed, found, rel_tol=1e-3, abs_tol=1e-4)


def shown(margin: float | None) -> str:
    """A margin in few characters."""
    return "infinite" if margin is None or not math.isfinite(margin) else f"{margin:.4g}"
