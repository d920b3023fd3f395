"""The folder of a training, from which it continues after a crash as if there had been none.

checkpoint.safetensors   after each epoch and when stopped: weights, their average, momentum, what the method
                         remembers, best weights; plan and history in its header
metrics.csv              one line per epoch
report.html              once complete: the curves
model.safetensors, model.json   once complete: the trained model (`zeronorm.models.save`)
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from zeronorm.errors import ArgumentError
from zeronorm.files import local_path, locked, read_file, replace_files
from zeronorm.models.checkpoint import SIDECAR, digest_tensors

FORMAT = "zeronorm-training/2"

METRICS = (
    "epoch",
    "lr",
    "loss",
    "accuracy",
    "validation_loss",
    "validation_accuracy",
    "robust_accuracy",
    "seconds",
)
_GROUPS = ("network", "average", "momentum", "memory", "begun")  # of tensors, beside the best weights


@dataclass
class State:
    """A training after `len(history)` epochs, and possibly some steps of the next."""

    identity: dict[str, Any]  # of its plan
    data_digest: str | None = None
    network: dict[str, Tensor] = field(default_factory=dict)
    momentum: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)  # of the weights, if asked for
    memory: dict[str, Tensor] = field(default_factory=dict)  # the method's own
    begun: dict[str, Tensor] = field(
        default_factory=dict
    )  # loss and right answers of each step of the unfinished epoch
    seconds: float = 0.0  # spent on the unfinished epoch
    best: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)  # one row of METRICS per epoch

    def validated(self) -> dict[str, float | None]:
        """Accuracies on the held-out examples after the last finished epoch."""
        last = self.history[-1] if self.history else {}
        return {name: last.get(name) for name in ("validation_accuracy", "robust_accuracy")}

    def finish(self, row: dict[str, Any], merit: Callable[[dict[str, Any]], Any]) -> None:
        """End the epoch that `row` describes; the best epoch is the first with the greatest merit."""
        if not self.history or merit(row) > merit(self.history[self.best_epoch - 1]):
            weights = self.average or self.network
            self.best = {name: tensor.cpu().clone() for name, tensor in weights.items()}
            self.best_epoch = row["epoch"]
        self.history.append(row)
        self.begun, self.seconds = {}, 0.0

    def newest_is_best(self) -> bool:
        """Whether the last weights are also the best so far, so that they are stored once."""
        return self.best_epoch == len(self.history) and not self.begun and not self.average


class TrainingFolder:
    """The folder of one training, opened for writing."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = local_path(path)
        self.checkpoint = self.path / "checkpoint.safetensors"
        self.metrics = self.path / "metrics.csv"
        self.page = self.path / "report.html"

    def locked(self) -> AbstractContextManager[None]:
        """Lock the folder: a second training that wants to write here is refused."""
        return locked(self.path, "training in")

    def open(self, identity: dict[str, Any], resume: bool) -> State:
        """The state to continue from, or a new one where there is nothing to continue."""
        if not self.checkpoint.exists():
            check_holds_no_model(self.path)
            return State(identity)
        state = self._read()
        if not resume:
            raise ArgumentError(
                f"out: expected a folder without a training, got {self.path} after {len(state.history)} epochs; "
                "continue with --resume"
            )
        # as JSON gives it back
        asked = json.loads(json.dumps(identity))
        changed = [
            f"{name} {state.identity.get(name)!r} (asked: {asked.get(name)!r})"
            for name in {**state.identity, **asked}
            if state.identity.get(name) != asked.get(name)
        ]
        if changed:
            raise ArgumentError(
                f"out: expected a training of this plan in {self.path}, got one with {', '.join(changed)}"
            )
        return state

    def check_data(self, state: State, digest: str) -> None:
        """Remember the data of a new training; refuse to continue one with other data."""
        if state.data_digest not in (None, digest):
            raise ArgumentError(
                f"data: expected the examples that the training in {self.path} began with, got others "
                f"(digest {digest:.20} instead of {state.data_digest:.20})"
            )
        state.data_digest = digest

    def write(self, state: State) -> None:
        """Replace the checkpoint and the metrics; after a crash or on a full disk, the previous ones remain."""
        tensors = {
            f"{group}/{name}": tensor.cpu().contiguous()
            for group in (*_GROUPS, *(() if state.newest_is_best() else ("best",)))
            for name, tensor in getattr(state, group).items()
        }
        header = {
            "format": FORMAT,
            "digest": digest_tensors(tensors),
            "identity": state.identity,
            "data_digest": state.data_digest,
            "best_epoch": state.best_epoch,
            "seconds": state.seconds,
            "history": state.history,
        }
        content = safetensors.torch.save(tensors, {"training": json.dumps(header)})
        try:
            replace_files({self.checkpoint: content, self.metrics: _csv(state.history)})
        except OSError as error:
            raise ArgumentError(f"out: cannot write {error.filename}: {error.strerror}") from None

    def _read(self) -> State:
        try:
            tensors = safetensors.torch.load(read_file(self.checkpoint))
            with safetensors.safe_open(self.checkpoint, "pt") as file:
                header = json.loads((file.metadata() or {})["training"])
        except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
            raise ArgumentError(
                f"out: {self.checkpoint} is damaged or of another program ({error}); remove it to start again"
            ) from None
        if header.get("format") != FORMAT or header.get("digest") != digest_tensors(tensors):
            raise ArgumentError(
                f"out: {self.checkpoint} is damaged or of another version; remove it to start again"
            )
        groups: dict[str, Any] = {group: {} for group in (*_GROUPS, "best")}
        for name, tensor in tensors.items():
            group, _, rest = name.partition("/")
            groups[group][rest] = tensor
        state = State(
            header["identity"],
            header["data_digest"],
            **groups,
            best_epoch=header["best_epoch"],
            seconds=header["seconds"],
            history=header["history"],
        )
        if state.newest_is_best():
            state.best = state.network
        return state


def check_holds_no_model(out: Path) -> None:
    """`ArgumentError` if the folder already holds a model or a run."""
    for name, what in ((SIDECAR, "a model"), ("run.json", "a run")):
        if (out / name).exists():
            raise ArgumentError(f"out: expected a folder without {what}, found {name} in {out}")


def _csv(history: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, METRICS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue().encode()
