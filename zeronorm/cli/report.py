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
    site: Annotated[
        Path | None, typer.Option(help="Instead: a folder with a page of each run, and an index of them.")
    ] = None,
) -> None:
    """Write the report of one run, of several side by side, or of a training; needs no model and no GPU.

    Example: zeronorm report runs/quickstart --html report.html

    To publish: zeronorm report runs/quickstart runs/quickstart-robust --site public
    """
    from zeronorm.report import render, write_site

    print(f"report: {render(runs, html) if site is None else write_site(runs, site)}")
