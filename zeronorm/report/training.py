"""The page of a training: its curves and its table of epochs, from metrics.csv and model.json alone."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zeronorm.errors import ArgumentError
from zeronorm.files import open_regular, parse_json, read_file
from zeronorm.records.figures import facts, percent
from zeronorm.report import plots

METRICS, SIDECAR = "metrics.csv", "model.json"
# what is drawn of each epoch, against the left axis in per cent
_SHARES = {
    "accuracy": "learnt, as they were learnt",
    "validation_accuracy": "held out",
    "robust_accuracy": "held out, under attack",
}
_LOSSES = {"loss": "learnt", "validation_loss": "held out"}


def is_training(folder: Path) -> bool:
    """Whether the folder is that of a training with an epoch done."""
    return (folder / METRICS).exists()


def read_metrics(folder: Path) -> list[dict[str, float | None]]:
    """The rows of metrics.csv; a cell that is empty is None."""
    try:
        with io.TextIOWrapper(open_regular(folder / METRICS), encoding="utf-8", newline="") as file:
            rows = [
                {name: float(cell) if cell else None for name, cell in row.items()}
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, TypeError) as error:
        raise ArgumentError(f"runs: {folder / METRICS} cannot be read: {error}") from None
    if not rows:
        raise ArgumentError(f"runs: expected an epoch at least in {folder / METRICS}, found none")
    return rows


def page_of(folder: Path) -> dict[str, Any]:
    """What the template of the page is told."""
    rows = read_metrics(folder)
    sidecar = _sidecar(folder)
    training, plan = sidecar.get("training", {}), sidecar.get("training", {}).get("plan", {})
    columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    return {
        "title": sidecar.get("architecture", folder.name),
        "data": sidecar.get("data", {}).get("name"),
        "plan": plan,
        "complete": bool(sidecar),
        "best": training.get("best_epoch"),
        "accuracy": sidecar.get("accuracy"),
        "robust": training.get("robust_accuracy"),
        "charts": [chart for chart in (_shares(rows), _losses(rows)) if chart],
        "columns": columns,
        "rows": [[_cell(name, row[name]) for name in columns] for row in rows],
        "provenance": _provenance(sidecar),
    }


def _sidecar(folder: Path) -> dict[str, Any]:
    """The finished model's; empty before."""
    path = folder / SIDECAR
    try:
        found = parse_json(read_file(path)) if path.exists() else {}
    except (ValueError, OSError) as error:
        raise ArgumentError(f"runs: {path} is damaged: {error}") from None
    return found if isinstance(found, dict) else {}


def _shares(rows: Sequence[dict[str, float | None]]) -> plots.Chart:
    scale, ticks = _epochs(rows)
    drawn = [(label, points) for name, label in _SHARES.items() if (points := _points(rows, name))]
    return plots.Chart(
        title="Right answers",
        xlabel="epoch",
        description="; ".join(f"{label}: {percent(points[-1][1])} % at the end" for label, points in drawn)
        + ".",
        xticks=ticks,
        lines=[
            plots.Line(f"run{i}", plots.path(points, scale), label) for i, (label, points) in enumerate(drawn)
        ],
        note="Robust methods learn adversarial examples, sparse ones within a larger budget than held-out ones meet."
        if len(drawn) == len(_SHARES)
        else "",
    )


def _losses(rows: Sequence[dict[str, float | None]]) -> plots.Chart:
    scale, ticks = _epochs(rows)
    drawn = [(label, points) for name, label in _LOSSES.items() if (points := _points(rows, name))]
    most = max(y for _, points in drawn for _, y in points)
    decade = 10.0 ** math.floor(math.log10(most)) if most > 0 else 1.0
    top = next(decade * m for m in (1, 2, 4, 10) if decade * m >= most)
    return plots.Chart(
        title="Loss",
        xlabel="epoch",
        description="; ".join(f"{label}: {points[-1][1]:.4f} at the end" for label, points in drawn) + ".",
        xticks=ticks,
        lines=[
            plots.Line(f"run{i}", plots.path([(x, y / top) for x, y in points], scale), label)
            for i, (label, points) in enumerate(drawn)
        ],
        note="Held out: cross-entropy. What is learnt may have other terms.",
        yticks=[top * i / 4 for i in range(5)],
        unit="",
    )


def _epochs(rows: Sequence[dict[str, float | None]]) -> tuple[plots.AxisScale, list[tuple[float, str]]]:
    last = len(rows)
    every = next(s for m in (1, 10, 100, 1000, 10**4) for s in (m, 2 * m, 5 * m) if last / s <= 8)
    scale: plots.AxisScale = lambda epoch: (epoch - 1) / max(last - 1, 1)  # noqa: E731
    return scale, [
        (100 * scale(e), f"{e:,}") for e in (1, *range(every, last + 1, every)) if e == 1 or e > every / 2
    ]


def _points(rows: Sequence[dict[str, float | None]], name: str) -> list[tuple[float, float]]:
    return [
        (float(epoch), value)
        for epoch, row in enumerate(rows, start=1)
        if (value := row.get(name)) is not None and math.isfinite(value)
    ]


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    if name == "epoch":
        return f"{value:,.0f}"
    if name.endswith("accuracy"):
        return f"{percent(value)} %"
    return f"{value:.4g}"


def _provenance(sidecar: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Where the model comes from: (what, lines), without what the sidecar does not say."""
    training, data = sidecar.get("training", {}), sidecar.get("data", {})
    entries: list[tuple[str, list[Any]]] = [
        ("Model", [sidecar.get("architecture"), sidecar.get("digest")]),
        ("Data", [data.get("name"), data.get("digest")]),
        ("Plan", [f"{name.replace('_', ' ')}: {value}" for name, value in training.get("plan", {}).items()]),
        ("Versions", [", ".join(f"{name} {v}" for name, v in sidecar.get("versions", {}).items()) or None]),
        ("Time", [f"{training['seconds']} s on {training.get('device')}" if "seconds" in training else None]),
        ("Command", [training.get("command")]),
    ]
    return facts(entries)
