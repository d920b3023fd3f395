"""Step charts as plain numbers: the page draws them in SVG that stretches, with labels that do not.

Lines live in a square of 1000 by 1000 stretched over the plot, labels in per cent of its sides, so that one
chart fits a phone and a wide screen with text of the same size, and takes its colours from the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from zeronorm.metrics import interval
from zeronorm.report.tables import Summary, percent

Scale = Callable[[float], float]  # from a value to 0..1 along the axis
Points = Sequence[tuple[float, float]]

_LINES = 6  # colours of the page
_GAP = 9.0  # between labels at the lines' ends, in per cent of the height


@dataclass(frozen=True)
class Line:
    """One step line and the page's colour for it; a label in the legend, or at its end with a lead to it."""

    colour: str
    path: str
    label: str = ""
    label_top: float | None = None
    lead: str = ""
    band: str = ""
    dots: str = ""


@dataclass(frozen=True)
class Chart:
    """A share in per cent against `xlabel`; `description` says in words what is drawn."""

    title: str
    xlabel: str
    description: str
    xticks: list[tuple[float, str]]
    lines: list[Line]
    mark: tuple[float, str] | None = None  # a vertical line with its label
    note: str = ""
    yticks: list[int] = field(default_factory=lambda: [0, 25, 50, 75, 100])


def against_k(summary: Summary) -> Chart:
    """Robust accuracy against the number of changed positions, with its interval."""
    last = len(summary.curve) - 1
    scale, ticks = _budget_axis(last, summary.budgets)
    steps, end = _steps(summary), float(last)
    bounds = [(k, *interval(round(y * summary.n), summary.n)) for k, y in steps]
    lower = _stairs([(k, low) for k, low, _ in bounds], end)
    upper = _stairs([(k, high) for k, _, high in bounds], end)
    searched = [] if summary.is_curve else [(float(k), summary.curve[k] / summary.n) for k in summary.budgets]
    mark = None
    if summary.median is not None and 0 < summary.median.median < math.inf:
        mark = (100 * scale(summary.median.median), f"median {summary.median.median:g}")
    ends = ", ".join(f"{percent(summary.robust_accuracy[k].value)} % at {k}" for k in summary.budgets)
    return Chart(
        title=f"Right answers against changed {summary.unit}s",
        xlabel=f"{summary.unit}s the adversary may change",
        description=f"Step curve: {percent(summary.clean_accuracy.value)} % at 0, {ends}.",
        xticks=[(100 * scale(k), f"{k:,}") for k in ticks],
        lines=[
            Line(
                "main",
                _path(_stairs(steps, end), scale),
                band=_path([*lower, *reversed(upper)], scale) + "Z",
                dots="".join(f"M{1000 * scale(x):.1f} {1000 - 1000 * y:.1f}h0" for x, y in searched),
            )
        ],
        mark=mark,
        note=""
        if summary.is_curve
        else "Dots: the budgets searched. Between them the line is only an upper bound.",
    )


def against_passes(summary: Summary) -> Chart | None:
    """Robust accuracy against the passes spent on an example, for each budget; None if nothing was searched."""
    most = max((effort.most for effort in summary.effort.values()), default=0)
    if not most:
        return None
    first = min((int(e.fell[0]) for e in summary.effort.values() if len(e.fell)), default=most)
    low = math.floor(math.log10(max(first, 1)))
    high = max(math.ceil(math.log10(most)), low + 1)

    def scale(x: float) -> float:
        return (math.log10(max(x, 1)) - low) / (high - low)

    budgets = summary.budgets
    if len(budgets) > _LINES:
        budgets = [budgets[i] for i in np.linspace(0, len(budgets) - 1, _LINES).round().astype(int)]
    curves = []
    for k in budgets:
        effort = summary.effort[k]
        if not effort.most:
            continue
        # at most a step per pixel: where examples fell, thinned to a fine grid of the axis
        grid = np.unique(np.searchsorted(effort.fell, np.logspace(low, high, 400), side="right"))
        points = [(10.0**low, effort.start / summary.n)]
        points += [(float(effort.fell[i - 1]), (effort.start - int(i)) / summary.n) for i in grid if i]
        curves.append((f"k = {k}", points, float(effort.most)))
    queries = all(stage.backwards == 0 for stage in summary.stages)
    unit = "queries" if queries else "passes"
    every = 1 if high - low <= 6 else 2
    return Chart(
        title=f"Right answers against {unit}",
        xlabel=f"{'queries' if queries else 'forward + backward passes'} per example",
        description="; ".join(
            f"{label}: from {percent(points[0][1])} % to {percent(points[-1][1])} % within {end:,.0f} {unit}"
            for label, points, end in curves
        )
        + ".",
        xticks=[(100 * scale(10.0**p), f"{10**p:,}") for p in range(low, high + 1, every)],
        lines=_labelled([(label, _stairs(points, end)) for label, points, end in curves], scale),
        note="A line still falling at its end: a longer search would break more."
        + (
            ""
            if summary.is_curve or len(budgets) == 1
            else " Each budget starts from what the smaller ones left."
        ),
    )


