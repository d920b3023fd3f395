"""`zeronorm evaluate`: the main job."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from zeronorm.cli import options


def evaluate(
    model: options.Model = "digits",
    data: options.Data = "digits",
    split: options.Split = "test",
    limit: options.Limit = None,
    k: options.Budgets = None,
    curve: options.Curve = None,
    unit: options.Unit = "pixel",
    low: options.Low = 0.0,
    high: options.High = 1.0,
    linf: options.Linf = None,
    epsilon: options.Epsilon = None,
    attack: Annotated[
        str | None,
        typer.Option(
            help="An attack, or several with commas: a cascade; options after colons, such as "
            "sparse_autoattack:version=plus. See zeronorm list. (default: sparse_autoattack; with --epsilon: pgd)"
        ),
    ] = None,
    steps: options.Steps = None,
    queries: options.Queries = None,
    votes: options.Votes = None,
    batch_size: options.BatchSize = None,
    seed: options.Seed = 0,
    precision: options.Precision = "float32",
    device: options.Device = "auto",
    workers: options.Workers = None,
    ray: options.Ray = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run (default: under runs/). The same command resumes it."),
    ] = None,
    track: Annotated[str | None, typer.Option(help="Log the result for another program: mlflow.")] = None,
    json_: options.Json = False,
) -> None:
    """How often does a model still answer right when an adversary may change a few pixels?

    Example: zeronorm evaluate --model digits --data digits --k 1,2,4,8 --steps 200 --queries 1000

    All pixels, each a little: zeronorm evaluate --model digits --data digits --epsilon 0.1

    The run is a folder of records, with the report as a page in it.

    A run that was stopped goes on when the same command is given again.
    """
    if attack is None:
        attack = "sparse_autoattack" if epsilon is None else "pgd"
    said = options.attacks(attack)
    adversaries = options.threats(epsilon, k, curve, unit, low, high, linf)

    import zeronorm as zn
    from zeronorm.cli.model import attacked, resolve_device
    from zeronorm.cli.progress import Display

    if track is not None:
        from zeronorm.checks import choice
        from zeronorm.integrations.mlflow import check_tracking

        choice("track", track, ("mlflow",))
        check_tracking()
    searches = list(options.searches(said).values())
    network = attacked(model, resolve_device(device), votes)
    dataset = options.dataset(data, split, limit)
    if out is None:
        search = [attack, steps, queries, seed, precision] + ([] if votes is None else [votes])
        budgets = options.asked_for(adversaries)
        asked = [model, data, split, limit, budgets, curve, unit, low, high, linf, *search]
        out = options.default_out([model, data], asked)
    with options.resumable(out), options.at_work(workers, ray) as pool, Display(epsilon) as display:
        evaluation = zn.evaluate(
            network,
            dataset,
            adversaries,
            searches if len(searches) > 1 else searches[0],
            out,
            steps=steps,
            queries=queries,
            curve=curve is not None,
            batch_size=batch_size,
            seed=seed,
            precision=precision,
            name=model,
            command=shlex.join(["zeronorm", *sys.argv[1:]]),
            workers=pool,
            on_progress=display.show,
        )
    print(evaluation)
    if track is not None:
        from zeronorm.integrations import log_to_mlflow

        log_to_mlflow(evaluation)
    print(f"\nreport: {evaluation.run / 'report.html'}")
    if json_:
        print(json.dumps(evaluation.as_json()))
