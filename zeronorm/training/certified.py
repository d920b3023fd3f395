"""Training, certifying and saving a network whose method has a loop of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from zeronorm import data
from zeronorm.data import Dataset
from zeronorm.errors import ArgumentError
from zeronorm.files import locked
from zeronorm.models.classifier import Classifier
from zeronorm.training.checkpoint import check_holds_no_model
from zeronorm.training.method import CertifiedMethod, StepDone
from zeronorm.training.plan import TrainingPlan
from zeronorm.training.processes import device_of, started
from zeronorm.training.result import TrainingProgress, TrainingResult, write_model
from zeronorm.training.starting_model import starting_model

_RECORDED_ELSEWHERE = ("data", "model", "model_arguments", "limit")  # in the sidecar's other entries
_EVALUATION_BATCH = 500


def train_certified(
    method: CertifiedMethod, plan: TrainingPlan, progress: Callable[[TrainingProgress], None]
) -> TrainingResult:
    """Train as planned, certify the test split, and write the model to `plan.out`.

    **Raises:** `ArgumentError` for data, a device or a folder that cannot be used, and for several processes.
    """
    out = Path(plan.out)
    check_holds_no_model(out)
    check_alone(plan, started())
    if method.on_cpu and plan.device == "cuda":
        raise ArgumentError(f"device: the method {plan.method} trains on the cpu, got {plan.device!r}")
    device = "cpu" if method.on_cpu else device_of(plan)
    source, test = data.load(plan.data, "train", plan.limit), data.load(plan.data, "test")
    model = starting_model(plan, source, source.x.shape[1], method.normalized).to(device)
    with locked(out, "training in"):
        began = time.perf_counter()
        method.train(model, source, plan, _by_epoch(plan, len(source), progress))
        seconds = time.perf_counter() - began
        model = model.cpu().eval()
        right = _right(model, test)
        result = TrainingResult(
            model=model,
            out=out,
            accuracy=right / len(test),
            correct=right,
            n=len(test),
            split=test.split,
            seconds=seconds,
            certified=_proved(method, model, test),
        )
        said = {name: value for name, value in plan.identity().items() if name not in _RECORDED_ELSEWHERE}
        training = {
            "command": plan.command(),
            "plan": said,
            "seconds": round(seconds, 1),
            "device": device,
        }
        write_model(result, source, training, certified=result.certified)
    return result


def check_alone(plan: TrainingPlan, processes: int) -> None:
    """`ArgumentError` if more than one process is to run a method that has a loop of its own."""
    if processes > 1:
        raise ArgumentError(f"devices: the method {plan.method} trains on one, got {processes}")


def _by_epoch(plan: TrainingPlan, examples: int, progress: Callable[[TrainingProgress], None]) -> StepDone:
    """Turns the steps of such a loop into the progress of epochs."""
    losses: list[float] = []

    def done(step: int, steps: int, loss: float) -> None:
        of_epoch = steps // plan.epochs
        epoch, at = divmod(step - 1, of_epoch)
        if at == 0:
            losses.clear()
        losses.append(loss)
        seen = (at + 1) * examples // of_epoch
        mean = sum(losses) / len(losses)
        progress(TrainingProgress(epoch + 1, plan.epochs, at + 1, of_epoch, seen, mean))

    return done


def _proved(method: CertifiedMethod, model: Classifier, test: Dataset) -> dict[str, Any]:
    """Certified radii of the test split; a wrong answer counts as a radius below 0."""
    certificate = method.certify(model, test.x)
    radii = certificate.radius.clamp_min(-1).where(certificate.prediction == test.y, -1)
    return {
        "median_radius": int(radii.sort().values[(len(radii) - 1) // 2]),
        "correct": int((radii >= 0).sum()),  # with a margin over every other class
        "n": len(test),
        "split": test.split,
    }


@torch.no_grad()
def _right(model: Classifier, test: Dataset) -> int:
    """Number of right answers on the test split."""
    return sum(
        int((model(x).argmax(1) == y).sum())
        for x, y in zip(test.x.split(_EVALUATION_BATCH), test.y.split(_EVALUATION_BATCH), strict=True)
    )
