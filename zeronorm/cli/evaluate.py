"""`zeronorm evaluate`: the main job."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from zeronorm.errors import ArgumentError


def evaluate(
    model: Annotated[
        str,
        typer.Option(
            help="A built-in model, a checkpoint folder, a Hugging Face Hub id, or package.module:callable."
        ),
    ] = "digits",
    data: Annotated[
        str, typer.Option(help="Data set: digits, mnist, cifar10, ..., parquet:PATH, folder:PATH.")
    ] = "digits",
    split: Annotated[str, typer.Option(help="Part of the data set.")] = "test",
    limit: Annotated[int | None, typer.Option(help="Use only so many examples.")] = None,
    k: Annotated[str, typer.Option(help="Budgets: how many pixels may change, such as 1,2,4,8.")] = "1,2,4,8",
    curve: Annotated[
        int | None,
        typer.Option(
            metavar="K", help="Instead of budgets: the smallest number of changes up to K, for each example."
        ),
    ] = None,
    unit: Annotated[
        str, typer.Option(help="What a change is: a pixel (all its channels) or a feature.")
    ] = "pixel",
    low: Annotated[float, typer.Option(help="Smallest value an input may take.")] = 0.0,
    high: Annotated[float, typer.Option(help="Largest value an input may take.")] = 1.0,
    linf: Annotated[float | None, typer.Option(help="Cap on the change of each value.")] = None,
    attack: Annotated[
        str, typer.Option(help="An attack, or several with commas: a cascade. See zeronorm list.")
    ] = "sparse_autoattack",
    steps: Annotated[
        int | None, typer.Option(help="Updates of each white-box stage (default: 10000).")
    ] = None,
    queries: Annotated[
        int | None, typer.Option(help="Queries of each black-box stage (default: 10000).")
    ] = None,
    batch_size: Annotated[
        int, typer.Option(help="Examples per batch; the result does not depend on it.")
    ] = 256,
    seed: Annotated[int, typer.Option(help="Names everything random.")] = 0,
    precision: Annotated[
        str, typer.Option(help="Of the search's passes: float32 or bfloat16. Verdicts are float32 always.")
    ] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run (default: under runs/). The same command resumes it."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """How often does a model still answer right when an adversary may change a few pixels?

    Example: zeronorm evaluate --model digits --data digits --k 1,2,4,8 --steps 200 --queries 1000

    The run is a folder of records, with the report as a page in it.

    A run that was stopped goes on when the same command is given again.
    """
    budgets = [curve] if curve is not None else _budgets(k)

    import zeronorm as zn
    from zeronorm import checks
    from zeronorm.cli.model import resolve_device, resolve_model
    from zeronorm.cli.progress import Display

    if curve is not None:
        checks.integer("curve", curve, 0)
    threats = [zn.L0(budget, unit, low, high, linf) for budget in budgets]  # type: ignore[arg-type]
    network = resolve_model(model, resolve_device(device))
    dataset = zn.data.load(data, split, limit)
    if out is None:
        asked = json.dumps(
            [
                model,
                data,
                split,
                limit,
                budgets,
                curve,
                unit,
                low,
                high,
                linf,
                attack,
                steps,
                queries,
                seed,
                precision,
            ]
        )
        slug = re.sub(r"[^A-Za-z0-9]+", "-", f"{Path(model).name}-{Path(data).name}").strip("-").lower()
        out = Path("runs") / f"{slug}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"
    try:
        with Display() as display:
            evaluation = zn.evaluate(
                network,
                dataset,
                threats,
                named_attacks(attack),
                out,
                steps=steps,
                queries=queries,
                curve=curve is not None,
                batch_size=batch_size,
                seed=seed,
                precision=precision,
                name=model,
                command=shlex.join(["zeronorm", *sys.argv[1:]]),
                on_progress=display.show,
            )
    except KeyboardInterrupt:
        typer.echo(f"stopped; the same command goes on from what is kept in {out}", err=True)
        raise typer.Exit(130) from None
    print(evaluation.table())
    for finding in evaluation.diagnosis:
        print(f"\n{finding['level']}: {finding['seen']}.\n  {finding['meaning']}.\n  {finding['advice']}.")
    print(f"\nreport: {evaluation.run / 'report.html'}")
    if json_:
        print(json.dumps(evaluation.as_json()))


def named_attacks(text: str) -> str | list[str]:
    """The value of --attack: one name, or several with commas."""
    return [part.strip() for part in text.split(",")] if "," in text else text


def _budgets(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ArgumentError(
            f"k: expected integers with commas between them, such as 1,2,4, got {text!r}"
        ) from None
