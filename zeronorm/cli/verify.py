"""`zeronorm verify`: re-check a run from scratch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from zeronorm.errors import ArgumentError


def verify(
    run: Annotated[Path, typer.Argument(help="Folder of a complete run, comparison or run of certificates.")],
    model: Annotated[str | None, typer.Option(help="The model, if it is now called otherwise.")] = None,
    data: Annotated[str | None, typer.Option(help="The data set, if it is now called otherwise.")] = None,
    split: Annotated[str | None, typer.Option(help="Its part, if the run does not name one.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    json_: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Check every claim of a run against its model and data: exit status 1 if one does not hold.

    Example: zeronorm verify runs/quickstart
    """
    from zeronorm.evaluation.records import CertificateFolder, ComparisonFolder, RunFolder
    from zeronorm.report.tables import check_run

    # before anything heavy: is this a run at all?
    comparison = ComparisonFolder(run)
    runs = [comparison.run(part["path"]) for part in comparison.read()["runs"]] if comparison.exists() else []
    plans = []
    certificates = CertificateFolder(run).holds_certificates()
    for folder in runs or [CertificateFolder(run) if certificates else RunFolder(run)]:
        record = folder.read_run()
        if not certificates:
            check_run(record)
        plans.append(record["plan"])
    plan = plans[0]
    if runs and model is not None:
        raise ArgumentError("model: a comparison names its models; verify one of its runs with another name")

    import zeronorm as zn
    from zeronorm.cli.model import resolve_device, resolve_model

    where = resolve_device(device)
    names = dict.fromkeys(model or each["model"]["name"] for each in plans)
    networks = {name: resolve_model(name, where) for name in names}
    dataset = zn.data.load(
        data or plan["data"]["name"], split or plan["data"].get("split", "test"), plan["data"]["n"]
    )
    first = next(iter(networks.values()))
    if certificates:
        result = zn.verify_certificates(run, first, dataset)
    else:
        result = zn.verify_comparison(run, networks, dataset) if runs else zn.verify(run, first, dataset)
    for problem in result.problems[:20]:
        print(f"does not hold: {problem}")
    if len(result.problems) > 20:
        print(f"... and {len(result.problems) - 20} more")
    if result.ok and certificates:
        print(f"every claim holds: {result.predictions} certificates re-checked")
    elif result.ok:
        print(
            f"every claim holds: {result.predictions} clean predictions and {result.adversarials} adversarials "
            "re-checked on fresh passes"
        )
    if json_:
        checked = {"predictions": result.predictions, "adversarials": result.adversarials}
        print(json.dumps({"ok": result.ok, "problems": result.problems, "run": str(run)} | checked))
    if not result.ok:
        raise typer.Exit(1)
