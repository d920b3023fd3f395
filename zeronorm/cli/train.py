"""`zeronorm train`: a model from data, as a checkpoint folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zeronorm.cli.options import attacks
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
        str | None,
        typer.Option(
            help=f"Architecture, such as lenet5, resnet20 (default: {TrainingPlan.model}; l0_lipschitz and "
            "feature_partition: that of the name)."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An argument of the architecture: width=0.25."),
    ] = None,
    initial: Annotated[
        str | None,
        typer.Option(
            help="A trained model to start from; it brings its architecture, and its zeros stay zero."
        ),
    ] = None,
    prune: Annotated[
        float, typer.Option(help="Share of every layer's non-zero weights to prune on the way, the smallest.")
    ] = TrainingPlan.prune,
    prune_rounds: Annotated[
        int, typer.Option(help="Rounds of pruning, spread over the epochs.")
    ] = TrainingPlan.prune_rounds,
    keep_dense: Annotated[
        str, typer.Option(help="Layers that are not pruned, with commas between them: first,last.")
    ] = "",
    l1: Annotated[
        float, typer.Option(help="Weight of the absolute sum of the weights in the loss.")
    ] = TrainingPlan.l1,
    method: Annotated[
        str,
        typer.Option(
            help="Training method: standard, sat, strades, fast_ls, truncated or linf_adversarial; ablation, "
            "truncation_window, l0_lipschitz or feature_partition, to be certified."
        ),
    ] = TrainingPlan.method,
    k: Annotated[
        int | None, typer.Option(help="Pixels that may change; the robust methods train against more.")
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(metavar="E", help="Of linf_adversarial: every value may change, each by at most E."),
    ] = None,
    multi_k: Annotated[
        float, typer.Option(help="Budget of the training's attack, in multiples of k.")
    ] = TrainingPlan.multi_k,
    attack: Annotated[
        str | None,
        typer.Option(
            help="Attack to train against, name:option=value; of several, one is drawn for each mini-batch "
            "(default: sparse_pgd; truncated: sparse_rs)."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Updates of the training's attack (default: 20; fast_ls: 1; linf_adversarial: 40; truncated: 300)."
        ),
    ] = None,
    step_size: Annotated[
        float | None,
        typer.Option(help="Of linf_adversarial: of each update (default: a quarter of epsilon)."),
    ] = None,
    gradient: Annotated[
        str, typer.Option(help="Of sparse_pgd: random, projected, unprojected or alternate.")
    ] = TrainingPlan.gradient,
    tolerance: Annotated[
        int, typer.Option(help="Of sparse_pgd: steps before a mask that is stuck is drawn anew.")
    ] = TrainingPlan.tolerance,
    beta: Annotated[
        float, typer.Option(help="Of strades and fast_ls: weight of the trade-off term.")
    ] = TrainingPlan.beta,
    noise: Annotated[
        float, typer.Option(help="Of fast_ls: pixels of noise, in multiples of the attack's budget.")
    ] = TrainingPlan.noise,
    label_momentum: Annotated[
        float, typer.Option(help="Of fast_ls: weight of the past in an example's soft label.")
    ] = TrainingPlan.label_momentum,
    label_warm_up: Annotated[
        float, typer.Option(help="Of fast_ls: share of the epochs with the given labels.")
    ] = TrainingPlan.label_warm_up,
    retained: Annotated[int, typer.Option(help="Of ablation: pixels shown.")] = TrainingPlan.retained,
    null: Annotated[
        str, typer.Option(help="Of ablation: what hides a pixel, multichannel or mean.")
    ] = TrainingPlan.null,
    append_every: Annotated[
        int, typer.Option(help="Of truncated: epochs between attacks on the training images.")
    ] = TrainingPlan.append_every,
    append_limit: Annotated[
        int | None, typer.Option(help="Of truncated: attack so many of them at most.")
    ] = None,
    box_factor: Annotated[
        float, typer.Option(help="Of truncated: how much wider than the images' the attack's box is.")
    ] = TrainingPlan.box_factor,
    budget: Annotated[
        float | None,
        typer.Option(
            help="Of l0_lipschitz, feature_partition and truncation_window: changes to train against (default: 26, 44 "
            "and 10)."
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Of the same two: divides the logits, in pixels or votes (default: 5; feature_partition: 24)."
        ),
    ] = None,
    groups: Annotated[
        int | None,
        typer.Option(help="Of feature_partition: groups of a partition in each step (default: 8)."),
    ] = None,
    sharpness: Annotated[
        float | None,
        typer.Option(help="Of feature_partition: multiplies the scores at the end (default: 2)."),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Passes over the training images (default: 20; l0_lipschitz: 6; feature_partition: 120)."
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Images in a step, at most (default: 128; l0_lipschitz, feature_partition: 250)."),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Initial learning rate (default: 0.05; l0_lipschitz: 0.01; feature_partition: 0.004)."
        ),
    ] = None,
    schedule: Annotated[
        str, typer.Option(help="Learning rate: cosine, or step (a tenth at 1/4 and at 3/4).")
    ] = TrainingPlan.schedule,
    momentum: Annotated[float, typer.Option(help="Momentum.")] = TrainingPlan.momentum,
    weight_decay: Annotated[
        float | None,
        typer.Option(help="Weight decay (default: 0.0005; feature_partition: 0.02)."),
    ] = None,
    average: Annotated[
        float, typer.Option(help="Keep a moving average of the weights, with this momentum; 0: none.")
    ] = TrainingPlan.average,
    crop: Annotated[
        int | None,
        typer.Option(
            help="Augment by random crops after so much padding (default: 0; feature_partition: 2)."
        ),
    ] = None,
    flip: Annotated[
        bool | None,
        typer.Option(help="Augment by mirror images (default: no; feature_partition: yes)."),
    ] = None,
    normalize: Annotated[
        bool, typer.Option(help="Let the model normalise by the mean and deviation of the training images.")
    ] = TrainingPlan.normalize,
    validation: Annotated[
        float, typer.Option(help="Fraction of the training images held out to choose the best epoch.")
    ] = TrainingPlan.validation,
    validation_limit: Annotated[
        int, typer.Option(help="Held-out images that are attacked after each epoch, at most.")
    ] = TrainingPlan.validation_limit,
    validation_steps: Annotated[
        int, typer.Option(help="Updates of sparse_pgd on them, with either gradient.")
    ] = TrainingPlan.validation_steps,
    validation_queries: Annotated[
        int, typer.Option(help="Queries of sparse_rs on those left.")
    ] = TrainingPlan.validation_queries,
    limit: Annotated[int | None, typer.Option(help="Use only so many training images.")] = None,
    seed: Annotated[int, typer.Option(help="Names everything random.")] = TrainingPlan.seed,
    precision: Annotated[
        str | None,
        typer.Option(help="float32 or bfloat16 (default: float32; feature_partition: bfloat16)."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = TrainingPlan.device,
    devices: Annotated[
        int | None, typer.Option(help="Share every batch among so many devices, a process each (default: 1).")
    ] = None,
    track: Annotated[
        str, typer.Option(help="Programs that get the metrics too: tensorboard, mlflow, or both.")
    ] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Continue the training in OUT.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Train a model.

    Example: zeronorm train --model small_cnn --data mnist --out runs/mnist

    Robust:  zeronorm train --method strades --k 10 --data mnist --out runs/mnist-robust

    OUT is then a model: zeronorm evaluate --model OUT.

    Channels, image size, classes and normalisation follow from the data.

    Sparse:  zeronorm train --initial runs/mnist --prune 0.9 --prune-rounds 4 --data mnist --out runs/mnist-sparse

    A training that was stopped continues with --resume, on any number of devices.

    With --devices 4, or by torchrun --nproc-per-node 4 -m zeronorm train ..., it is shared; what is learnt is the same.
    """
    from zeronorm import checks
    from zeronorm.cli.train_devices import end_with_launcher, is_first, launched, processes
    from zeronorm.files import local_path
    from zeronorm.training.methods import METHODS
    from zeronorm.training.processes import ToldByTheFirst

    out = local_path(out)
    certified = ("l0_lipschitz", "feature_partition")  # by loops of their own
    method = checks.choice("method", method.replace("-", "_"), (*METHODS, *certified))
    options: dict[str, Any] = {
        "data": data, "model_arguments": _model_arguments(set_ or []),
        "initial": initial, "prune": prune, "prune_rounds": prune_rounds, "keep_dense": _words(keep_dense), "l1": l1,
        "method": method, "k": k, "multi_k": multi_k,
        "epsilon": epsilon, "step_size": step_size,
        "attack": attack if attack is None else {name: given for name, given in attacks(attack).values()},
        "steps": steps, "gradient": gradient, "tolerance": tolerance, "beta": beta, "noise": noise,
        "label_momentum": label_momentum, "label_warm_up": label_warm_up, "retained": retained, "null": null,
        "append_every": append_every, "append_limit": append_limit, "box_factor": box_factor,
        "schedule": schedule, "momentum": momentum,
        "average": average, "normalize": normalize,
        "validation": validation, "validation_limit": validation_limit, "validation_steps": validation_steps,
        "validation_queries": validation_queries, "limit": limit, "seed": seed,
        "device": device, "track": _words(track),
        "resume": resume,
    }  # fmt: skip
    varying = {  # with the method
        "model": model, "epochs": epochs, "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay,
        "crop": crop, "flip": flip, "precision": precision,
    }  # fmt: skip
    own = {"budget": budget, "temperature": temperature, "groups": groups, "sharpness": sharpness}
    here = processes(devices)
    if method in certified:
        from zeronorm.training.certified import train_certified

        if max(here, devices or 1) > 1:
            raise ArgumentError(f"devices: the method {method} trains on one, got {max(here, devices or 1)}")
        given = {n: v for n, v in options.items() if v != getattr(TrainingPlan, n, None)} | own | varying
        train_certified(
            method, out, data, model or options["method"], options["model_arguments"], limit,
            {name: value for name, value in given.items() if value is not None}, json_,
        )  # fmt: skip
        return
    if budget is not None and "budget" in METHODS[options["method"]].uses:
        options["budget"] = int(budget) if budget.is_integer() else budget
        del own["budget"]
    if foreign := [name for name, value in own.items() if value is not None]:
        raise ArgumentError(f"{foreign[0]}: the method {method} takes no {foreign[0]}")
    options |= {name: value for name, value in varying.items() if value is not None}
    plan = TrainingPlan(out=out, **options)
    if devices is not None and devices > here:
        raise typer.Exit(launched(devices, plan.device, plan.batch_size))
    end_with_launcher()
    first = is_first()
    if resume and first and not out.exists():
        typer.echo(f"nothing to resume in {out}: a new training begins", err=True)
    try:
        result = _train(plan)
    except KeyboardInterrupt as stop:
        if first:
            typer.echo(f"stopped; the same command with --resume continues the training in {out}", err=True)
        raise typer.Exit(128 + getattr(stop, "number", 2)) from None
    except ToldByTheFirst:
        raise typer.Exit(2) from None
    if not first:
        return
    typer.echo(str(result))
    if plan.prune:
        _say_if_dead(result, plan)
    proved = plan.method in ("ablation", "truncation_window")
    then, budgets = ("certify", "--limit 100") if proved else ("evaluate", "--k 1,2,4,8")
    if plan.epsilon is not None:
        budgets = f"--epsilon {plan.epsilon:g}"
    typer.echo(f"next: zeronorm {then} --model {shlex.quote(str(out))} --data {shlex.quote(data)} {budgets}")
    if json_:
        typer.echo(_json(result))


