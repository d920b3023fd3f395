"""`zeronorm matrix`: every defence against every attack and certificate, on one page."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zeronorm.cli import options
from zeronorm.errors import ArgumentError

if TYPE_CHECKING:
    from zeronorm.data import Dataset, Stream

_MODELS = "models"
_ATTACKS = "sparse_pgd,sparse_pgd:gradient=projected,sigma_zero,guided_exchange,sparse_rs,sparse_autoattack"


@options.bundled
def matrix(
    *,
    out: Annotated[Path, typer.Option(help="Folder of the matrix. The same command resumes it.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model as of evaluate, or NAME=MODEL; give it again for each. Default: every defence, trained "
            "first. The first of all is what the others are judged against."
        ),
    ] = None,
    defense: Annotated[
        str | None,
        typer.Option(
            help="Defences to train, with commas, before those of --model (default: all, where there is none)."
        ),
    ] = None,
    search: options.SearchOptions,
    k: Annotated[str, typer.Option(help="Budgets: how many pixels may change.")] = "1,2,4",
    channels: options.ChannelAxis = None,
    attack: Annotated[
        str, typer.Option(help="Attacks as of compare, or all: every sparse attack of the catalogue.")
    ] = _ATTACKS,
    votes: Annotated[
        int, typer.Option(help="Of randomized ablation: votes for an answer under attack.")
    ] = 100,
    n: Annotated[int, typer.Option(help="Of randomized ablation: votes for a certificate.")] = 1000,
    alpha: Annotated[float, typer.Option(help="Chance that one of its certificates is wrong.")] = 0.05,
    train_k: Annotated[
        int | None,
        typer.Option(help="Pixels that the defences are trained to withstand (default: the middle k)."),
    ] = None,
    epochs: Annotated[
        int, typer.Option(help="Length of the plain training; the others' are in proportion.")
    ] = 20,
    train_limit: Annotated[int | None, typer.Option(help="Use only so many training images.")] = None,
    json_: options.Json = False,
) -> None:
    """Every defence against every attack and certificate: which ones hold, and which fall to what?

    Example: zeronorm matrix --data digits --limit 100 --steps 100 --queries 500 --out runs/matrix

    Of your own models: zeronorm matrix --model plain=runs/a --model robust=runs/b --data mnist --out runs/ab

    The page shows the models and attacks asked for last; runs of others stay where they are, for when they are asked
    for again.

    Each model's searches are a comparison in OUT/MODEL/attacks, its proof in OUT/MODEL/certificate; models that
    are trained here stay in OUT/models. zeronorm verify OUT re-checks all of it.
    """
    from zeronorm import checks
    from zeronorm.attacks.catalogue import catalogue, get
    from zeronorm.files import local_path

    out = local_path(out)
    if attack == "all":
        attack = ",".join(name for name, entry in catalogue.items() if "L0" in entry.norms)
    said = options.attacks(attack)
    table = search.table()
    threats = options.AdversaryOptions(k=k, channels=channels).threats(table)
    checks.integer("epochs", epochs, 1)
    if train_limit is not None:
        checks.integer("train_limit", train_limit, 1)
    for name, _ in said.values():
        if ":" not in name:
            get(name)

    import zeronorm as zn
    from zeronorm.cli.model import resolve_device, resolve_model
    from zeronorm.cli.progress import Display
    from zeronorm.evaluation.comparison_plan import check_comparison
    from zeronorm.evaluation.matrix import check_matrix

    assert isinstance(threats, list)
    searches = options.searches(said)
    sources = _named(model or [])
    where = resolve_device(search.device)
    networks = {
        name: resolve_model(source, where, trust=search.trust, schema=getattr(table, "schema", None))
        for name, source in sources.items()
    }
    dataset = search.dataset() if table is None else table
    middle = sorted(threat.k or 0 for threat in threats)[len(threats) // 2]
    trainings = {
        "data": search.data, "train_k": max(1, middle) if train_k is None else train_k, "epochs": epochs,
        "train_limit": train_limit, "seed": search.seed,
    }  # fmt: skip
    known = {} if defense is None and sources else _recipes(dataset, defense, trainings)
    if twice := sorted(set(known) & set(sources)):
        raise ArgumentError(f"model: expected names other than those of the defences, got {twice[0]!r}")
    check_matrix(
        [*known, *sources], dataset, threats,
        **search.lengths(), votes=votes, n=n, alpha=alpha, batch_size=search.batch_size, seed=search.seed,
    )  # fmt: skip
    at_work = search.at_work()
    if known:
        _, colours, *sides = dataset.x.shape
        some = zn.models.build(
            "linear", in_channels=colours, image_size=sides, classes=len(dataset.class_names)
        )
        given = {name: value for name, value in search.lengths().items() if value is not None}
        # what no model could be asked
        check_comparison({"any model": some.eval()}, dataset, threats, searches, given)
        with options.resumable(out):
            _train(out / _MODELS, known, trainings, search.device)
        networks = {name: resolve_model(str(out / _MODELS / name), where) for name in known} | networks
        sources |= {name: f"{_MODELS}/{name}" for name in known}  # in the folder, wherever that goes
    with options.resumable(out), at_work as pool, Display() as display:
        found = zn.matrix(
            networks,
            dataset,
            threats,
            searches,
            out,
            **search.lengths(),
            votes=votes,
            n=n,
            alpha=alpha,
            batch_size=search.batch_size,
            seed=search.seed,
            sources=sources,
            command=shlex.join(["zeronorm", *sys.argv[1:]]),
            workers=pool,
            on_progress=display.show_titled,
        )
    print(found.table())
    print(f"\nreport: {found.path / 'report.html'}")
    if json_:
        print(json.dumps(found.as_json()))


def _named(models: list[str]) -> dict[str, str]:
    """What `--model` said: by the name before the equals sign, or by the last part of the model's own."""
    named: dict[str, str] = {}
    for text in models:
        name, equals, source = text.partition("=")
        if not equals:
            name, source = Path(text).name, text
        if not name or not source:
            raise ArgumentError(f"model: expected a model or NAME=MODEL, got {text!r}")
        if name in named:
            raise ArgumentError(f"model: expected different names, got {name!r} twice; say NAME=MODEL")
        named[name] = source
    return named


