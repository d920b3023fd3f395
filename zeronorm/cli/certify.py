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


def certify(
    model: Annotated[
        str | None,
        typer.Option(
            help="A built-in model, a checkpoint folder, a Hugging Face Hub id, or package.module:callable; of "
            "randomized ablation the base classifier."
        ),
    ] = None,
    data: options.Data = "mnist",
    split: options.Split = "test",
    limit: options.Limit = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="randomized_ablation, l0_lipschitz, feature_partition or truncation_window (default: what the "
            "model is made for)."
        ),
    ] = None,
    retained: Annotated[
        int | None,
        typer.Option(help="Of randomized ablation: pixels shown (default: as the model was trained)."),
    ] = None,
    null: Annotated[
        str, typer.Option(help="What hides a pixel: multichannel (doubles the channels) or mean.")
    ] = "multichannel",
    mean: Annotated[str | None, typer.Option(help="The colour of null mean, such as 0.1307.")] = None,
    n0: Annotated[int, typer.Option(help="Votes that choose the class.")] = 1000,
    n: Annotated[int, typer.Option(help="Votes that bound its share.")] = 10_000,
    alpha: Annotated[float, typer.Option(help="Chance that an image's certificate is wrong.")] = 0.05,
    bound: Annotated[
        str,
        typer.Option(help="What the share is compared with: half, or all_votes (tighter, Jia et al. 2022)."),
    ] = "half",
    looks: Annotated[
        int,
        typer.Option(
            help="Places (n, n / 2, n / 4, ...) where the votes of an image may end, since more promise no larger "
            "radius; the confidence stays alpha's."
        ),
    ] = 1,
    precision: Annotated[
        str,
        typer.Option(help="Of votes: float32, or bfloat16, where close ones are cast again in float32."),
    ] = "float32",
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
    workers: options.Workers = None,
    ray: options.Ray = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run (default: under runs/). The same command resumes it."),
    ] = None,
    json_: options.Json = False,
) -> None:
    """For each image: how many pixels may be changed, to any values, without changing the answer, proved?

    Example: zeronorm certify --model runs/ablation --data mnist --limit 100

    Without votes:  zeronorm certify --model l0-lipschitz-mnist --data mnist

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
    colour = None if mean is None else _numbers(mean)
    command = shlex.join(["zeronorm", *sys.argv[1:]])
    asked = [str(counts), model, data, split, limit, method, retained, null, mean, n0, n, alpha, bound, seed]
    asked += [looks, precision] if (looks, precision) != (1, "float32") else []

    import zeronorm as zn

    about = [counts.name] if counts is not None else [str(model), data]
    out = out or options.default_out(["certify", *about], asked)
    with options.resumable(out):
        if counts is not None:
            result = zn.recertify(counts, out, alpha=alpha, bound=bound, command=command)
        else:
            assert model is not None
            from zeronorm.cli.model import resolve_device, resolve_model
            from zeronorm.cli.progress import Display

            network = resolve_model(model, resolve_device(device))
            dataset = options.dataset(data, split, limit)
            with options.at_work(workers, ray) as pool, Display() as display:
                result = zn.certify(
                    network,
                    dataset,
                    method,
                    out,
                    retained=retained,
                    null=null,
                    mean=colour,
                    n0=n0,
                    n=n,
                    alpha=alpha,
                    bound=bound,
                    looks=looks,
                    precision=precision,
                    batch_size=batch_size,
                    seed=seed,
                    name=model,
                    command=command,
                    workers=pool,
                    on_progress=display.show,
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
