"""`zeronorm prune`: how far may a network be pruned before it becomes easier to attack?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zeronorm.cli import options
from zeronorm.errors import ArgumentError

if TYPE_CHECKING:
    from zeronorm.data import Dataset

_ALIKE = 0.01  # largest difference in sparsity between references


def prune(
    out: Annotated[Path, typer.Option(help="Folder of the sweep. The same command resumes it.")],
    model: Annotated[
        str, typer.Option(help="An architecture, trained anew for each seed, or trained models with commas.")
    ] = "lenet_300_100",
    data: options.Data = "mnist",
    seeds: Annotated[
        int, typer.Option(help="Number of networks to train of an architecture, with seeds 0, 1, ...")
    ] = 3,
    rounds: Annotated[int, typer.Option(help="Rounds of pruning and retraining.")] = 12,
    share: Annotated[
        float, typer.Option(help="Share of the remaining weights of each layer that a round prunes.")
    ] = 1 / 3,
    keep_dense: Annotated[
        str, typer.Option(help="Layers that are not pruned, with commas between them: first,last.")
    ] = "",
    epochs: Annotated[int, typer.Option(help="Passes over the training images to train a network.")] = 10,
    retrain_epochs: Annotated[
        int, typer.Option(help="Passes over the training images after each round.")
    ] = 2,
    lr: Annotated[float, typer.Option(help="Initial learning rate to train a network.")] = 0.05,
    retrain_lr: Annotated[
        float, typer.Option(help="Passes over the training images after each round.")
    ] = 0.02,
    batch_size: Annotated[int, typer.Option(help="Images in a step, at most.")] = 64,
    normalize: Annotated[bool, typer.Option(help="Let new networks normalise their inputs.")] = True,
    train_limit: Annotated[int | None, typer.Option(help="Use only so many training images.")] = None,
    limit: Annotated[int | None, typer.Option(help="Attack only so many test images.")] = 1000,
    linf: Annotated[
        str, typer.Option(help="ℓ∞ attacks for the robustness r∞, with commas; empty: none.")
    ] = "fgsm",
    epsilon: Annotated[float, typer.Option(help="Radius of the ℓ∞ attacks.")] = 0.1,
    l2: Annotated[
        str, typer.Option(help="ℓ2 attacks for the robustness r2, with commas; empty: none.")
    ] = "deepfool",
    k: Annotated[
        str, typer.Option(help="Budgets of sparse_autoattack in pixels, with commas; empty: none.")
    ] = "",
    steps: Annotated[int, typer.Option(help="Updates of each white-box stage of sparse_autoattack.")] = 100,
    queries: Annotated[int, typer.Option(help="Queries of each black-box stage of sparse_autoattack.")] = 200,
    device: options.Device = "auto",
    json_: options.Json = False,
) -> None:
    """How far may a network be pruned before it becomes easier to attack?

    Example: zeronorm prune --model lenet_300_100 --data mnist --k 1,4 --out runs/pruned

    Each network is pruned in rounds: its smallest weights are set to zero, the others are retrained, and accuracy and
    robustness are measured. The page plots them against sparsity and says how far pruning is safe.

    Every model is kept, in OUT/REFERENCE/round-N: zeronorm evaluate --model OUT/0/round-3.
    """
    asked: dict[str, Any] = {
        "model": options.words(model), "data": data, "seeds": seeds, "rounds": rounds, "share": share,
        "keep_dense": options.words(keep_dense), "epochs": epochs, "retrain_epochs": retrain_epochs, "lr": lr,
        "retrain_lr": retrain_lr, "batch_size": batch_size, "normalize": normalize,
        "train_limit": train_limit, "limit": limit,
        "linf": options.words(linf), "epsilon": epsilon, "l2": options.words(l2), "k": options.words(k), "steps": steps,
        "queries": queries,
    }  # fmt: skip

    import zeronorm as zn
    from zeronorm import checks
    from zeronorm.attacks.catalogue import get
    from zeronorm.defenses.pruning import weights
    from zeronorm.files import local_path, locked, remember
    from zeronorm.models.classifier import ARCHITECTURES
    from zeronorm.report.sparsity import ASKED, DEAD, measures, read_rows, verdict

    out = local_path(out)
    checks.real("share", share, 0.0, 1.0, open_low=True, open_high=True)
    checks.real("epsilon", epsilon, 0.0, open_low=True)
    for name, low in (("seeds", 1), ("rounds", 0), ("epochs", 1), ("retrain_epochs", 1)):
        checks.integer(name, asked[name], low)
    for name, low in (("train_limit", 1), ("limit", 2)):
        if asked[name] is not None:
            checks.integer(name, asked[name], low)
    for name, norm in (("linf", "Linf"), ("l2", "L2")):
        for attack in asked[name]:
            if norm not in get(attack).norms:
                raise ArgumentError(f"{name}: expected attacks within {norm}, got {attack}")
    try:
        budgets = [checks.integer("k", int(word), 1) for word in asked["k"]]
    except ValueError:
        raise ArgumentError(
            f"k: expected integers with commas between them, such as 1,2,4, got {k!r}"
        ) from None
    names = asked["model"]
    anew = len(names) == 1 and names[0].replace("-", "_") in ARCHITECTURES
    starts: list[str | None] = [None] * seeds if anew else list(names)
    test = zn.data.load(data, "test")
    models = [zn.models.build(names[0])] if anew else [zn.models.load(name) for name in names]
    for one in models:
        weights(one, asked["keep_dense"])  # refuses names that are no layers
    shares = [zn.defenses.sparsity(one) for one in models]
    if max(shares) - min(shares) > _ALIKE:
        raise ArgumentError(
            f"model: expected models of equal sparsity, got {', '.join(f'{s:.1%} zero' for s in shares)}"
        )
    with options.resumable(out), locked(out, "pruning in"):
        remember(out / ASKED, asked, "a sweep of this plan", growing=("rounds", "seeds"))
        for reference, start in enumerate(starts):
            _ladder(out, reference, start, asked, budgets, test, device)
        page = zn.report.render(out, out / "report.html")
    rows = read_rows(out)
    sparsities, found = measures(rows)
    until, falls, doubtful = verdict(rows, found)
    if falls == [DEAD]:
        typer.echo(f"do not prune beyond {sparsities[until]:.1%}: then the network is dead")
    elif falls:
        word = "fall" if falls[1:] else "falls"
        typer.echo(f"do not prune beyond {sparsities[until]:.1%}: then {' and '.join(falls)} {word}")
    else:
        typer.echo(f"nothing falls up to {sparsities[until]:.1%}")
    for name, number in doubtful.items():
        typer.echo(f"not told apart from the dense networks: {name}, from {sparsities[number]:.1%} on")
    if len(starts) == 1:
        typer.echo("only one network was pruned: chance is not ruled out")
    typer.echo(f"report: {page}")
    if json_:
        told = {
            "sparsity": sparsities, **{m.name: m.means for m in found}, "until": sparsities[until], "falls": falls,
            "not_told_apart": {name: sparsities[number] for name, number in doubtful.items()},
        }  # fmt: skip
        typer.echo(json.dumps(told | {"out": str(out)}))


def _ladder(
    out: Path,
    reference: int,
    start: str | None,
    asked: dict[str, Any],
    budgets: list[int],
    test: Dataset,
    device: str,
) -> None:
    """Train, prune and measure one reference network, round by round; rounds that have a row are skipped."""
    import zeronorm as zn
    from zeronorm.cli.model import resolve_device
    from zeronorm.evaluation.sparsity import measure
    from zeronorm.files import write_json_lines
    from zeronorm.report.sparsity import ROWS, read_rows
    from zeronorm.training import TrainingPlan, train

    rows = read_rows(out) if (out / ROWS).exists() else []
    done = {row["round"]: row for row in rows if row["reference"] == reference}
    before = start
    for number in range(asked["rounds"] + 1):
        folder = out / str(reference) / f"round-{number}"
        if number in done:
            if done[number]["dead"]:
                return
            before = str(folder) if number or start is None else start
            continue
        options_of = {
            "data": asked["data"], "batch_size": asked["batch_size"], "limit": asked["train_limit"], "device": device,
            "seed": reference if start is None else 0, "out": folder, "resume": True,
        }  # fmt: skip
        if number:
            before = str(
                train(
                    TrainingPlan(
                        initial=before, prune=asked["share"], keep_dense=tuple(asked["keep_dense"]),
                        epochs=asked["retrain_epochs"], lr=asked["retrain_lr"], **options_of,
                    )
                ).out
            )  # fmt: skip
        elif start is None:
            plan = TrainingPlan(
                model=asked["model"][0],
                epochs=asked["epochs"],
                lr=asked["lr"],
                normalize=asked["normalize"],
                **options_of,
            )
            before = str(train(plan).out)
        assert before is not None
        model = zn.models.load(before).to(resolve_device(device))
        row = measure(
            model, test, folder / "robustness" if number or start is None else out / str(reference) / "round-0",
            epsilon=asked["epsilon"], linf=asked["linf"], l2=asked["l2"], budgets=budgets, steps=asked["steps"],
            queries=asked["queries"], limit=asked["limit"],
        )  # fmt: skip
        row = {"reference": reference, "round": number, "digest": zn.models.digest(model), **row}
        rows.append(row)
        write_json_lines(out / ROWS, rows)
        typer.echo(_line(row), err=True)
        if row["dead"]:
            return


def _line(row: dict[str, Any]) -> str:
    said = f"reference {row['reference']}, round {row['round']}: {row['sparsity']:.2%} zero, clean {row['clean']:.2%}"
    if row["dead"]:
        return f"{said}; {row['dead']}"
    said += "".join(f", r∞ {name} {value:.3f}" for name, value in row["r_inf"].items())
    said += "".join(f", r2 {name} {value:.3f}" for name, value in row["r_2"].items())
    return said + "".join(f", k={k} {value:.1%}" for k, value in (row["robust"] or {}).items())