def _recipes(
    dataset: Dataset | Stream, asked: str | None, trainings: Mapping[str, Any]
) -> dict[str, list[str]]:
    """How the defences asked for are trained, by name."""
    from zeronorm import checks
    from zeronorm.cli.recipes import recipes

    if len(dataset.x.shape) != 4:
        raise ArgumentError(
            f"data: expected images, for which there are defences to train, got {dataset.name}"
        )
    channels, height, width = dataset.x.shape[1:]
    k = checks.integer("train_k", trainings["train_k"], 1, height * width)
    known = recipes(channels, (height, width), k, trainings["epochs"])
    words = list(known) if asked is None else [word.strip().replace("-", "_") for word in asked.split(",")]
    names = [checks.choice("defense", word, tuple(known)) for word in dict.fromkeys(words)]
    if "pruned" in names and "plain" not in names:
        names.insert(0, "plain")  # what it is pruned from
    return {name: known[name] for name in names}


def _train(
    folder: Path,
    known: dict[str, list[str]],
    trainings: Mapping[str, Any],
    device: str,
) -> None:
    """Train each defence by its command, unless it is there already."""
    from zeronorm.cli.train import train
    from zeronorm.files import locked, remember
    from zeronorm.models.checkpoint import SIDECAR
    from zeronorm.training.plan import CERTIFIED

    training = typer.Typer(add_completion=False)
    training.command()(train)
    limit = trainings["train_limit"]
    with locked(folder, "training in"):
        remember(folder / "trainings.json", trainings, "models of these trainings")
    for number, (name, words) in enumerate(known.items(), start=1):
        if (folder / name / SIDECAR).exists():  # which a training writes at its end
            continue
        own_loop = any(word in CERTIFIED for word in words)  # which does not resume
        command = [
            *(str(folder / "plain") if word == "{plain}" else word for word in words),
            "--data", trainings["data"], "--seed", str(trainings["seed"]), "--device", device,
            *([] if limit is None else ["--limit", str(limit)]),
            *([] if own_loop else ["--resume"]), "--out", str(folder / name),
        ]  # fmt: skip
        typer.echo(f"{number}/{len(known)} zeronorm train {shlex.join(command)}", err=True)
        with redirect_stdout(sys.stderr):  # what stands on it is the matrix
            status = training(command, standalone_mode=False)
        if isinstance(status, int) and status:
            if status > 128:  # by a signal; of this command there is no --resume
                typer.echo("of the matrix, the same command goes on", err=True)
            raise typer.Exit(status)
