"""Adversarials of one model on the others: one fresh pass for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from zeronorm.attacks.batch_under_attack import Model
from zeronorm.data import Dataset, Stream
from zeronorm.evaluation.fresh_pass import device_of, predict, rebuild, verdict
from zeronorm.records.folders import ComparisonFolder, Row, finite
from zeronorm.threat_model import L0

_BATCH = 256


def transfer(
    folder: ComparisonFolder,
    runs: Sequence[Mapping[str, str]],
    models: Mapping[str, Model],
    dataset: Dataset | Stream,
    threat: L0,
    on_batch: Callable[[str, str, int, int, int], None] | None = None,
) -> Iterator[Row]:
    """Try every stored adversarial of every run on every model but its own; rows as `records.TRANSFERS`.

    Args:
        folder: of a comparison whose `runs` (model, attack, path) are complete.
        models: by name, each where its parameters are.
        dataset, threat: of all runs.
        on_batch: told the run, the target, how many were tried, of how many, and how many the target got right.
    """
    position = {int(id_): i for i, id_ in enumerate(dataset.ids.tolist())}
    for run in runs:
        rows = [row for row in folder.run(run["path"]).read_rows().to_pylist() if row["outcome"] == "broken"]
        for target, model in models.items():
            if target == run["model"]:
                continue
            done = right = 0
            for some in (rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH)):
                tried = list(_tried(some, run["path"], target, model, dataset, position, threat))
                yield from tried
                done, right = done + len(tried), right + sum(row["outcome"] == "robust" for row in tried)
                if on_batch is not None:
                    on_batch(run["path"], target, done, len(rows), right)


def _tried(
    rows: Sequence[Row],
    source: str,
    target: str,
    model: Model,
    dataset: Dataset | Stream,
    position: Mapping[int, int],
    threat: L0,
) -> Iterator[Row]:
    device = device_of(model)
    at = [position[row["example"]] for row in rows]
    x = dataset.x[at]
    x_adv = torch.cat([rebuild(x[j : j + 1], row, threat) for j, row in enumerate(rows)])
    found = verdict(predict(model, x_adv.to(device)), dataset.y[at].to(device))
    for row, prediction, wrong, margin in zip(rows, *found, strict=True):
        yield {
            "source": source,
            "example": row["example"],
            "k": row["k"],
            "stage": row["stage"],
            "distance": row["distance"],
            "target": target,
            "outcome": "broken" if wrong else "robust",
            "prediction": prediction,
            "margin": finite(margin),
        }


def check_transfers(claimed: Sequence[Row], found: Sequence[Row]) -> list[str]:
    """What the stored rows say against those of a fresh try, in words."""

    def by_key(rows: Sequence[Row]) -> dict[tuple[Any, ...], Row]:
        return {(r["source"], r["target"], r["example"], r["k"], r["stage"]): r for r in rows}

    problems: list[str] = []
    told, fresh = by_key(claimed), by_key(found)
    if len(told) < len(claimed):
        problems.append(f"transfer: {len(claimed) - len(told)} rows are doubled")
    if missing := len(fresh.keys() - told.keys()):
        problems.append(f"transfer: {missing} rows are missing")
    if surplus := len(told.keys() - fresh.keys()):
        problems.append(f"transfer: {surplus} rows are of adversarials that the runs do not have")
    for key in sorted(told.keys() & fresh.keys()):
        mine, now = told[key], fresh[key]
        for what in ("distance", "outcome", "prediction"):
            if mine[what] != now[what]:
                problems.append(f"{_who(mine)}: {what} is {now[what]}, the comparison says {mine[what]}")
        margins = [math.inf if row["margin"] is None else row["margin"] for row in (mine, now)]
        if not math.isclose(*margins, rel_tol=1e-3, abs_tol=1e-4):
            problems.append(f"{_who(mine)}: margin is {now['margin']}, the comparison says {mine['margin']}")
    return problems


def _who(row: Row) -> str:
    return f"transfer of {row['source']} to {row['target']}, example {row['example']} (k={row['k']})"
