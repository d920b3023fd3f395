"""`zeronorm train --method l0_lipschitz | feature_partition`: models made to be certified, by loops of their own."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from zeronorm import data as data_sets
from zeronorm import models
from zeronorm.certification import Certificate, certify_feature_partition, certify_l0_lipschitz
from zeronorm.cli.model import resolve_device
from zeronorm.data import Dataset
from zeronorm.errors import ArgumentError
from zeronorm.files import locked
from zeronorm.training.checkpoint import check_holds_no_model
from zeronorm.training.feature_partition import PartitionTraining, train_feature_partition
from zeronorm.training.l0_lipschitz import CertifiedTraining, train_l0_lipschitz
from zeronorm.training.loop import moments

_SECONDS = 10.0  # between lines of progress
_NOT_OF_THE_PLAN = ("data", "model", "model_arguments", "method", "limit", "device")


class _Kind(NamedTuple):
    plan: Any
    train: Callable[..., models.Classifier]
    certify: Callable[..., Certificate]
    on_cpu: bool  # only there
    normalized: bool


METHODS = {
    "l0_lipschitz": _Kind(CertifiedTraining, train_l0_lipschitz, certify_l0_lipschitz, True, False),
    "feature_partition": _Kind(
        PartitionTraining, train_feature_partition, certify_feature_partition, False, True
    ),
}


def train_certified(
    method: str,
    out: Path,
    data: str,
    model: str,
    arguments: dict[str, Any],
    limit: int | None,
    given: dict[str, Any],
    json_: bool,
) -> None:
    """Train as asked and write the model to `out`; of the options given only what the method takes is allowed."""
    check_holds_no_model(out)
    asked = {name: value for name, value in given.items() if name not in _NOT_OF_THE_PLAN}
    kind = METHODS[method]
    takes = list(kind.plan.__dataclass_fields__)
    if foreign := sorted(set(asked) - set(takes)):
        raise ArgumentError(
            f"{foreign[0]}: the method {method} takes no {foreign[0]}, only {', '.join(takes)}"
        )
    if kind.on_cpu and given.get("device", "auto") not in ("auto", "cpu"):
        raise ArgumentError(f"device: the method {method} trains on the cpu, got {given['device']!r}")
    if model.replace("-", "_") != method:
        raise ArgumentError(f"model: expected {method} for the method of this name, got {model!r}")
    plan = kind.plan(**asked)
    device = resolve_device("cpu" if kind.on_cpu else given.get("device", "auto"))
    source, test = data_sets.load(data, "train", limit), data_sets.load(data, "test")
    _, channels, height, width = source.x.shape
    mean, std = moments(source) if kind.normalized else (None, None)
    network = models.build(
        model,
        in_channels=channels,
        image_size=height if height == width else (height, width),
        classes=len(source.class_names),
        mean=mean,
        std=std,
        seed=plan.seed,
        **arguments,
    ).to(device)
    with locked(out, "training in"):
        started = time.perf_counter()
        kind.train(network, source, plan, _Progress())
        seconds = time.perf_counter() - started
        network = network.cpu().eval()
        right, proved = _measured(kind, network, test)
        accuracy = {"value": right / len(test), "correct": right, "n": len(test), "split": test.split}
        models.save(
            network,
            out,
            data={"name": source.name, "split": source.split, "n": len(source), "digest": source.digest},
            accuracy=accuracy,
            training={
                "command": _command(out),
                "plan": {"method": method} | plan.record(),
                "seconds": round(seconds, 1),
                "device": device.type,
                "threads": torch.get_num_threads(),
            },
            certified=proved,
        )
    print(
        f"{network.architecture}: {accuracy['value']:.1%} of {len(test)} images right, half proved at "
        f"{proved['median_radius']} pixels, {seconds:.0f} s, in {out}"
    )
    print(f"next: zeronorm certify --model {shlex.quote(str(out))} --data {shlex.quote(data)} --limit 100")
    if json_:
        figures = {"accuracy": accuracy["value"], "n": len(test), "seconds": seconds, "out": str(out)}
        print(json.dumps(figures | {"certified": proved}))


def _measured(kind: _Kind, network: models.Classifier, test: Dataset) -> tuple[int, dict[str, Any]]:
    """Right answers on the test split, and what is proved of them."""
    certificate = kind.certify(network, test.x)
    radii = certificate.radius.clamp_min(-1).where(certificate.prediction == test.y, -1)
    proved = {
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
    return right, proved


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
