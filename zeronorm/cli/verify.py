"""`zeronorm verify`: re-check a run from scratch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zeronorm.cli import options
from zeronorm.errors import ArgumentError, printable, reading
from zeronorm.files import local_path

if TYPE_CHECKING:
    from zeronorm.evaluation.verify import Verification


def verify(
    run: Annotated[
        Path, typer.Argument(help="Folder of a complete run, comparison, matrix or run of certificates.")
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="The model, if it is now called otherwise; package.module:callable for one made in Python. Of a "
            "comparison or matrix NAME=MODEL, again for each."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="The data set, if it is now called otherwise; package.module:callable for one made in Python, which "
            "returns a Dataset or (x, y)."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Its part, if the run does not name one.")] = None,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Run the code that the run names as its model: package.module:callable or joblib:FILE.",
        ),
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Of certificates: make all again, not a sample that chance draws.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    json_: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Check every claim of a run against its model and data: exit status 1 if one does not hold.

    Example: zeronorm verify runs/quickstart

    Made in Python: zeronorm verify runs/mine --model my_code:model --data my_code:data --trust

    What holds is printed, with what nobody can check from the records, the model and the data.
    """
    from zeronorm.records.figures import check_run
    from zeronorm.records.folders import CertificateFolder, ComparisonFolder, MatrixFolder, RunFolder

    run = local_path(run, "run")
    # before anything heavy: is this a run at all?
    matrix = MatrixFolder(run).read() if MatrixFolder(run).exists() else None
    comparison = ComparisonFolder(run)
    runs = [comparison.run(part["path"]) for part in comparison.read()["runs"]] if comparison.exists() else []
    certificates = CertificateFolder(run).holds_certificates()
    records = []
    if matrix is None:
        records = [
            folder.read() for folder in runs or [CertificateFolder(run) if certificates else RunFolder(run)]
        ]
    if not certificates:
        for record in records:
            check_run(record)

    import zeronorm as zn
    from zeronorm.cli.model import as_measured, resolve_device

    where = resolve_device(device)
    with reading(run):
        if matrix is not None:
            plan, command = matrix["plan"], matrix.get("command")
            sources = {str(entry["name"]): _source(run, entry) for entry in matrix["models"]}
        else:
            plan, command = records[0]["plan"], records[0].get("command")
            sources = {name: name for name in (str(record["plan"]["model"]["name"]) for record in records)}
    several = matrix is not None or bool(runs)
    told = _named_models(model or [], sources, several)
    if not trust:
        refuse_code((source for name, source in sources.items() if name not in told), several)
    networks = {}
    for name, source in (sources | told).items():
        with _named("model", name, command is None and name not in told):
            networks[name] = _model(source, where, trust, plan["data"].get("schema"))
    if matrix is None and not certificates:
        for record in records:
            name = str(record["plan"]["model"]["name"])
            networks[name] = as_measured(networks[name], record["plan"]["model"])
    with _named("data", data or str(plan["data"]["name"]), command is None and data is None):
        dataset = data_of(plan, data, split)
    first = next(iter(networks.values()))
    if matrix is not None:
        result = zn.verify_matrix(run, networks, dataset, everything=everything)
        found = f"of {len(networks)} models, certificates among them, {_searched(result)}"
    elif certificates:
        result = zn.verify_certificates(run, first, dataset, everything=everything)
        found = f"{result.predictions} certificates"
    else:
        result = (
            zn.verify_comparison(run, networks, dataset)
            if runs
            else zn.verify(run, first, dataset, everything=everything)
        )
        found = _searched(result)
    _told(result, found, run, json_)


def _source(run: Path, entry: dict[str, Any]) -> str:
    """How a model of a matrix is loaded; its path may start in the matrix's folder."""
    from zeronorm.models.checkpoint import SIDECAR

    source = str(entry["source"] or entry["name"])
    return str(run / source) if (run / source / SIDECAR).exists() else source


def _named_models(words: list[str], sources: dict[str, str], several: bool) -> dict[str, str]:
    """What `--model` said of which model."""
    if not several:
        if len(words) > 1:
            raise ArgumentError(f"model: expected one for a single run, got {', '.join(words)}")
        return {name: words[0] for name in sources} if words else {}
    told = {}
    for word in words:
        name, equals, source = word.partition("=")
        if not equals or name not in sources or not source:
            raise ArgumentError(f"model: expected NAME=MODEL, a NAME of {', '.join(sources)}, got {word!r}")
        told[name] = source
    return told


def _model(source: str, where: Any, trust: bool, schema: str | None) -> Any:
    from zeronorm.cli.model import resolve_model
    from zeronorm.data import Schema

    return resolve_model(source, where, trust=trust, schema=None if schema is None else Schema.parse(schema))


def data_of(plan: dict[str, Any], data: str | None, split: str | None) -> Any:
    """The data that a run was made on, as its plan or the command says: a data set, or a function of one's own."""
    from zeronorm import checks
    from zeronorm.cli.model import imported, is_code

    told = plan["data"]
    n = checks.integer("plan.data.n", told["n"], 1)
    name, part = data or str(told["name"]), split or told.get("split", "test")
    if data is not None and is_code(data):
        found = imported(data, "data")
        return found() if callable(found) else found
    if "schema" not in told:
        return options.dataset(name, part, n)

    import zeronorm as zn

    known = zn.data.Schema.parse(str(told["schema"]))
    return zn.data.load(name, part, n, target=str(told["target"]), schema=known, toward=told.get("toward"))


def refuse_code(sources: Iterable[str], several: bool) -> None:
    """Records may come from anyone: what they name is not imported unasked."""
    from zeronorm.cli.model import is_code

    if (code := next(filter(is_code, sources), None)) is not None:
        raise ArgumentError(
            f"model: the run names {code!r}, code that would be imported and run; if you trust it, say so with --trust"
            f", or with --model {'NAME=' if several else ''}{code}"
        )


def _searched(result: Verification) -> str:
    return f"{result.predictions} clean predictions and {result.adversarials} adversarials"


def _told(result: Verification, found: str, run: Path, json_: bool) -> None:
    """Say what held and what did not; the exit status follows."""
    for problem in result.problems[:20]:
        print(printable([f"does not hold: {problem}"]))
    if len(result.problems) > 20:
        print(f"... and {len(result.problems) - 20} more")
    lines = [f"note: {note}" for note in result.notes]
    if result.ok:
        lines += [f"confirmed: {figure}" for figure in result.figures]
        lines += [f"not checked: {what}" for what in result.unchecked]
        lines += [f"every claim holds: {found} re-checked on fresh passes"]
    if lines:
        print(printable(lines))
    if json_:
        checked = {"predictions": result.predictions, "adversarials": result.adversarials}
        told = {name: getattr(result, name) for name in ("problems", "figures", "notes", "unchecked")}
        print(json.dumps({"ok": result.ok, "run": str(run)} | told | checked))
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
            f"say what to load with --{what} package.module:callable, or verify from Python: "
            "zeronorm.verify(run, model, data)"
        ) from error
