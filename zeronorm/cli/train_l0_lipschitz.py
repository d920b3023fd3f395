"""`zeronorm train --method l0_lipschitz`: tables of whole numbers, learnt in a minute by a loop of their own."""

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
from zeronorm.data import Dataset
from zeronorm.errors import ArgumentError
from zeronorm.files import locked
from zeronorm.training import certified

_SECONDS = 10.0  # between lines of progress
_NOT_OF_THE_PLAN = ("data", "model", "model_arguments", "method", "limit", "device")


def train_l0_lipschitz(
    out: Path,
    data: str,
    model: str,
    arguments: dict[str, Any],
    limit: int | None,
    given: dict[str, Any],
    json_: bool,
) -> None:
    """Train as asked and write the model to `out`; of the options given only what the method takes is allowed."""
    if (out / models.checkpoint.SIDECAR).exists():
        raise ArgumentError(
            f"out: expected a folder without a model, found {models.checkpoint.SIDECAR} in {out}"
        )
    asked = {name: value for name, value in given.items() if name not in _NOT_OF_THE_PLAN}
    takes = list(certified.CertifiedTraining.__dataclass_fields__)
    if foreign := sorted(set(asked) - set(takes)):
        raise ArgumentError(
            f"{foreign[0]}: the method l0_lipschitz takes no {foreign[0]}, only {', '.join(takes)}"
        )
    if given.get("device", "auto") not in ("auto", "cpu"):
        raise ArgumentError(f"device: the method l0_lipschitz trains on the cpu, got {given['device']!r}")
    if model.replace("-", "_") != "l0_lipschitz":
        raise ArgumentError(f"model: expected l0_lipschitz for the method of this name, got {model!r}")
    plan = certified.CertifiedTraining(**asked)
    source, test = data_sets.load(data, "train", limit), data_sets.load(data, "test")
    _, channels, height, width = source.x.shape
    network = models.build(
        model,
        in_channels=channels,
        image_size=height if height == width else (height, width),
        classes=len(source.class_names),
        seed=plan.seed,
        **arguments,
    )
    with locked(out, "training in"):
        started = time.perf_counter()
        certified.train_l0_lipschitz(network, source, plan, _Progress())
        seconds = time.perf_counter() - started
        right, proved = _measured(network.eval(), test)
        accuracy = {"value": right / len(test), "correct": right, "n": len(test), "split": test.split}
        models.save(
            network,
            out,
            data={"name": source.name, "split": source.split, "n": len(source), "digest": source.digest},
            accuracy=accuracy,
            training={
                "command": _command(out),
                "plan": {"method": "l0_lipschitz"} | plan.record(),
                "seconds": round(seconds, 1),
                "device": "cpu",
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


def _measured(network: models.Classifier, test: Dataset) -> tuple[int, dict[str, Any]]:
    """Right answers on the test split, and what is proved of them."""
    certificate = certify_l0_lipschitz(network, test.x)
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
