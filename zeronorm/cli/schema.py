"""`zeronorm schema`: what the columns of a table may become, as a file to edit."""

from __future__ import annotations

from typing import Annotated

import typer

from zeronorm.cli import options


def schema(
    data: Annotated[str, typer.Argument(help="A table: table:PATH of a CSV or Parquet file.")],
    target: options.Target = None,
    split: options.Split = "test",
) -> None:
    """Guess what every column of a table may become in an adversary's hands, and print it as TOML.

    Example: zeronorm schema table:loans.csv --target granted

    Into a file, to edit and to give as --schema: zeronorm schema table:loans.csv --target granted > loans.toml

    What had to be guessed is said on standard error.
    """
    from zeronorm.data import TableDataset, load
    from zeronorm.errors import ArgumentError

    found = load(data, split, target=target)
    if not isinstance(found, TableDataset):
        raise ArgumentError(f"data: expected table:PATH, got {data!r}")
    print(found.schema.text, end="")
    options.say_guesses(found)
