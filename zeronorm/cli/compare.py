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


def compare(
    model: Annotated[
        list[str] | None,
        typer.Option(help="As of evaluate (default: digits); give it again for each further model."),
    ] = None,
    data: options.Data = "digits",
    split: options.Split = "test",
    limit: options.Limit = None,
    k: options.Budgets = None,
    curve: options.Curve = None,
    unit: options.Unit = "pixel",
    low: options.Low = 0.0,
    high: options.High = 1.0,
    linf: options.Linf = None,
    attack: Annotated[
        str,
        typer.Option(
            help="Attacks with commas between them, each with options after colons if need be, such as "
            "sparse_pgd:gradient=projected. See zeronorm list."
        ),
    ] = "sparse_pgd,sparse_pgd:gradient=projected,sparse_rs",
    steps: options.Steps = None,
    queries: options.Queries = None,
    batch_size: options.BatchSize = None,
    seed: options.Seed = 0,
    precision: options.Precision = "float32",
    device: options.Device = "auto",
    workers: options.Workers = None,
    ray: options.Ray = None,
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

    Each pair of model and attack is a run in a folder of its own, as evaluate makes it.
    """
    said = options.attacks(attack)
    adversaries = options.threats(k, curve, unit, low, high, linf)
    models = model or ["digits"]
    if twice := sorted({name for name in models if models.count(name) > 1}):
        raise ArgumentError(f"model: expected different models, got {twice[0]!r} twice")

    import zeronorm as zn
    from zeronorm.cli.model import resolve_device, resolve_model
    from zeronorm.cli.progress import Display

    searches = options.searches(said)
    where = resolve_device(device)
    networks = {name: resolve_model(name, where) for name in models}
    dataset = zn.data.load(data, split, limit)
    if out is None:
        budgets = [threat.k for threat in adversaries]
        search = [list(searches), steps, queries, seed, precision]
        asked = [models, data, split, limit, budgets, curve, unit, low, high, linf, *search]
        out = options.default_out(["compare", *models, data], asked)
    with options.resumable(out), options.at_work(workers, ray) as pool, Display() as display:
        comparison = zn.compare(
            networks,
            dataset,
            adversaries,
            searches,
            out,
            steps=steps,
            queries=queries,
            curve=curve is not None,
            batch_size=batch_size,
            seed=seed,
            precision=precision,
            command=shlex.join(["zeronorm", *sys.argv[1:]]),
            workers=pool,
            on_progress=display.show_titled,
        )
    print(comparison.table())
    print(f"\nreport: {comparison.path / 'report.html'}")
    if json_:
        print(json.dumps(comparison.as_json()))
