"""`zeronorm train`: a model from data, as a checkpoint folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zeronorm.errors import ArgumentError
from zeronorm.training.plan import TrainingPlan

if TYPE_CHECKING:
    from zeronorm.training.loop import Progress, TrainingResult


def train(
    out: Annotated[Path, typer.Option(help="Folder for the model, its metrics and its checkpoint.")],
    data: Annotated[
        str, typer.Option(help="Data set: digits, mnist, cifar10, ..., parquet:PATH, folder:PATH.")
    ] = TrainingPlan.data,
    model: Annotated[
        str, typer.Option(help="Architecture, such as small_cnn, lenet5, resnet20.")
    ] = TrainingPlan.model,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An argument of the architecture: width=0.25."),
    ] = None,
    method: Annotated[
        str, typer.Option(help="Training method: standard; ablation or l0_lipschitz, to be certified.")
    ] = TrainingPlan.method,
    retained: Annotated[int | None, typer.Option(help="Of ablation: pixels shown (default: 45).")] = None,
    null: Annotated[
        str | None, typer.Option(help="Of ablation: what hides a pixel, multichannel (default) or mean.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="Of l0_lipschitz: changes to train against (default: 26).")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Of l0_lipschitz: divides the logits, in pixels (default: 5).")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = TrainingPlan.epochs,
    batch_size: Annotated[int, typer.Option(help="Images in a step, at most.")] = TrainingPlan.batch_size,
    lr: Annotated[float, typer.Option(help="Initial learning rate.")] = TrainingPlan.lr,
    schedule: Annotated[
        str, typer.Option(help="Learning rate: cosine, or step (a tenth at 1/4 and at 3/4).")
    ] = TrainingPlan.schedule,
    momentum: Annotated[float, typer.Option(help="Momentum.")] = TrainingPlan.momentum,
    weight_decay: Annotated[float, typer.Option(help="Weight decay.")] = TrainingPlan.weight_decay,
    crop: Annotated[
        int, typer.Option(help="Augment by random crops after so much padding.")
    ] = TrainingPlan.crop,
    flip: Annotated[bool, typer.Option(help="Augment by mirror images.")] = TrainingPlan.flip,
    normalize: Annotated[
        bool, typer.Option(help="Let the model normalise by the mean and deviation of the training images.")
    ] = TrainingPlan.normalize,
    validation: Annotated[
        float, typer.Option(help="Fraction of the training images held out to choose the best epoch.")
    ] = TrainingPlan.validation,
    limit: Annotated[int | None, typer.Option(help="Use only so many training images.")] = None,
    seed: Annotated[int, typer.Option(help="Names everything random.")] = TrainingPlan.seed,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = TrainingPlan.precision,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = TrainingPlan.device,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the training in OUT.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Train a model.

    Example: zeronorm train --model small_cnn --data mnist --out runs/mnist

    OUT is then a model: zeronorm evaluate --model OUT.

    Channels, image size, classes and normalisation follow from the data.

    A training that was stopped continues with --resume.
    """
    asked = {"retained": retained, "null": null, "budget": budget, "temperature": temperature}
    if method.replace("-", "_") in ("ablation", "l0_lipschitz"):
        # of the options that every method has, those that were given
        shared: dict[str, Any] = {
            name: value
            for name, value in (
                ("epochs", epochs), ("batch_size", batch_size), ("lr", lr), ("momentum", momentum),
                ("weight_decay", weight_decay), ("crop", crop), ("flip", flip), ("seed", seed),
            )
            if value != getattr(TrainingPlan, name)
        }  # fmt: skip
        from zeronorm.cli.train_certifiable import train_certifiable

        kind = method.replace("-", "_")
        train_certifiable(
            kind, out, data, model, _model_arguments(set_ or []), device, limit, asked | shared, json_
        )
        return
    if foreign := [name for name, value in asked.items() if value is not None]:
        raise ArgumentError(f"{foreign[0]}: the method {method} takes no {foreign[0]}")
    plan = TrainingPlan(
        out=out,
        data=data,
        model=model,
        model_arguments=_model_arguments(set_ or []),
        method=method,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        schedule=schedule,
        momentum=momentum,
        weight_decay=weight_decay,
        crop=crop,
        flip=flip,
        normalize=normalize,
        validation=validation,
        limit=limit,
        seed=seed,
        precision=precision,
        device=device,
        resume=resume,
    )
    try:
        result = _train(plan)
    except KeyboardInterrupt:
        typer.echo(f"stopped; the same command with --resume continues the training in {out}", err=True)
        raise typer.Exit(130) from None
    typer.echo(str(result))
    typer.echo(
        f"next: zeronorm evaluate --model {shlex.quote(str(out))} --data {shlex.quote(data)} --k 1,2,4,8"
    )
    if json_:
        typer.echo(_json(result))


def _model_arguments(settings: list[str]) -> dict[str, Any]:
    import json

    arguments: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not name or not equals:
            raise ArgumentError(f"set: expected NAME=VALUE, got {setting!r}")
        try:
            arguments[name.replace("-", "_")] = json.loads(value)
        except ValueError:  # a word, such as relu
            arguments[name.replace("-", "_")] = value
    return arguments


def _train(plan: TrainingPlan) -> TrainingResult:
    """Train under a progress bar on a terminal, a line per epoch in a log."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from zeronorm.training.loop import train

    console = Console(stderr=True)
    if not console.is_terminal:
        return train(plan, lambda at: _log(console, at))
    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        TextColumn("{task.fields[rate]} images/s"),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("accuracy {task.fields[accuracy]}"),
        TextColumn("validation {task.fields[validation]}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        fields: dict[str, Any] = dict.fromkeys(("epoch", "rate", "loss", "accuracy", "validation"), "-")
        task = bar.add_task("train", total=None, **fields)

        def show(at: Progress) -> None:
            done = (at.epoch - 1) * at.steps + at.step
            if bar.tasks[0].total is None:
                # the first call: epochs before a resume count as done, but not for the speed
                bar.reset(task, total=at.epochs * at.steps, completed=done)
            speed = bar.tasks[0].speed
            bar.update(
                task,
                completed=done,
                epoch=f"{at.epoch}/{at.epochs}",
                rate="-" if speed is None else f"{speed * at.examples / at.step:,.0f}",
                loss=f"{at.loss:.4f}",
                accuracy=f"{at.accuracy:.1%}",
                validation=_percent(at.validation_accuracy),
            )

        return train(plan, show)


def _log(console: Any, at: Progress) -> None:
    if at.step == at.steps:
        console.print(
            f"epoch {at.epoch}/{at.epochs}: loss {at.loss:.4f}, accuracy {at.accuracy:.1%}, "
            f"validation {_percent(at.validation_accuracy)}",
            highlight=False,
            soft_wrap=True,
        )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _json(result: TrainingResult) -> str:
    import json

    from zeronorm.models.checkpoint import SIDECAR, WEIGHTS

    return json.dumps(
        {
            "accuracy": result.accuracy,
            "n": result.n,
            "split": result.split,
            "validation_accuracy": result.validation_accuracy,
            "best_epoch": result.best_epoch,
            "epochs": len(result.history),
            "seconds": result.seconds,
            "digest": result.model.facts["digest"],
            "out": str(result.out),
            "weights": str(result.out / WEIGHTS),
            "sidecar": str(result.out / SIDECAR),
            "metrics": str(result.out / "metrics.csv"),
        }
    )
