"""`zeronorm reproduce`: a paper's tables again, published figures beside measured ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from zeronorm.cli import options


def reproduce(
    name: Annotated[str, typer.Argument(help="A folder of reproductions/, such as beliaev2022_truncation.")],
    only: Annotated[str | None, typer.Option(help="One table (default: all).")] = None,
    scale: Annotated[str, typer.Option(help="cpu (minutes to an hour) or paper (a GPU).")] = "cpu",
    device: options.Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run (default: under runs/). The same command resumes it."),
    ] = None,
    json_: options.Json = False,
) -> None:
    """Measure a paper's tables again, and show them beside the published ones.

    Example: zeronorm reproduce beliaev2022_truncation --only table1

    Reproductions are part of the source: this needs a checkout, not only the installed package.

    A run that was stopped goes on when the same command is given again; models are trained once.
    """
    from zeronorm.cli.model import resolve_device
    from zeronorm.evaluation import reproduction
    from zeronorm.files import local_path

    chosen = reproduction.load(name)
    where = resolve_device(device)
    out = local_path(out or Path("runs") / f"{name}-{scale}")

    def show(row: reproduction.Row) -> None:
        place = ", ".join(f"{key} {value}" for key, value in row["where"].items())
        formats = chosen.expected["tables"][row["table"]]["figures"]
        figures = {name: value for name, value in row["figures"].items() if name in formats}
        found = ", ".join(f"{name} {reproduction.formatted(value, '.4g')}" for name, value in figures.items())
        typer.echo(f"{row['table']}: {place}: {found} ({row['seconds']:.0f} s)", err=True)

    with options.resumable(out):
        rows = chosen.run(scale, out, where, only, show)
    tables = chosen.tables if only is None else [only]
    for table in tables:
        title = chosen.expected["tables"][table]["title"]
        print(f"{title}\n\n{chosen.markdown(table, {scale: rows})}\n")
    claims = [claim for claim in chosen.claims(scale, rows) if claim["table"] in tables]
    for claim in claims:
        bounds = [
            f"{word} {claim[key]}"
            for key, word in (("at_least", "at least"), ("at_most", "at most"))
            if key in claim
        ]
        place = ", ".join(f"{key} {value}" for key, value in claim["where"].items())
        verdict = {None: "not measured", True: "as expected", False: "NOT as expected"}[claim["holds"]]
        print(
            f"{verdict}: {claim['table']}, {place}: {claim['figure']} {claim['value']} ({' and '.join(bounds)})"
        )
    print(f"\nrows: {out / 'rows.jsonl'}")
    if json_:
        found = {
            table: [
                row | {"published": chosen.published(table, row["where"])}
                for row in rows
                if row["table"] == table
            ]
            for table in tables
        }
        said = {"reproduction": name, "scale": scale, "run": str(out), "n": sum(map(len, found.values()))}
        print(json.dumps(said | {"tables": found, "claims": claims}))
