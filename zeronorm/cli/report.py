"""`zeronorm report`: the page of one run or several, from records alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or of one training.")
    ],
    html: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
) -> None:
    """Write the report of one run, of several side by side, or of a training; needs no model and no GPU.

    Example: zeronorm report runs/quickstart --html report.html
    """
    from zeronorm.report import render

    print(f"report: {render(runs, html)}")
