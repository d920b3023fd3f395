"""The page of a sweep over sparsity: how far a network may be pruned before it becomes easier to attack.

Reads sweep.jsonl alone: one row for each model, which names its reference and its round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zeronorm.errors import ArgumentError
from zeronorm.files import json_lines, parse_json, read_file
from zeronorm.records.figures import percent
from zeronorm.report import plots

ROWS, ASKED = "sweep.jsonl", "sweep.json"  # the models measured, and what was asked
DEAD = "the network itself"  # what falls where a network is dead
TOLERANCE = 0.05  # a measure that falls by this share of its dense value has fallen

SweepRow = dict[str, Any]


class Measure(NamedTuple):
    """Something measured of every model; its values by round, one for each reference."""

    name: str
    values: list[list[float]]
    share: bool  # of examples, or a distance

    @property
    def means(self) -> list[float]:
        """By round."""
        return [float(np.mean(of_round)) for of_round in self.values]

    def falls(self) -> list[bool | None]:
        """By round, whether it has fallen: the mean by `TOLERANCE`, and no reference is within the band of round 0.

        None where the mean has fallen so far and the bands still meet: chance may have done it.
        """
        least, low = (1 - TOLERANCE) * self.means[0], min(self.values[0])
        return [
            None if mean < least and max(of) >= low else mean < least
            for mean, of in zip(self.means, self.values, strict=True)
        ]

    def last_unharmed(self) -> int:
        """The last round before it has fallen."""
        falls = self.falls()
        return falls.index(True) - 1 if True in falls else len(falls) - 1


class PruningVerdict(NamedTuple):
    """How far to prune: the last round at which nothing has fallen."""

    until: int
    falls: list[str]  # what has at the next round, none where the sweep ends
    doubtful: dict[
        str, int
    ]  # what is not told apart from round 0 though its mean is lower, and from which round


def is_sweep(folder: Path) -> bool:
    """Whether the folder is that of a sweep with a model measured."""
    return (folder / ROWS).exists()


def read_rows(folder: Path) -> list[SweepRow]:
    """The rows of a sweep; a line that was cut off by a crash is left out."""
    try:
        text = read_file(folder / ROWS).decode()
    except (OSError, ValueError) as error:
        raise ArgumentError(f"runs: {folder / ROWS} cannot be read: {error}") from None
    rows = json_lines(text, lambda number, _: f"runs: {folder / ROWS} is damaged in line {number}")
    if not rows:
        raise ArgumentError(f"runs: expected a model at least in {folder / ROWS}, found none")
    return rows


def measures(rows: Sequence[SweepRow]) -> tuple[list[float], list[Measure]]:
    """Sparsities by round, and what was measured in all rounds of all references, dead models apart.

    Only rounds that every reference has count, up to the first with a dead model.
    """
    by_round: dict[int, list[SweepRow]] = {}
    for row in rows:
        by_round.setdefault(row["round"], []).append(row)
    references = len(by_round[min(by_round)])
    rounds: list[list[SweepRow]] = []
    for number in sorted(by_round):
        if number != len(rounds) or len(by_round[number]) < references:
            break
        if any(row["dead"] for row in by_round[number]):
            break
        rounds.append(by_round[number])
    if not rounds:
        raise ArgumentError("runs: expected a first round without dead networks, found none")
    first = rounds[0][0]
    said: list[tuple[str, tuple[str, ...], bool]] = [("clean accuracy", ("clean",), True)]
    said += [(f"r∞, {name}", ("r_inf", name), True) for name in first["r_inf"]]
    said += [(f"r2, {name}", ("r_2", name), False) for name in first["r_2"]]
    said += [(f"robust accuracy, k = {k}", ("robust", k), True) for k in first["robust"] or {}]
    said += [(f"proved radius, {norm}", ("proved", norm), False) for norm in first["proved"] or {}]
    found = [
        Measure(name, [[_at(row, place) for row in of] for of in rounds], share)
        for name, place, share in said
    ]
    sparsities = [float(np.mean([row["sparsity"] for row in of])) for of in rounds]
    return sparsities, found


def _at(row: SweepRow, place: Sequence[str]) -> float:
    value: Any = row
    for name in place:
        value = value[name]
    return float(value)


def verdict(rows: Sequence[SweepRow], found: Sequence[Measure]) -> PruningVerdict:
    """How far to prune, judged by the bands over the references.

    Proved radii do not count: they say as much about the proof as about the network.  A network that is dead at the
    round after the last one measured has fallen there.
    """
    judged = [m for m in found if not m.name.startswith("proved")]
    until, last = min(m.last_unharmed() for m in judged), len(found[0].values) - 1
    falls = [m.name for m in judged if until < last and m.falls()[until + 1]]
    if until == last and any(row["dead"] and row["round"] == last + 1 for row in rows):
        falls = [DEAD]
    seen = {m.name: m.falls()[: until + 2] for m in judged}
    return PruningVerdict(until, falls, {name: of.index(None) for name, of in seen.items() if None in of})


def page_of(folder: Path) -> dict[str, Any]:
    """What the template of the page is told."""
    rows = read_rows(folder)
    sparsities, found = measures(rows)
    until, falls, doubtful = verdict(rows, found)
    asked = parse_json(read_file(folder / ASKED)) if (folder / ASKED).exists() else {}
    charts = [
        _chart("Right answers", sparsities, [m for m in found if m.share], until, bool(falls)),
        *(_chart(m.name, sparsities, [m], until, bool(falls)) for m in found if not m.share),
    ]
    return {
        "title": ", ".join(asked.get("model", [folder.name])),
        "data": asked.get("data"),
        "asked": [(name.replace("_", " "), [_said(value)]) for name, value in asked.items()],
        "until": percent(sparsities[until]),
        "falls": " and ".join(falls),
        "dead_next": falls == [DEAD],
        "doubtful": [(name, percent(sparsities[i])) for name, i in doubtful.items()],
        "tolerance": f"{100 * TOLERANCE:g}",
        "references": len({row["reference"] for row in rows}),
        "dead": [
            f"reference {row['reference']}, round {row['round']}: {row['dead']}"
            for row in rows
            if row["dead"]
        ],
        "charts": charts,
        "columns": ["round", "zero weights", "zero activations", *(m.name for m in found)],
        "rows": [
            [str(i), f"{percent(sparsity)} %", _activations(rows, i), *(_cell(m, i) for m in found)]
            for i, sparsity in enumerate(sparsities)
        ],
        "unharmed": [(m.name, f"{percent(sparsities[m.last_unharmed()])} %") for m in found],
    }


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _activations(rows: Sequence[SweepRow], number: int) -> str:
    return f"{percent(float(np.mean([r['activation_sparsity'] for r in rows if r['round'] == number])))} %"


def _cell(measure: Measure, number: int) -> str:
    values = measure.values[number]
    scale, digits, unit = (100, 1, " %") if measure.share else (1, 3, "")
    spread = f" ± {scale * float(np.std(values, ddof=1)):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * float(np.mean(values)):.{digits}f}{spread}{unit}"


def _chart(
    title: str, sparsities: Sequence[float], drawn: Sequence[Measure], until: int, fell: bool
) -> plots.Chart:
    """Means against sparsity, with a band from the lowest to the highest reference.

    Each tenfold of the weights left takes the same room.
    """
    end = -math.log10(max(1 - sparsities[-1], 1e-6)) or 1.0
    scale: plots.AxisScale = lambda s: -math.log10(max(1 - s, 1e-6)) / end  # noqa: E731
    ticks = [
        s for s in (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999) if s <= sparsities[-1] + 1e-9
    ]
    top = 1.0
    if not drawn[0].share:
        most = max(max(of) for m in drawn for of in m.values) or 1.0
        decade = 10.0 ** math.floor(math.log10(most))
        top = next(decade * m for m in (1, 2, 4, 10) if decade * m >= most)

    def line(i: int, m: Measure) -> plots.Line:
        corners = [(s, y / top) for s, y in zip(sparsities, m.means, strict=True)]
        low = [(s, min(of) / top) for s, of in zip(sparsities, m.values, strict=True)]
        high = [(s, max(of) / top) for s, of in zip(sparsities, m.values, strict=True)]
        band = plots.path([*low, *reversed(high)], scale) + "Z" if len(m.values[0]) > 1 else ""
        return plots.Line(
            f"run{i % 6}", plots.path(corners, scale), m.name if len(drawn) > 1 else "", band=band
        )

    said = "; ".join(f"{m.name}: from {_cell(m, 0)} to {_cell(m, len(sparsities) - 1)}" for m in drawn)
    return plots.Chart(
        title=title,
        xlabel="weights that are zero",
        description=f"{said}.",
        xticks=[(100 * scale(s), f"{100 * s:g} %") for s in ticks],
        lines=[line(i, m) for i, m in enumerate(drawn)],
        mark=(100 * scale(sparsities[until]), "not beyond") if fell else None,
        note="Bands: from the lowest to the highest reference." if len(drawn[0].values[0]) > 1 else "",
        yticks=[0, 25, 50, 75, 100] if drawn[0].share else [top * i / 4 for i in range(5)],
        unit=" %" if drawn[0].share else "",
    )
