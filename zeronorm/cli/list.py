"""`zeronorm list`: what there is by name."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def list_(
    json_: Annotated[bool, typer.Option("--json", help="One line of JSON.")] = False,
) -> None:
    """List the attacks, models and data sets that have names.

    Example: zeronorm list
    """
    from rich.console import Console
    from rich.table import Table

    from zeronorm import data, models
    from zeronorm.attacks import catalogue

    attacks = [
        {
            "name": a.name,
            "norms": "/".join(a.norms),
            "kind": a.kind,
            "knowledge": a.knowledge,
            "targeted": a.targeted,
            "source": a.source,
        }
        for a in catalogue.values()
    ]
    networks = [{"name": m.name, "kind": m.kind, "what": m.description} for m in models.available()]
    sets = [{"name": name, "what": what} for name, what in data.available().items()]
    if json_:
        print(json.dumps({"attacks": attacks, "models": networks, "data": sets}))
        return
    for title, rows in (("attacks", attacks), ("models", networks), ("data", sets)):
        table = Table(title=title, title_justify="left", box=None, header_style="bold", padding=(0, 2, 0, 0))
        for column in rows[0]:
            table.add_column(column)
        for row in rows:
            table.add_row(*("yes" if v is True else "no" if v is False else str(v) for v in row.values()))
        Console().print(table, "")
