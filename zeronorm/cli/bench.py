"""`zeronorm bench`: what will it cost on this model?"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from zeronorm.cli import options

if TYPE_CHECKING:
    from rich.table import Table

    from zeronorm.evaluation.cost import Cost


def bench(
    model: options.ModelName = "digits",
    data: options.Data = "digits",
    split: options.Split = "test",
    limit: Annotated[int, typer.Option(help="Use only so many examples, in one batch.")] = 64,
    k: Annotated[int | None, typer.Option(help="Budget: how many pixels may change (default: 4).")] = None,
    epsilon: options.Epsilon = None,
    attack: Annotated[
        str | None,
        typer.Option(
            help="An attack, or several with commas. See zeronorm list. (default: sparse_autoattack; with "
            "--epsilon: pgd)"
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Updates of each white-box attack (default: 100).")
    ] = None,
    queries: Annotated[
        int | None, typer.Option(help="Queries of each black-box attack (default: 200).")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Of which the fastest counts, after one to warm up.")] = 3,
    precision: Annotated[str, typer.Option(help="Of the passes: float32 or bfloat16.")] = "float32",
    device: options.Device = "auto",
    json_: options.Json = False,
) -> None:
    """What will it cost on a model? Passes per second, and the overhead of each attack over its passes alone.

    Example: zeronorm bench --model digits --data digits --limit 32 --steps 20 --queries 40

    Each attack searches all examples at once, several times; "right" is the share still classified correctly.

    Nothing is recorded.
    """
    said = options.attacks(attack or ("sparse_autoattack" if epsilon is None else "pgd"))

    import torch
    from rich.console import Console

    import zeronorm as zn
    from zeronorm.cli.model import resolve_device, resolve_model
    from zeronorm.evaluation.cost import measure
    from zeronorm.report.html import duration

    threat = zn.L0(4 if k is None else k) if epsilon is None else options.ball(epsilon, 0.0, 1.0, k=k)
    network = resolve_model(model, resolve_device(device))
    dataset = zn.data.load(data, split, limit)
    err = Console(stderr=True)
    with err.status("bench") as status:
        costs = measure(
            network,
            dataset,
            threat,
            list(options.searches(said).values()),
            steps=steps,
            queries=queries,
            rounds=rounds,
            precision=precision,
            on_stage=lambda name: status.update(f"measuring {name}"),
        )
    threads = torch.get_num_threads()
    budget = f"k = {threat.k}" if isinstance(threat, zn.L0) else f"ε = {epsilon:g}"
    title = (
        f"{model} on {dataset.name} ({split}), n = {len(dataset)}, {budget}, {precision}, {threads} thread(s)"
    )
    Console().print(cost_table(title, costs))
    seconds = [cost.default_seconds for cost in costs]
    if None not in seconds:
        per_thousand = duration(1000 * sum(s for s in seconds if s is not None))
        print(f"\nAt their default length, 1,000 examples like these take at most about {per_thousand}.")
    if json_:
        plain = [_plain(cost) for cost in costs]
        print(json.dumps({"costs": plain, "n": len(dataset), "threads": threads}))


def cost_table(title: str, costs: Sequence[Cost]) -> Table:
    """Costs of attacks, for a terminal."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("attack", no_wrap=True)
    for column in ("passes each", "passes/s", "seconds", "overhead", "right"):
        table.add_column(column, justify="right")
    for cost in costs:
        table.add_row(
            cost.name,
            f"{cost.passes / cost.n:,.0f}",
            f"{cost.rate:,.0f}" if cost.passes else "–",
            f"{cost.seconds:.2f}",
            f"{100 * cost.overhead:.0f} %" if cost.passes else "–",
            f"{100 * cost.right:.1f} %",
        )
    return table


def _plain(cost: Cost) -> dict[str, float | str | None]:
    numbers = {
        "seconds": cost.seconds,
        "bare_seconds": cost.bare,
        "passes_per_second": cost.rate,
        "overhead": cost.overhead,
        "right": cost.right,
        "default_seconds_per_example": cost.default_seconds,
    }
    finite = {n: v if v is not None and math.isfinite(v) else None for n, v in numbers.items()}
    return {"attack": cost.name, "passes": cost.passes, **finite}
