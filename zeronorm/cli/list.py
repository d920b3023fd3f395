"""`zeronorm list`: what there is by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

# What the catalogues say, so that listing it need not import torch.  `python -m zeronorm.cli.list` writes it anew.
LISTING = Path(__file__).with_name("listing.json")


def list_(
    json_: Annotated[bool, typer.Option("--json", help="One line of JSON.")] = False,
) -> None:
    """List the attacks, certificates, models and data sets that have names.

    Example: zeronorm list
    """
    every: dict[str, list[dict[str, Any]]] = json.loads(LISTING.read_text(encoding="utf-8"))
    if json_:
        print(json.dumps(every))
        return

    from rich.console import Console
    from rich.table import Table

    for title, rows in every.items():
        table = Table(title=title, title_justify="left", box=None, header_style="bold", padding=(0, 2, 0, 0))
        for column in rows[0]:
            table.add_column(column)
        for row in rows:
            table.add_row(*("yes" if v is True else "no" if v is False else str(v) for v in row.values()))
        Console().print(table, "")


def collect() -> dict[str, list[dict[str, Any]]]:
    """What the catalogues have, by kind."""
    from zeronorm import data, models
    from zeronorm.attacks import catalogue
    from zeronorm.certification import catalogue as certifiers

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
    certificates = [
        {
            "name": c.name,
            "kind": c.kind,
            "unit": c.unit,
            "arithmetic": c.arithmetic,
            "options": ", ".join(c.options),
            "source": c.source,
        }
        for c in certifiers.values()
    ]
    networks = [{"name": m.name, "kind": m.kind, "what": m.description} for m in models.available()]
    sets = [{"name": name, "what": what} for name, what in data.available().items()]
    return {
        "attacks": attacks,
        "certificates": certificates,
        "models": networks,
        "data": sets,
    }


if __name__ == "__main__":
    LISTING.write_text(json.dumps(collect(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
