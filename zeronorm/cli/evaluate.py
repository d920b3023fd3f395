"""`zeronorm evaluate`: the main job."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from zeronorm.cli import options


@options.bundled
def evaluate(
    *,
    model: options.ModelName = "digits",
    search: options.SearchOptions,
    adversary: options.AdversaryOptions,
    attack: Annotated[
        str | None,
        typer.Option(
            help="An attack, or several with commas: a cascade; options after colons, such as "
            "sparse_autoattack:version=plus; one of yours is package.module:function. See zeronorm list. "
            "(default: sparse_autoattack; with --epsilon: pgd)"
        ),
    ] = None,
    votes: options.Votes = None,
    prove: Annotated[
        bool,
        typer.Option(
            "--prove",
            help="Prove whom the attacks left, or break them, by every certificate that accepts the model.",
        ),
    ] = False,
    seconds: Annotated[
        float | None, typer.Option(help="That a proof may take for each example and budget (default: 30).")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run (default: under runs/). The same command resumes it."),
    ] = None,
    track: Annotated[str | None, typer.Option(help="Log the result for another program: mlflow.")] = None,
    json_: options.Json = False,
) -> None:
    """How often does a model still answer right when an adversary may change a few pixels?

    Example: zeronorm evaluate --model digits --data digits --k 1,2,4,8 --steps 200 --queries 1000

    Exactly, where proof and attack meet: zeronorm evaluate --model digits --k 1 --steps 200 --queries 1000 --prove

    All pixels, each a little: zeronorm evaluate --model digits --data digits --epsilon 0.1

    The run is a folder of records, with the report as a page in it.

    A run that was stopped goes on when the same command is given again.
    """
    if attack is None:
        attack = "sparse_autoattack" if adversary.epsilon is None else "pgd"
    said = options.attacks(attack)
    table = search.table()
    adversaries = adversary.threats(table)

    import zeronorm as zn
    from zeronorm.cli.model import attacked, resolve_device
    from zeronorm.cli.progress import Display

    if track is not None:
        from zeronorm.checks import choice
        from zeronorm.integrations.mlflow import check_tracking

        choice("track", track, ("mlflow",))
        check_tracking()
    searches = list(options.searches(said).values())
    network = attacked(
        model, resolve_device(search.device), votes, trust=search.trust, schema=getattr(table, "schema", None)
    )
    dataset = search.dataset() if table is None else table
    if out is None:
        asked = options.question(model, attack, search, adversary) + ([] if votes is None else [votes])
        out = options.default_out([model, search.data], asked + ([seconds, "prove"] if prove else []))
    with options.resumable(out), search.at_work() as pool, Display(adversary.epsilon) as display:
        evaluation = zn.evaluate(
            network,
            dataset,
            adversaries,
            searches if len(searches) > 1 else searches[0],
            out,
            **search.lengths(),
            prove=prove,
            seconds=seconds,
            curve=adversary.curve is not None,
            batch_size=search.batch_size,
            seed=search.seed,
            precision=adversary.precision,
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
