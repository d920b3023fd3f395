"""`zeronorm compare`: several attacks, one model or several, one table and one page."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from zeronorm.cli import options
from zeronorm.errors import ArgumentError

_SPARSE = "sparse_pgd,sparse_pgd:gradient=projected,sparse_rs"
_LINF = "pgd,locally_linear,sparse_rs"


@options.bundled
def compare(
    *,
    model: Annotated[
        list[str] | None,
        typer.Option(help="As of evaluate (default: digits); give it again for each further model."),
    ] = None,
    search: options.SearchOptions,
    adversary: options.AdversaryOptions,
    attack: Annotated[
        str | None,
        typer.Option(
            help="Attacks with commas between them, each with options after colons if need be, such as "
            f"sparse_pgd:gradient=projected. See zeronorm list. (default: {_SPARSE}; with --epsilon: {_LINF})"
        ),
    ] = None,
    votes: options.Votes = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the comparison (default: under runs/). The same command resumes it."),
    ] = None,
    json_: options.Json = False,
) -> None:
    """Which attack breaks more, at which cost, and which examples does only one of them break?

    Example: zeronorm compare --data digits --limit 100 --attack sparse_pgd,sparse_rs --steps 200 --queries 1000

    Every attack runs alone on the same examples; the worst case counts an example as broken if any attack broke it.
    With several models, each model's adversarials are tried on the others.

    All pixels, each a little: zeronorm compare --data digits --epsilon 0.1

    Each pair of model and attack is a run in a folder of its own, as evaluate makes it.
    """
    if attack is None:
        attack = _SPARSE if adversary.epsilon is None else _LINF
    said = options.attacks(attack)
    table = search.table()
    adversaries = adversary.threats(table)
    models = model or ["digits"]
    if twice := sorted({name for name in models if models.count(name) > 1}):
        raise ArgumentError(f"model: expected different models, got {twice[0]!r} twice")

    import zeronorm as zn
    from zeronorm.cli.model import attacked, resolve_device
    from zeronorm.cli.progress import Display

    searches = options.searches(said)
    where = resolve_device(search.device)
    networks = {
        name: attacked(name, where, votes, trust=search.trust, schema=getattr(table, "schema", None))
        for name in models
    }
    dataset = search.dataset() if table is None else table
    if out is None:
        asked = options.question(models, list(searches), search, adversary)
        out = options.default_out(
            ["compare", *models, search.data], asked + ([] if votes is None else [votes])
        )
    with options.resumable(out), search.at_work() as pool, Display(adversary.epsilon) as display:
        comparison = zn.compare(
            networks,
            dataset,
            adversaries,
            searches,
            out,
            **search.lengths(),
            curve=adversary.curve is not None,
            batch_size=search.batch_size,
            seed=search.seed,
            precision=adversary.precision,
            command=shlex.join(["zeronorm", *sys.argv[1:]]),
            workers=pool,
            on_progress=display.show_titled,
        )
    print(comparison.table())
    print(f"\nreport: {comparison.path / 'report.html'}")
    if json_:
        print(json.dumps(comparison.as_json()))
