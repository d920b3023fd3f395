"""`zeronorm train --method ablation | l0_lipschitz`: models that can be certified."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from zeronorm import data as data_sets
from zeronorm import models
from zeronorm.certification import certify_l0_lipschitz
from zeronorm.cli.model import resolve_device
from zeronorm.data import Dataset
from zeronorm.errors import ArgumentError
from zeronorm.files import locked
from zeronorm.training.ablation import AblationTraining, accuracy_on_ablated, train_ablation
from zeronorm.training.certified import CertifiedTraining, train_l0_lipschitz

_SECONDS = 10.0  # between lines of progress


def train_certifiable(
    method: str,
    out: Path,
    data: str,
    model: str,
    arguments: dict[str, Any],
    device: str,
    limit: int | None,
    asked: dict[str, Any],
    json_: bool,
) -> None:
    """Train as asked and write the model to `out`; of `asked` only what the method takes may be given."""
    if (out / models.checkpoint.SIDECAR).exists():
        raise ArgumentError(
            f"out: expected a folder without a model, found {models.checkpoint.SIDECAR} in {out}"
        )
    kind = AblationTraining if method == "ablation" else CertifiedTraining
    given = {name: value for name, value in asked.items() if value is not None}
    if foreign := sorted(set(given) - set(kind.__dataclass_fields__)):
        takes = ", ".join(kind.__dataclass_fields__)
        raise ArgumentError(f"{foreign[0]}: the method {method} takes no {foreign[0]}, only {takes}")
    plan = kind(**given)
    where = resolve_device(device if method == "ablation" else "cpu")
    source, test = data_sets.load(data, "train", limit), data_sets.load(data, "test")
    _, channels, height, width = source.x.shape
    if isinstance(plan, AblationTraining):
        channels *= 2 if plan.null == "multichannel" else 1
    elif model.replace("-", "_") != "l0_lipschitz":
        raise ArgumentError(f"model: expected l0_lipschitz for the method of this name, got {model!r}")
    network = models.build(
        model,
        in_channels=channels,
        image_size=height if height == width else (height, width),
        classes=len(source.class_names),
        seed=plan.seed,
        **arguments,
    ).to(where)
    with locked(out, "training in"):
        started = time.perf_counter()
        show = _Progress()
        if isinstance(plan, AblationTraining):
            train_ablation(network, source, plan, show)
        else:
            train_l0_lipschitz(network, source, plan, show)
        seconds = time.perf_counter() - started
        network.eval()
        right, extra = _measured(network, test, plan)
        accuracy = {"value": right / len(test), "correct": right, "n": len(test), "split": test.split}
        models.save(
            network.cpu(),
            out,
            data={"name": source.name, "split": source.split, "n": len(source), "digest": source.digest},
            accuracy=accuracy,
            training={
                "command": _command(out),
                "plan": {"method": method, **plan.record()},
                "seconds": round(seconds, 1),
                "device": where.type,
                "threads": torch.get_num_threads(),
            },
            **extra,
        )
    what = "ablated images" if method == "ablation" else "images"
    print(
        f"{network.architecture}: {accuracy['value']:.1%} of {len(test)} {what} right, {seconds:.0f} s, in {out}"
    )
    print(f"next: zeronorm certify --model {shlex.quote(str(out))} --data {shlex.quote(data)} --limit 100")
    if json_:
        print(
            json.dumps(
                {"accuracy": accuracy["value"], "n": len(test), "seconds": seconds, "out": str(out)} | extra
            )
        )


def _measured(
    network: models.Classifier, test: Dataset, plan: AblationTraining | CertifiedTraining
) -> tuple[int, dict[str, Any]]:
    """Right answers on the test split, and what else the sidecar says."""
    if isinstance(plan, AblationTraining):
        encoding = network.facts["ablation"]
        return accuracy_on_ablated(network, test, plan, encoding["mean"]), {"ablation": encoding}
    certificate = certify_l0_lipschitz(network, test.x)
    radii = certificate.radius.clamp_min(-1).where(certificate.prediction == test.y, -1)
    certified = {
        "median_radius": int(radii.sort().values[(len(radii) - 1) // 2]),
        "correct": int((radii >= 0).sum()),  # with a margin over every other class
        "n": len(test),
        "split": test.split,
    }
    with torch.no_grad():
        right = sum(
            int((network(x).argmax(1) == y).sum())
            for x, y in zip(test.x.split(500), test.y.split(500), strict=True)
        )
    return right, {"certified": certified}


def _command(out: Path) -> str:
    """The command line, wherever the model was put."""
    words = ["DIR" if word == str(out) else word for word in sys.argv[1:]]
    return shlex.join(["zeronorm", *words])


class _Progress:
    """A line on standard error now and then."""

    def __init__(self) -> None:
        self._console, self._shown = Console(stderr=True), time.monotonic()

    def __call__(self, step: int, steps: int, loss: float) -> None:
        if step == steps or time.monotonic() - self._shown > _SECONDS:
            self._shown = time.monotonic()
            self._console.print(f"step {step:,}/{steps:,}: loss {loss:.4f}", highlight=False)
