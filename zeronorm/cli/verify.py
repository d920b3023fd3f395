"""`zeronorm verify`: re-check a run from scratch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def verify(
    run: Annotated[Path, typer.Argument(help="Folder of a complete run.")],
    model: Annotated[str | None, typer.Option(help="The model, if it is now called otherwise.")] = None,
    data: Annotated[str | None, typer.Option(help="The data set, if it is now called otherwise.")] = None,
    split: Annotated[str | None, typer.Option(help="Its part, if the run does not name one.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    json_: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Check every claim of a run against its model and data: exit status 1 if one does not hold.

    Example: zeronorm verify runs/quickstart
    """
    from zeronorm.evaluation.records import RunFolder
    from zeronorm.report.tables import check_run

    record = RunFolder(run).read_run()  # before anything heavy: is this a run at all?
    check_run(record)
    plan = record["plan"]

    import zeronorm as zn
    from zeronorm.cli.model import resolve_device, resolve_model

    network = resolve_model(model or plan["model"]["name"], resolve_device(device))
    dataset = zn.data.load(
        data or plan["data"]["name"], split or plan["data"].get("split", "test"), plan["data"]["n"]
    )
    result = zn.verify(run, network, dataset)
    for problem in result.problems[:20]:
        print(f"does not hold: {problem}")
    if len(result.problems) > 20:
        print(f"... and {len(result.problems) - 20} more")
    if result.ok:
        print(
            f"every claim holds: {result.predictions} clean predictions and {result.adversarials} adversarials "
            "re-checked on fresh passes"
        )
    if json_:
        checked = {"predictions": result.predictions, "adversarials": result.adversarials}
        print(json.dumps({"ok": result.ok, "problems": result.problems, "run": str(run)} | checked))
    if not result.ok:
        raise typer.Exit(1)
