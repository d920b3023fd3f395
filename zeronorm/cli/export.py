"""`zeronorm export`: what a paper or a report needs from runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from zeronorm.cli import options
from zeronorm.errors import ArgumentError
from zeronorm.files import local_path, replace_files

_TABLES = ("latex", "markdown", "csv")


def export(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of runs, comparisons, matrices or runs of certificates.")
    ],
    latex: Annotated[
        bool, typer.Option("--latex", help="The table as LaTeX, in the style of booktabs.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="The table as Markdown (default).")] = False,
    csv: Annotated[
        bool,
        typer.Option("--csv", help="A row for each model, method and budget, with counts and intervals."),
    ] = False,
    k: Annotated[
        str | None, typer.Option(help="Columns of the table, such as 1,2,4 (default: those of the runs).")
    ] = None,
    intervals: Annotated[
        bool, typer.Option("--intervals", help="With exact 95 % intervals beside the figures.")
    ] = False,
    to: Annotated[Path | None, typer.Option(help="File for the table (default: printed).")] = None,
    figure: Annotated[
        Path | None,
        typer.Option(help="The curves as FILE.pdf, .svg or .png (needs the extra figures)."),
    ] = None,
    bib: Annotated[
        Path | None, typer.Option(help="BibTeX of every method that the runs used, as FILE.bib.")
    ] = None,
    adversarials: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the adversarials of one run: tensors, and of images PNG files with whether they survive "
            "rounding to 8 bits."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="With --adversarials: the model, if it is now called otherwise.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="With --adversarials: the data set, if it is now called otherwise.")
    ] = None,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Import the package.module:callable that the run names as its model."),
    ] = False,
    device: options.Device = "auto",
) -> None:
    """Tables, figures, references and adversarials of runs, as a paper prints them.

    Example: zeronorm export runs/quickstart runs/quickstart-robust --latex --figure curves.pdf --bib refs.bib

    Adversarials: zeronorm export runs/quickstart --adversarials broken/
    """
    from zeronorm.records.bibliography import bibliography
    from zeronorm.records.paper_table import csv_table, latex_table, markdown_table, read_paper_table

    chosen = [name for name, asked in zip(_TABLES, (latex, markdown, csv), strict=True) if asked]
    if len(chosen) > 1:
        raise ArgumentError(f"latex, markdown, csv: expected one table, got --{' --'.join(chosen)}")
    folders = [local_path(run, "runs") for run in runs]
    if adversarials is not None and len(folders) > 1:
        raise ArgumentError(f"adversarials: expected one run, got {len(folders)}")
    files = {
        name: None if path is None else local_path(path, name)
        for name, path in (("to", to), ("figure", figure), ("bib", bib), ("adversarials", adversarials))
    }
    for name, path in files.items():
        if path is not None and not path.absolute().parent.is_dir():
            raise ArgumentError(f"{name}: expected a file in a folder that is there, got {path}")
    table = read_paper_table(folders, None if k is None else options.budgets(k))
    if (drawn := files["figure"]) is not None:
        from zeronorm.report.paper_figure import draw

        draw(table, drawn)
        print(f"figure: {drawn}")
    if (cited := files["bib"]) is not None:
        used = [name for line in table.lines for name in line.methods]
        replace_files({cited: bibliography(used).encode()})
        print(f"references: {cited}")
    if (broken := files["adversarials"]) is not None:
        _adversarials(folders[0], broken, model, data, trust, device)
    if chosen or to is not None or not any(files.values()):
        text = (
            latex_table(table, intervals)
            if latex
            else csv_table(table)
            if csv
            else markdown_table(table, intervals)
        )
        if (target := files["to"]) is None:
            print(text, end="")
        else:
            replace_files({target: text.encode()})
            print(f"table: {target}")


def _adversarials(
    run: Path, folder: Path, model: str | None, data: str | None, trust: bool, device: str
) -> None:
    from zeronorm.cli.model import as_measured, resolve_device, resolve_model
    from zeronorm.cli.verify import data_of, refuse_code
    from zeronorm.evaluation.adversarials import adversarials, save_adversarials
    from zeronorm.records.folders import RunFolder

    record = RunFolder(run).read_complete()
    told: dict[str, Any] = record["plan"]["model"]
    name = model or str(told["name"])
    if not trust and model is None:
        refuse_code([name], several=False)
    asked = as_measured(resolve_model(name, resolve_device(device)), told)
    found = adversarials(RunFolder(run), data_of(record["plan"], data, None))
    counts = save_adversarials(found, folder, asked)
    said = f"adversarials: {counts['adversarials']} in {folder}"
    print(said + f", of which {counts['survive']} survive rounding to 8 bits")
