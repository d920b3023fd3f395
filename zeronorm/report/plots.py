"""Step charts as plain numbers: the page draws them in SVG that stretches, with labels that do not.

Lines live in a square of 1000 by 1000 stretched over the plot, labels in per cent of its sides, so that one
chart fits a phone and a wide screen with text of the same size, and takes its colours from the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from zeronorm.records.certificate_figures import CertificateSummary
from zeronorm.records.comparison_figures import Entry, ModelFigures
from zeronorm.records.figures import Effort, Ints, Share, Summary, percent

AxisScale = Callable[[float], float]  # from a value to 0..1 along the axis
Points = Sequence[tuple[float, float]]
Floats = npt.NDArray[np.float64]

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
    bars: str = ""


@dataclass(frozen=True)
class Chart:
    """A share in per cent, or what `unit` says, against `xlabel`; `description` says in words what is drawn."""

    title: str
    xlabel: str
    description: str
    xticks: list[tuple[float, str]]
    lines: list[Line]
    mark: tuple[float, str] | None = None  # a vertical line with its label
    note: str = ""
    yticks: list[int] | list[float] = field(
        default_factory=lambda: [0, 25, 50, 75, 100]
    )  # the last one is the top
    unit: str = " %"  # behind the numbers of the axis
    small: bool = False


def against_k(summary: Summary) -> Chart | None:
    """Robust accuracy against the number of changed positions, with its interval; None within an ℓ∞ ball."""
    if summary.epsilon is not None:
        return None
    last = len(summary.curve) - 1
    scale, ticks = _budget_axis(last, summary.budgets)
    steps, end = _steps(summary.curve, summary.n), float(last)
    bounds = [(k, *Share(round(y * summary.n), summary.n).interval) for k, y in steps]
    lower = _stairs([(k, low) for k, low, _ in bounds], end)
    upper = _stairs([(k, high) for k, _, high in bounds], end)
    searched = [] if summary.is_curve else [(float(k), summary.curve[k] / summary.n) for k in summary.budgets]
    mark = None
    if summary.median is not None and 0 < summary.median.median < math.inf:
        mark = (100 * scale(summary.median.median), f"median {summary.median.median:g}")
    proved = _proved(summary)
    ends = ", ".join(f"{percent(summary.robust_accuracy[k].value)} % at {k}" for k in summary.budgets)
    return Chart(
        title=f"Right answers against changed {summary.unit}s",
        xlabel=f"{summary.unit}s the adversary may change",
        description=f"Step curve: {percent(summary.clean_accuracy.value)} % at 0, {ends}.",
        xticks=[(100 * scale(k), f"{k:,}") for k in ticks],
        lines=[
            Line(
                "main",
                path(_stairs(steps, end), scale),
                band=path([*lower, *reversed(upper)], scale) + "Z",
                dots="".join(f"M{1000 * scale(x):.1f} {1000 - 1000 * y:.1f}h0" for x, y in searched),
                label="" if proved is None else "left by every search",
            ),
            *([] if proved is None else [Line("run1", path(_stairs(proved, end), scale), "proved")]),
        ],
        mark=mark,
        note=" ".join(
            (
                []
                if summary.is_curve
                else ["Dots: the budgets searched. Between them the line is only an upper bound."]
            )
            + ([] if proved is None else [_between(summary)])
        ),
    )


def _proved(summary: Summary) -> list[tuple[float, float]] | None:
    """The steps of what is proved: at a budget that was not asked for, what is at the next one."""
    if summary.certified is None:
        return None
    budgets = sorted(k for k in summary.certified if k > 0)
    starts = [1, *(k + 1 for k in budgets[:-1])]
    points = [(float(k), summary.certified[to].value) for k, to in zip(starts, budgets, strict=True)]
    return [(0.0, summary.clean_accuracy.value), *points]


def _between(summary: Summary) -> str:
    """What is said of the room between the two lines."""
    unknown = {k: summary.unknown(k) for k in summary.budgets}
    open_ = [f"{percent(share.value)} % at {k}" for k, share in unknown.items() if share.count]
    if not open_:
        return "Proof and search meet: the figures are exact."
    return f"Between the lines is what is not known: {', '.join(open_)}."


def against_passes(summary: Summary) -> Chart | None:
    """Robust accuracy against the passes spent on an example, for each budget; None if nothing was searched."""
    axis = _log_axis([effort.fell for effort in summary.effort.values()], summary.effort.values())
    if axis is None:
        return None
    scale, ticks, grid = axis
    budgets = evenly(summary.budgets, _LINES)
    curves = [
        (summary.label(k), _falling(summary.effort[k], summary.n, grid), float(summary.effort[k].most))
        for k in budgets
        if summary.effort[k].most
    ]
    queries = all(stage.backwards == 0 for stage in summary.stages)
    unit = "queries" if queries else "passes"
    return Chart(
        title=f"Right answers against {unit}",
        xlabel=f"{'queries' if queries else 'forward + backward passes'} per example",
        description="; ".join(
            f"{label}: from {percent(points[0][1])} % to {percent(points[-1][1])} % within {end:,.0f} {unit}"
            for label, points, end in curves
        )
        + ".",
        xticks=ticks,
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
    return _several_against_k(
        units, [(f"run{i}", label, s.curve, s.n) for i, (label, s) in enumerate(shown)], scale, ticks
    )


def certified_against_k(
    certified: Sequence[tuple[str, CertificateSummary]], attacked: Sequence[tuple[str, Summary]]
) -> Chart:
    """Shares proved right against k, lower bounds, with those that attacks left, upper bounds."""
    lower = [
        (label, np.array([share.count for share in summary.shares]), summary.n)
        for label, summary in certified
    ]
    upper = [(label, summary.curve, summary.n) for label, summary in attacked]
    last = max(len(curve) - 1 for _, curve, _ in lower)
    scale, ticks = _budget_axis(last, [k for _, summary in certified for k in summary.shown])
    drawn = [*lower, *((label, curve[: last + 1], n) for label, curve, n in upper)][:_LINES]
    chart = _several_against_k(
        "pixels", [(f"run{i}", label, curve, n) for i, (label, curve, n) in enumerate(drawn)], scale, ticks
    )
    note = "Certified lines are lower bounds" + (", attacked ones upper bounds." if upper else ".")
    return replace(chart, title="Proved right against changed pixels", note=note)


def attacks_against_k(model: ModelFigures) -> Chart | None:
    """Robust accuracy against k of every attack on a model, and of all together; None within an ℓ∞ ball."""
    first = model.entries[0].summary
    if first.epsilon is not None:
        return None
    scale, ticks = _budget_axis(len(first.curve) - 1, first.budgets)
    together = [("worst", "all together", model.curve, model.n)] if len(model.entries) > 1 else []
    lines = [(colour, entry.attack, entry.summary.curve, model.n) for colour, entry in _drawn(model)]
    return replace(
        _several_against_k(f"{first.unit}s", [*together, *lines], scale, ticks),
        note=" ".join(
            filter(
                None,
                [
                    "" if first.is_curve else "Between the budgets searched a line is only an upper bound.",
                    _undrawn(model),
                ],
            )
        ),
    )


def attacks_against_passes(model: ModelFigures) -> Chart | None:
    """Robust accuracy at one budget against the passes spent on an example; None if nothing was searched."""
    k = model.half_k
    drawn = [(colour, entry, entry.summary.reach[k]) for colour, entry in _drawn(model)]
    drawn = [(colour, entry, effort) for colour, entry, effort in drawn if effort.most]
    axis = _log_axis([effort.fell for *_, effort in drawn], [effort for *_, effort in drawn])
    if axis is None:
        return None
    scale, ticks, grid = axis
    curves = [
        (colour, entry.attack, _falling(effort, model.n, grid), float(effort.most))
        for colour, entry, effort in drawn
    ]
    return Chart(
        title=f"Right answers at {model.entries[0].summary.label(k)} against passes",
        xlabel="forward + backward passes per example",
        description="; ".join(
            f"{label}: from {percent(points[0][1])} % to {percent(points[-1][1])} % within {end:,.0f} passes"
            for _, label, points, end in curves
        )
        + ".",
        xticks=ticks,
        lines=[
            Line(colour, path(_stairs(points, end), scale), label) for colour, label, points, end in curves
        ],
        note=" ".join(filter(None, [half_note(model), _minimal_note(model), _undrawn(model)])),
    )


def iterations_needed(model: ModelFigures) -> list[Chart]:
    """For every attack a histogram: forward passes until an example broke, on the same axes."""
    efforts = [entry.summary.reach[model.half_k] for entry in model.entries]
    axis = _log_axis([effort.iterations for effort in efforts], [])
    if axis is None:
        return []
    scale, ticks, grid = axis
    low, high = math.log10(grid[0]), math.log10(grid[-1])
    edges = np.logspace(low, high, 4 * round(high - low) + 1)
    # as whole numbers, so that a bin that ends at 10 holds 10
    shares = [
        100
        * np.diff(np.searchsorted(effort.iterations, np.r_[0, np.floor(edges[1:] + 1e-9)], side="right"))
        / model.n
        for effort in efforts
    ]
    top = next(t for t in (10, 20, 40, 60, 80, 100) if t >= max(share.max() for share in shares))
    charts = []
    for entry, effort, share in zip(model.entries, efforts, shares, strict=True):
        bars = "".join(
            f"M{1000 * scale(a):.1f} 1000V{1000 - 1000 * y / top:.1f}H{1000 * scale(b):.1f}V1000Z"
            for a, b, y in zip(edges[:-1], edges[1:], share, strict=True)
            if y
        )
        found = f"broke {len(effort.iterations):,} of {model.n:,}"
        if len(effort.iterations):
            found += f", half of them within {int(effort.iterations[(len(effort.iterations) - 1) // 2]):,}"
        charts.append(
            Chart(
                title=entry.attack,
                xlabel="forward passes until broken",
                description=f"Histogram: {found}.",
                xticks=ticks,
                lines=[Line("main", "", bars=bars)],
                note=f"{found[0].upper()}{found[1:]}.",
                yticks=[0, top // 2, top],
                small=True,
            )
        )
    return charts


def _drawn(model: ModelFigures) -> list[tuple[str, Entry]]:
    """The attacks that get a line, with its colour: the strongest, in the order of the table."""
    down = sorted(model.agreement, reverse=True)  # the largest budget counts first
    by_strength = sorted(model.entries, key=lambda e: [e.summary.robust_accuracy[k].count for k in down])
    chosen = [id(entry) for entry in by_strength[:_LINES]]
    shown = [entry for entry in model.entries if id(entry) in chosen]
    return [(f"run{i}", entry) for i, entry in enumerate(shown)]


def half_note(model: ModelFigures) -> str:
    """Why this budget, and what its passes are."""
    first = model.entries[0].summary
    if len(model.agreement) == 1:
        return ""
    why = f"k = {model.half_k}: where the attacks together leave nearest to half of what was right unchanged."
    smaller = not first.is_curve and model.half_k > min(model.agreement)
    return why + (" What the smaller budgets took counts too." if smaller else "")


def _minimal_note(model: ModelFigures) -> str:
    """What to know of attacks that do not stop when an example breaks."""
    stages = [stage for entry in model.entries for stage in entry.summary.run["plan"]["attack"]["stages"]]
    if all(stage.get("kind") != "minimal" for stage in stages):
        return ""
    return "A search for the smallest change goes on once an example broke, and counts in full."


def _undrawn(model: ModelFigures) -> str:
    return f"The {_LINES} strongest of {len(model.entries)} attacks." if len(model.entries) > _LINES else ""


def _several_against_k(
    units: str, curves: Sequence[tuple[str, str, Ints, int]], scale: AxisScale, ticks: Sequence[int]
) -> Chart:
    """Lines of (colour, label, right answers at every k, of n)."""
    return Chart(
        title=f"Right answers against changed {units}",
        xlabel=f"{units} the adversary may change",
        description="; ".join(
            f"{label}: {percent(curve[0] / n)} % at 0, {percent(curve[-1] / n)} % at {len(curve) - 1}"
            for _, label, curve, n in curves
        )
        + ".",
        xticks=[(100 * scale(k), f"{k:,}") for k in ticks],
        lines=[
            Line(colour, path(_stairs(_steps(curve, n), float(len(curve) - 1)), scale), label)
            for colour, label, curve, n in curves
        ],
    )


def _log_axis(
    values: Sequence[Ints], efforts: Iterable[Effort]
) -> tuple[AxisScale, list[tuple[float, str]], Floats] | None:
    """Whole decades around all values (ascending) and costs: scale, ticks and a fine grid; None without any."""
    most = max(
        [effort.most for effort in efforts] + [int(some[-1]) for some in values if len(some)], default=0
    )
    if not most:
        return None
    first = min((int(some[0]) for some in values if len(some)), default=most)
    low = math.floor(math.log10(max(first, 1)))
    high = max(math.ceil(math.log10(most)), low + 1)
    every = 1 if high - low <= 6 else 2
    ticks = [(100 * (p - low) / (high - low), f"{10**p:,}") for p in range(low, high + 1, every)]
    return lambda x: (math.log10(max(x, 1)) - low) / (high - low), ticks, np.logspace(low, high, 400)


def _falling(effort: Effort, n: int, grid: Floats) -> list[tuple[float, float]]:
    """Who is left after so many passes: at most a step per pixel, where examples fell, thinned to the grid."""
    kept = np.unique(np.searchsorted(effort.fell, grid, side="right"))
    points = [(float(grid[0]), effort.start / n)]
    return points + [(float(effort.fell[i - 1]), (effort.start - int(i)) / n) for i in kept if i]


def evenly(budgets: Sequence[int], most: int) -> list[int]:
    """At most so many of the budgets, the first and the last among them."""
    if len(budgets) <= most:
        return list(budgets)
    return [budgets[i] for i in np.linspace(0, len(budgets) - 1, most).round().astype(int)]


def _steps(curve: Ints, n: int) -> list[tuple[float, float]]:
    """Where the curve over k changes, as (k, share)."""
    return [(float(k), float(curve[k] / n)) for k in np.flatnonzero(np.diff(curve, prepend=-1))]


def _budget_axis(last: int, budgets: Sequence[int]) -> tuple[AxisScale, list[int]]:
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


def path(corners: Points, scale: AxisScale) -> str:
    return "M" + "L".join(f"{1000 * scale(x):.1f} {1000 - 1000 * y:.1f}" for x, y in corners)


def _labelled(curves: Sequence[tuple[str, Points]], scale: AxisScale) -> list[Line]:
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
            path(corners, scale),
            label,
            top,
            lead=f"M{1000 * scale(corners[-1][0]):.1f} {10 * end:.1f}H1000L1015 {10 * top:.1f}",
        )
        for tone, top, end, (label, corners) in zip(tones, tops, ends, curves, strict=True)
    ]
