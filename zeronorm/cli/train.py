"""`zeronorm train`: a model from data, as a checkpoint folder.

The options are the fields of `TrainingPlan`, which says what each means and which values it takes.
"""

from __future__ import annotations

import inspect
import json
import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zeronorm.cli.options import Json, attacks, words
from zeronorm.cli.typed import number
from zeronorm.errors import ArgumentError
from zeronorm.training.option import Option
from zeronorm.training.plan import GROUPS, KINDS, LOOP, OPTIONS, TrainingPlan

if TYPE_CHECKING:
    from zeronorm.training.result import TrainingProgress, TrainingResult

_METAVARS = {int: "INTEGER", float: "NUMBER", tuple: "A,B", dict: "A,B", str: "TEXT"}
_DEVICES = Annotated[
    int | None, typer.Option(help="Share every batch among so many devices, a process each (default: 1).")
]


def train(devices: int | None, json_: bool, **given: Any) -> None:
    """Train a model.

    Example: zeronorm train --model small_cnn --data mnist --out runs/mnist

    Robust:  zeronorm train --method strades --k 10 --data mnist --out runs/mnist-robust

    Proved:  zeronorm train --method l0_lipschitz --data mnist --out runs/mnist-proved

    Sparse:  zeronorm train --initial runs/mnist --prune 0.9 --prune-rounds 4 --data mnist --out runs/mnist-sparse

    The result is a model: zeronorm evaluate --model OUT.

    A training that was stopped continues with --resume, on any number of devices.

    With --devices 4, or by torchrun --nproc-per-node 4 -m zeronorm train ..., it is shared; what is learnt is the same.
    """
    from zeronorm.cli.train_devices import end_with_launcher, is_first, launched, processes
    from zeronorm.files import local_path
    from zeronorm.training.certified import check_alone
    from zeronorm.training.methods import METHODS
    from zeronorm.training.processes import ToldByTheFirst

    here = processes(devices)
    method = str(given["method"] or OPTIONS["method"].default).replace("-", "_")
    plan = TrainingPlan(
        **{name: _read(name, said, method) for name, said in given.items() if said is not None}
    )
    if not plan.takes("resume"):
        check_alone(plan, max(here, devices or 1))
    if devices is not None and devices > here:
        raise typer.Exit(launched(devices, plan))
    end_with_launcher()
    first, out = is_first(), local_path(plan.out)
    if plan.resume and first and not out.exists():
        typer.echo(f"nothing to resume in {out}: a new training begins", err=True)
    try:
        result = _train(plan)
    except KeyboardInterrupt as stop:
        if first:
            kept = f"the same command with --resume continues the training in {out}"
            typer.echo(f"stopped; {kept if plan.takes('resume') else 'nothing is kept'}", err=True)
        raise typer.Exit(128 + getattr(stop, "number", 2)) from None
    except ToldByTheFirst:
        raise typer.Exit(2) from None
    if not first:
        return
    typer.echo(str(result))
    if plan.prune:
        _warn_if_dead(result, plan)
    then, budgets = (
        ("certify", "--limit 100") if METHODS[plan.method].certifiable else ("evaluate", "--k 1,2,4,8")
    )
    if plan.epsilon is not None:
        budgets = f"--epsilon {plan.epsilon:g}"
    typer.echo(
        f"next: zeronorm {then} --model {shlex.quote(str(out))} --data {shlex.quote(plan.data)} {budgets}"
    )
    if json_:
        typer.echo(_json(result))


def _parameter(name: str, option: Option) -> inspect.Parameter:
    """The command-line option of a field of the plan; its value is None if it was not typed."""
    kind = KINDS[name]
    facts: dict[str, Any] = {"help": option.sentence(LOOP), "rich_help_panel": option.group or None}
    flag = f"--{name.replace('_', '-')}"
    if kind is bool:
        facts["show_default"] = False
    else:
        facts["metavar"] = option.metavar or _METAVARS[kind]
    if name == "model_arguments":
        typed: Any = Annotated[list[str] | None, typer.Option("--set", **facts)]
    elif kind is bool:
        typed = Annotated[bool | None, typer.Option(**facts)]
    elif name == "out":
        typed = Annotated[str, typer.Option(flag, **facts)]
    else:
        typed = Annotated[str | None, typer.Option(flag, **facts)]
    default = inspect.Parameter.empty if name == "out" else None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=typed)