def _say_if_dead(result: TrainingResult, plan: TrainingPlan) -> None:
    """Pruned too far, a network gives one answer to everything, and withstands every attack on that class."""
    from zeronorm.data import load
    from zeronorm.defenses.pruning import check_alive
    from zeronorm.training.methods import METHODS

    if METHODS[plan.method].encoding:  # not a network of plain images
        return
    try:
        check_alive(result.model, load(plan.data, "test", 100).x)
    except ArgumentError as error:
        typer.echo(f"warning: {error}", err=True)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


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

    from zeronorm.cli.train_devices import is_first
    from zeronorm.training.loop import train

    console = Console(stderr=True)
    if not console.is_terminal or not is_first():
        return train(plan, lambda at: _log(console, at))
    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        TextColumn("{task.fields[rate]} images/s"),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("accuracy {task.fields[accuracy]}"),
        TextColumn("validation {task.fields[validation]}"),
        TextColumn("robust {task.fields[robust]}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        fields: dict[str, Any] = dict.fromkeys(
            ("epoch", "rate", "loss", "accuracy", "validation", "robust"), "-"
        )
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
                robust=_percent(at.robust_accuracy),
            )

        return train(plan, show)


def _log(console: Any, at: Progress) -> None:
    if at.step == at.steps:
        robust = "" if at.robust_accuracy is None else f", robust {at.robust_accuracy:.1%}"
        console.print(
            f"epoch {at.epoch}/{at.epochs}: loss {at.loss:.4f}, accuracy {at.accuracy:.1%}, "
            f"validation {_percent(at.validation_accuracy)}{robust}",
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
            "robust_accuracy": result.robust_accuracy,
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