def compared(summaries: Sequence[tuple[str, Summary]]) -> Chart:
    """Robust accuracy against k of several runs, each by its label."""
    last = max(len(summary.curve) - 1 for _, summary in summaries)
    scale, ticks = _budget_axis(last, sorted({k for _, s in summaries for k in s.budgets}))
    shown = [(label, s) for label, s in summaries if s.n][:_LINES]
    units = " or ".join(sorted({f"{summary.unit}s" for _, summary in shown}))
    return Chart(
        title=f"Right answers against changed {units}",
        xlabel=f"{units} the adversary may change",
        description="; ".join(
            f"{label}: {percent(s.clean_accuracy.value)} % at 0, {percent(s.curve[-1] / s.n)} % at "
            f"{len(s.curve) - 1}"
            for label, s in shown
        )
        + ".",
        xticks=[(100 * scale(k), f"{k:,}") for k in ticks],
        lines=[
            Line(f"run{i}", _path(_stairs(_steps(s), float(len(s.curve) - 1)), scale), label)
            for i, (label, s) in enumerate(shown)
        ],
    )


def _steps(summary: Summary) -> list[tuple[float, float]]:
    """Where the curve over k changes, as (k, share)."""
    changes = np.flatnonzero(np.diff(summary.curve, prepend=-1))
    return [(float(k), float(summary.curve[k] / summary.n)) for k in changes]


def _budget_axis(last: int, budgets: Sequence[int]) -> tuple[Scale, list[int]]:
    """Even steps up to 40 positions; beyond, each doubling takes the same room."""
    if last <= 40:
        step = next(s for s in (1, 2, 4, 5, 10) if last / s <= 8)
        return lambda k: k / max(last, 1), list(range(0, last + 1, step))
    width = math.log2(1 + last)
    ticks = [0]
    for k in [k for k in budgets if 0 < k < last]:  # as many as have room
        if math.log2((1 + k) / (1 + ticks[-1])) > 0.11 * width < math.log2((1 + last) / (1 + k)) + 1e-9:
            ticks.append(k)
    return lambda k: math.log2(1 + k) / width, [*ticks, last]


def _stairs(points: Points, end: float) -> list[tuple[float, float]]:
    """The corners of the line that holds each value until the next point, and the last until `end`."""
    corners = [points[0]]
    for x, y in points[1:]:
        corners += [(x, corners[-1][1]), (x, y)]
    return [*corners, (max(end, corners[-1][0]), corners[-1][1])]


def _path(corners: Points, scale: Scale) -> str:
    return "M" + "L".join(f"{1000 * scale(x):.1f} {1000 - 1000 * y:.1f}" for x, y in corners)


def _labelled(curves: Sequence[tuple[str, Points]], scale: Scale) -> list[Line]:
    """Lines from light to dark, with labels beside their ends, moved apart where they would overlap."""
    ends = [100 - 100 * corners[-1][1] for _, corners in curves]
    tops = list(ends)
    order = sorted(range(len(tops)), key=lambda i: (tops[i], i))
    for above, below in pairwise(order):
        tops[below] = max(tops[below], tops[above] + _GAP)
    bottom = 100.0
    for i in reversed(order):  # and back up into the plot
        tops[i] = min(tops[i], bottom)
        bottom = tops[i] - _GAP
    tones = np.linspace(0, _LINES - 1, len(curves)).round().astype(int) if len(curves) > 1 else [_LINES - 3]
    return [
        Line(
            f"ramp{tone}",
            _path(corners, scale),
            label,
            top,
            lead=f"M{1000 * scale(corners[-1][0]):.1f} {10 * end:.1f}H1000L1015 {10 * top:.1f}",
        )
        for tone, top, end, (label, corners) in zip(tones, tops, ends, curves, strict=True)
    ]