def _signature() -> inspect.Signature:
    """The options of the command line, sorted by group."""
    fields = [_parameter(name, option) for name, option in OPTIONS.items()]
    fields.sort(key=lambda field: GROUPS.index(OPTIONS[field.name].group))
    own = [
        inspect.Parameter("devices", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_DEVICES),
        inspect.Parameter("json_", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json),
    ]
    return inspect.Signature([*fields, *own])


train.__signature__ = _signature()  # type: ignore[attr-defined]  # which typer reads
train.__annotations__ = {}


def _read(name: str, said: Any, method: str) -> Any:
    """Convert what was typed to the type of the plan's field."""
    kind = KINDS[name]
    if name == "model_arguments":
        return _model_arguments(said)
    if name == "attack":
        return dict(attacks(said).values())
    if kind in (int, float):
        return OPTIONS[name].check(name, number(said), method, kind)
    return words(said) if kind is tuple else said


def _model_arguments(settings: list[str]) -> dict[str, Any]:
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


def _warn_if_dead(result: TrainingResult, plan: TrainingPlan) -> None:
    """Warn if the network gives one answer to everything, which would look robust under every attack."""
    from zeronorm.data import load
    from zeronorm.defenses.pruning import check_alive

    if plan.method == "ablation":  # its network sees ablated images
        return
    try:
        check_alive(result.model, load(plan.data, "test", 100).x)
    except ArgumentError as error:
        typer.echo(f"warning: {error}", err=True)


def _train(plan: TrainingPlan) -> TrainingResult:
    """Train under a progress bar on a terminal, a line per epoch in a log."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from zeronorm.cli.train_devices import is_first
    from zeronorm.training.loop import train

    console = Console(stderr=True)
    if not console.is_terminal or not is_first():
        return train(plan, lambda at: _log(console, at))
    fields = ("epoch", "images/s", "loss", "accuracy", "validation", "robust")
    columns: list[Any] = [TextColumn(f"{name} {{task.fields[{name}]}}") for name in fields]
    columns[1:2] = [BarColumn(), TextColumn("{task.fields[images/s]} images/s")]
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        unknown: dict[str, Any] = dict.fromkeys(fields, "-")
        task = bar.add_task("train", total=None, **unknown)

        def show(at: TrainingProgress) -> None:
            done = (at.epoch - 1) * at.steps + at.step
            if bar.tasks[0].total is None:
                # first call: epochs before a resume are done, but do not count for the speed
                bar.reset(task, total=at.epochs * at.steps, completed=done)
            speed = bar.tasks[0].speed
            rate = "-" if speed is None else f"{speed * at.examples / at.step:,.0f}"
            figures: dict[str, Any] = _figures(at) | {"images/s": rate}
            bar.update(task, completed=done, **figures)

        return train(plan, show)


def _figures(at: TrainingProgress) -> dict[str, str]:
    return {
        "epoch": f"{at.epoch}/{at.epochs}",
        "loss": f"{at.loss:.4f}",
        "accuracy": _percent(at.accuracy),
        "validation": _percent(at.validation_accuracy),
        "robust": _percent(at.robust_accuracy),
    }


def _log(console: Any, at: TrainingProgress) -> None:
    if at.step == at.steps:
        epoch, *rest = _figures(at).items()
        said = ", ".join(f"{name} {figure}" for name, figure in rest if figure != "-")
        console.print(f"epoch {epoch[1]}: {said}", highlight=False, soft_wrap=True)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _json(result: TrainingResult) -> str:
    from zeronorm.models.checkpoint import SIDECAR, WEIGHTS

    told = {
        "accuracy": result.accuracy,
        "n": result.n,
        "split": result.split,
        "seconds": result.seconds,
        "digest": result.model.facts["digest"],
        "out": str(result.out),
        "weights": str(result.out / WEIGHTS),
        "sidecar": str(result.out / SIDECAR),
    }
    if result.certified is not None:
        return json.dumps(told | {"certified": result.certified})
    chosen = {
        "validation_accuracy": result.validation_accuracy,
        "robust_accuracy": result.robust_accuracy,
        "best_epoch": result.best_epoch,
        "epochs": len(result.history),
        "metrics": str(result.out / "metrics.csv"),
    }
    return json.dumps(told | chosen)
