"""`zeronorm verify`: re-check a run from scratch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zeronorm.cli import options
from zeronorm.errors import ArgumentError, reading

if TYPE_CHECKING:
    from zeronorm.evaluation.verify import Verification


def verify(
    run: Annotated[
        Path, typer.Argument(help="Folder of a complete run, comparison, matrix or run of certificates.")
    ],
    model: Annotated[str | None, typer.Option(help="The model, if it is now called otherwise.")] = None,
    data: Annotated[str | None, typer.Option(help="The data set, if it is now called otherwise.")] = None,
    split: Annotated[str | None, typer.Option(help="Its part, if the run does not name one.")] = None,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Import the package.module:callable that the run names as its model."),
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    json_: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Check every claim of a run against its model and data: exit status 1 if one does not hold.

    Example: zeronorm verify runs/quickstart
    """
    from zeronorm.records.figures import check_run
    from zeronorm.records.folders import CertificateFolder, ComparisonFolder, MatrixFolder, RunFolder

    # before anything heavy: is this a run at all?
    matrix = MatrixFolder(run).read() if MatrixFolder(run).exists() else None
    if matrix is not None:
        if model is not None:
            raise ArgumentError("model: a matrix names its models; verify one of its runs with another name")
        _told(*_matrix_verified(run, matrix, data, split, device, trust), run, json_)
        return
    comparison = ComparisonFolder(run)
    runs = [comparison.run(part["path"]) for part in comparison.read()["runs"]] if comparison.exists() else []
    certificates = CertificateFolder(run).holds_certificates()
    folders = runs or [CertificateFolder(run) if certificates else RunFolder(run)]
    records = [folder.read() for folder in folders]
    if not certificates:
        for record in records:
            check_run(record)
    plan = records[0]["plan"]
    if runs and model is not None:
        raise ArgumentError("model: a comparison names its models; verify one of its runs with another name")

    import zeronorm as zn
    from zeronorm.cli.model import as_measured, resolve_device, resolve_model

    where = resolve_device(device)
    with reading(run):
        names = dict.fromkeys(model or str(record["plan"]["model"]["name"]) for record in records)
        asked = _asked(plan, data, split)
    if model is None and not trust:
        _refuse_code(names, "" if runs else ", or with --model {}")
    given = records[0].get("command") is None  # to a function, as objects: their names may name nothing
    with _named("model", next(iter(names)), given and model is None):
        networks = {name: resolve_model(name, where) for name in names}
        if not certificates:
            for record in records:
                name = model or str(record["plan"]["model"]["name"])
                networks[name] = as_measured(networks[name], record["plan"]["model"])
    with _named("data", asked[0], given and data is None):
        dataset = options.dataset(*asked)
    first = next(iter(networks.values()))
    if certificates:
        result = zn.verify_certificates(run, first, dataset)
    else:
        result = zn.verify_comparison(run, networks, dataset) if runs else zn.verify(run, first, dataset)
    found = f"{result.predictions} certificates" if certificates else _searched(result)
    _told(result, found, run, json_)


def _matrix_verified(
    run: Path, record: dict[str, Any], data: str | None, split: str | None, device: str, trust: bool
) -> tuple[Verification, str]:
    """What was checked of a matrix, and in words."""
    import zeronorm as zn
    from zeronorm.cli.model import resolve_device, resolve_model
    from zeronorm.models.checkpoint import SIDECAR

    where = resolve_device(device)
    with reading(run):
        asked = _asked(record["plan"], data, split)
    networks = {}
    sources = {entry["name"]: str(entry["source"] or entry["name"]) for entry in record["models"]}
    if not trust:
        _refuse_code(sources.values())
    for entry in record["models"]:
        own = run / sources[entry["name"]]  # a path of a matrix may start in its folder
        with _named("model", entry["name"], entry["source"] is None):
            source = str(own) if (own / SIDECAR).exists() else sources[entry["name"]]
            networks[entry["name"]] = resolve_model(source, where)
    with _named("data", asked[0], record.get("command") is None and data is None):
        dataset = options.dataset(*asked)
    result = zn.verify_matrix(run, networks, dataset)
    return result, f"of {len(networks)} models, certificates among them, {_searched(result)}"


def _asked(plan: dict[str, Any], data: str | None, split: str | None) -> tuple[str, str, int]:
    """Name, split and length of the data that a run was made on, as it or the command says."""
    from zeronorm import checks

    told = plan["data"]
    return (
        data or str(told["name"]),
        split or told.get("split", "test"),
        checks.integer("plan.data.n", told["n"], 1),
    )


def _refuse_code(names: Iterable[str], otherwise: str = "") -> None:
    """Records may come from anyone: what they name is not imported unasked."""
    from zeronorm.cli.model import is_code

    if (code := next(filter(is_code, names), None)) is not None:
        raise ArgumentError(
            f"model: the run names {code!r}, code that would be imported and run; if you trust it, say so with --trust"
            f"{otherwise.format(code)}"
        )


def _searched(result: Verification) -> str:
    return f"{result.predictions} clean predictions and {result.adversarials} adversarials"


def _told(result: Verification, found: str, run: Path, json_: bool) -> None:
    """Say what held and what did not; the exit status follows."""
    for problem in result.problems[:20]:
        print(f"does not hold: {problem}")
    if len(result.problems) > 20:
        print(f"... and {len(result.problems) - 20} more")
    for note in result.notes:
        print(f"note: {note}")
    if result.ok:
        print(f"every claim holds: {found} re-checked on fresh passes")
    if json_:
        checked = {"predictions": result.predictions, "adversarials": result.adversarials}
        print(
            json.dumps(
                {"ok": result.ok, "problems": result.problems, "notes": result.notes, "run": str(run)}
                | checked
            )
        )
    if not result.ok:
        raise typer.Exit(1)


@contextmanager
def _named(what: str, name: str, given: bool) -> Iterator[None]:
    """What a run that was made in Python calls its model or data need not be a name to load them by."""
    try:
        yield
    except ArgumentError as error:
        if not given:
            raise
        raise ArgumentError(
            f"{what}: the run was made in Python, and what it calls {name!r} cannot be loaded by that name; "
            f"say what to load with --{what}, or verify from Python: zeronorm.verify(run, model, data)"
        ) from error
