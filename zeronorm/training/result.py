"""The progress that a training reports, and the result and the model that it leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from zeronorm.data import Dataset
from zeronorm.models.checkpoint import save
from zeronorm.models.classifier import Classifier


@dataclass(frozen=True)
class TrainingProgress:
    """How far a training is: `step` of `steps` in `epoch` of `epochs`, each counted from 1."""

    epoch: int
    epochs: int
    step: int
    steps: int
    examples: int  # of this epoch, so far
    loss: float  # mean over the epoch so far
    accuracy: float | None = None  # on the batches of the epoch so far, as they were learnt
    validation_accuracy: float | None = None  # after the last finished epoch; at its last step, this one
    robust_accuracy: float | None = None  # likewise, of the held-out examples that were attacked


@dataclass(frozen=True)
class TrainingResult:
    """A finished training: its model, that of the best epoch if one was chosen, and its figures."""

    model: Classifier
    out: Path
    accuracy: float
    correct: int
    n: int
    split: str  # of the examples that `accuracy` counts; "ablation" sees each through a few of its pixels
    seconds: float  # of all epochs, also those before a resume
    best_epoch: int | None = None
    validation_accuracy: float | None = None  # at the best epoch
    robust_accuracy: float | None = None  # at the best epoch, of the held-out examples that were attacked
    history: list[dict[str, Any]] = field(default_factory=list)  # the rows of metrics.csv
    certified: dict[str, Any] | None = None  # what is proved of the split, by a method with a loop of its own

    def __str__(self) -> str:
        said = f"{self.model.architecture}: {self.accuracy:.1%} of {self.n} {self.split} images right"
        if self.best_epoch is not None:
            held_out = (
                "" if self.validation_accuracy is None else f", validation {self.validation_accuracy:.1%}"
            )
            held_out += "" if self.robust_accuracy is None else f", robust {self.robust_accuracy:.1%}"
            said += f" (epoch {self.best_epoch} of {len(self.history)}{held_out})"
        if self.certified is not None:
            radius = self.certified["median_radius"]
            said += f", half proved at {radius} pixels" if radius >= 0 else ", less than half proved"
        return f"{said}, {self.seconds:.0f} s, in {self.out}"


def write_model(result: TrainingResult, source: Dataset, training: dict[str, Any], **facts: Any) -> None:
    """Write the model to the folder of its training, with its data, accuracy and command."""
    save(
        result.model,
        result.out,
        data={"name": source.name, "split": source.split, "n": len(source), "digest": source.digest},
        accuracy={
            "value": result.accuracy,
            "correct": result.correct,
            "n": result.n,
            "split": result.split,
        },
        # on a CPU the same command with as many threads gives the same weights
        training={**training, "threads": torch.get_num_threads()},
        **facts,
    )
