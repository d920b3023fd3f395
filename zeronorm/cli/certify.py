"""`zeronorm certify`: how many pixels may change without changing the answer, proved."""

from __future__ import annotations

import inspect
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from zeronorm.cli import options
from zeronorm.errors import ArgumentError

_OF_METHODS = (
    "retained", "null", "mean", "keep", "levels", "n0", "n", "alpha", "bound", "looks", "precision",
)  # fmt: skip


def certify(
    model: Annotated[
        str | None,
        typer.Option(
            help="A built-in model, a checkpoint folder, a Hugging Face Hub id, xgboost:FILE, lightgbm:FILE, "
            "joblib:FILE (with --trust), or package.module:callable; of randomized ablation the base classifier."
        ),
    ] = None,
    data: options.Data = "mnist",
    split: options.Split = "test",
    limit: options.Limit = None,
    target: options.Target = None,
    schema: options.SchemaFile = None,
    toward: options.Toward = None,
    method: Annotated[
        str | None,
        typer.Option(help="A certificate, see zeronorm list (default: what the model is made for)."),
    ] = None,
    k: Annotated[
        str | None,
        typer.Option(help="Of methods that try budgets one after the other: these, such as 1,2,4."),
    ] = None,
    low: Annotated[
        float | None, typer.Option(help="Smallest value an input may take, of methods with a box.")
    ] = None,
    high: Annotated[float | None, typer.Option(help="Largest value an input may take.")] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Of methods that search for a proof: how long, for each example.")
    ] = None,
    retained: Annotated[
        int | None,
        typer.Option(help="Of randomized ablation: pixels shown (default: as the model was trained)."),
    ] = None,
    null: Annotated[
        str | None,
        typer.Option(
            help="What hides a pixel: multichannel (doubles the channels) or mean (default: multichannel)."
        ),
    ] = None,
    mean: Annotated[str | None, typer.Option(help="The colour of null mean, such as 0.1307.")] = None,
    keep: Annotated[
        float | None, typer.Option(help="Of discrete smoothing: the chance that a value stays.")
    ] = None,
    levels: Annotated[
        int | None, typer.Option(help="Of discrete smoothing: values a feature may take (default: 256).")
    ] = None,
    n0: Annotated[int | None, typer.Option(help="Votes that choose the class (default: 1000).")] = None,
    n: Annotated[int | None, typer.Option(help="Votes that bound its share (default: 10000).")] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Chance that an image's certificate is wrong (default: 0.05).")
    ] = None,
    bound: Annotated[
        str | None,
        typer.Option(
            help="What the share is compared with: half, or all_votes (tighter, Jia et al. 2022; default: half)."
        ),
    ] = None,
    looks: Annotated[
        int | None,
        typer.Option(
            help="Places (n, n / 2, n / 4, ...) where the votes of an image may end, since more promise no larger "
            "radius; the confidence stays alpha's (default: 1)."
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Of votes: float32, or bfloat16, where close ones are cast again in float32 (default: float32)."
        ),
    ] = None,
    counts: Annotated[
        Path | None,
        typer.Option(help="Folder of a complete run: its votes at this alpha and bound, without a model."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Images, ablated ones too, per pass (default: 1024, fewer where workers would have none); the result "
            "does not depend on it."
        ),
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    workers: options.WorkerCount = None,
    ray: options.Ray = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run (default: under runs/). The same command resumes it."),
    ] = None,
    trust: options.Trust = False,
    json_: options.Json = False,
) -> None:
    """For each image: how many pixels may be changed, to any values, without changing the answer, proved?

    Example: zeronorm certify --model runs/ablation --data mnist --limit 100

    Without votes:  zeronorm certify --model l0-lipschitz-mnist --data mnist

    Of a table:  zeronorm certify --model mypackage.mymodel:forest --data table:loans.csv --target granted --k 1,2,3

    At another confidence:  zeronorm certify --counts runs/RUN --alpha 0.001

    A run that was stopped goes on when the same command is given again.
    """
    given = dict(locals())
    if (model is None) == (counts is None):
        raise ArgumentError(
            "model, counts: expected one of the two: a model to certify, or the votes of a run"
        )
    if counts is not None:
        _alone(given)
    of_method = {name: given[name] for name in _OF_METHODS if given[name] is not None}
    if mean is not None:
        of_method["mean"] = _numbers(mean)
    budgets = None if k is None else options.budgets(k)
    command = shlex.join(["zeronorm", *sys.argv[1:]])
    asked = [str(counts), model, data, split, limit, method, budgets, low, high, seconds, of_method, seed]
    asked += [] if target is None else [target, schema, toward]

    import zeronorm as zn

    about = [counts.name] if counts is not None else [str(model), data]
    out = out or options.default_out(["certify", *about], asked)
    with options.resumable(out):
        if counts is not None:
            result = zn.recertify(counts, out, alpha=alpha, bound=bound, command=command)
        else:
            assert model is not None
            from zeronorm.certification.catalogue import get, made_for
            from zeronorm.cli.model import resolve_device, resolve_model
            from zeronorm.cli.progress import Display

            where = resolve_device(device)
            table = (
                options.dataset(data, split, limit, target, schema, toward)
                if data.startswith("table:")
                else None
            )
            network = resolve_model(model, where, trust=trust, schema=getattr(table, "schema", None))
            dataset = options.dataset(data, split, limit, target, schema, toward) if table is None else table
            row = get(method or made_for(network))
            box: dict[str, Any] = {
                name: value for name, value in (("low", low), ("high", high)) if value is not None
            }
            if (of_columns := getattr(dataset, "schema", None)) is not None:
                if box:
                    raise ArgumentError(
                        f"{next(iter(box))}: expected none of a table, whose schema has the bounds of each column"
                    )
                box = {"unit": "column", "schema": of_columns}
            threats = None if budgets is None else [zn.L0(one, **{"unit": row.unit} | box) for one in budgets]
            if threats is None and of_columns is None:
                of_method |= box  # an option, of a method that takes no budgets
            with options.at_work(workers, ray) as pool, Display() as display:
                result = zn.certify(
                    network,
                    dataset,
                    row.name,
                    out,
                    threats=threats,
                    seconds=seconds,
                    batch_size=batch_size,
                    seed=seed,
                    name=model,
                    command=command,
                    workers=pool,
                    on_progress=display.show,
                    **of_method,
                )
    print(result.table())
    print(f"\nreport: {result.run / 'report.html'}")
    if json_:
        print(json.dumps(result.as_json()))


def _alone(given: dict[str, Any]) -> None:
    """Complain of options that votes which were cast already leave no use for."""
    for name, parameter in inspect.signature(certify).parameters.items():
        if name not in ("counts", "alpha", "bound", "out", "json_") and given[name] != parameter.default:
            raise ArgumentError(f"{name}: expected none beside --counts, got {given[name]}")


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ArgumentError(f"mean: expected numbers with commas between them, got {text!r}") from None
