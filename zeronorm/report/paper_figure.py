"""The curves of a table as a figure for a paper: PDF, SVG or PNG, drawn by matplotlib."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from zeronorm.errors import ArgumentError
from zeronorm.files import replace_files
from zeronorm.records.paper_table import PaperLine, PaperTable

FORMATS = ("pdf", "svg", "png")
_COLUMN = 3.4  # inches: one of two columns
_MARKERS = "osD^vPX*<>"


def draw(table: PaperTable, path: Path) -> Path:
    """Write the share of right answers over the budget, a line for each model and method; returns the path.

    Colours tell models apart, markers methods; what is proved is dashed.  The lines of a list of budgets join its
    points; a curve has a step at every k.

    **Raises:** `ArgumentError` for an ending that is none of `FORMATS`, and within an ℓ∞ ball, which has one budget.
    """
    ending = path.suffix.removeprefix(".").lower()
    if ending not in FORMATS:
        raise ArgumentError(f"figure: expected a file that ends in {', '.join(FORMATS)}, got {path.name!r}")
    if table.epsilon is not None:
        raise ArgumentError("figure: expected runs of several budgets, got runs within one ℓ∞ ball")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        raise ArgumentError(
            "figure: needs matplotlib, which is not installed: pip install 'zeronorm[figures]'"
        ) from None

    figure = Figure(figsize=(_COLUMN, 0.72 * _COLUMN), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    models = list(dict.fromkeys(line.model for line in table.lines))
    methods = list(dict.fromkeys(line.method for line in table.lines))
    for line in table.lines:
        axes.plot(
            *_points(line, table),
            label=_label(line, models, methods),
            color=f"C{models.index(line.model) if len(models) > 1 else methods.index(line.method)}",
            linestyle="--" if line.proved else "-",
            drawstyle="steps-post" if line.curve else "default",
            marker=None if line.curve else _MARKERS[methods.index(line.method) % len(_MARKERS)],
            markersize=3,
            linewidth=1,
        )
    axes.set_xlabel(f"changed {table.unit}s k", fontsize=8)
    axes.set_ylabel("right answers, %", fontsize=8)
    axes.set_ylim(0, 100)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=6, frameon=False)
    drawn = io.BytesIO()
    # without a date, so that the same runs give the same file
    dated: dict[str, Any] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(ending, {})
    figure.savefig(drawn, format=ending, dpi=300, metadata=dated)
    replace_files({path: drawn.getvalue()})
    return path


def _points(line: PaperLine, table: PaperTable) -> tuple[list[int], list[float]]:
    if line.curve:
        return list(range(len(line.curve))), [100 * share for share in line.curve]
    known = [0, *(k for k in table.budgets if k in line.shares)]
    return known, [100 * ({0: line.clean} | line.shares)[k].value for k in known]


def _label(line: PaperLine, models: list[str], methods: list[str]) -> str:
    if len(models) == 1:
        return line.method
    return line.model if len(methods) == 1 else f"{line.model}, {line.method}"
