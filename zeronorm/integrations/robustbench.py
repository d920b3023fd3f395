"""RobustBench's two functions for ℓ0: code written for it changes one line.

from zeronorm.integrations import benchmark, load_model     # instead of: from robustbench import ...
model = load_model("digits-robust", dataset="digits", threat_model="L0")
clean, robust = benchmark(model, n_examples=200, dataset="digits", threat_model="L0", eps=2)
"""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

from torch import nn

from zeronorm import models
from zeronorm.attacks.batch_under_attack import Model
from zeronorm.data import load as load_data
from zeronorm.errors import ArgumentError
from zeronorm.evaluation.runner import evaluate
from zeronorm.integrations.catalogue_attack import Channels, Unit, whole
from zeronorm.records.results import result_of, save_result
from zeronorm.threat_model import L0


def load_model(
    model_name: str,
    model_dir: str | os.PathLike[str] = "models",
    dataset: str = "cifar10",
    threat_model: str = "L0",
) -> models.Classifier:
    """The model `model_dir/dataset/L0/model_name`, or whatever else `zeronorm.models.load` knows by that name."""
    _check(threat_model)
    folder = Path(model_dir) / dataset / threat_model / model_name
    return models.load(folder if folder.is_dir() else model_name)


def benchmark(
    model: Model,
    n_examples: int = 10_000,
    dataset: str = "cifar10",
    threat_model: str = "L0",
    to_disk: bool = False,
    model_name: str | None = None,
    batch_size: int = 32,
    eps: float | None = None,
    *,
    device: Any = None,
    unit: Unit = "pixel",
    channels: Channels | None = None,
    out: str | os.PathLike[str] | None = None,
    **options: Any,
) -> tuple[float, float]:
    """Clean and robust accuracy on the first test examples, attacked by sparse-AutoAttack within `eps` changes.

    The model is moved to `device`, or attacked where it is.  Data come from where `zeronorm.data.load` finds them.
    `to_disk` writes the entry for a leaderboard to `model_info/dataset/L0/`.  `out` keeps the run, which goes on
    where it was interrupted; `options` are those of `zeronorm.evaluate`, such as `steps`, `queries` and `seed`.
    """
    _check(threat_model)
    if eps is None:
        raise ArgumentError("eps: expected how many changes the adversary may make, got None")
    if unknown := sorted(options.keys() - inspect.signature(evaluate).parameters):
        raise ArgumentError(
            f"{unknown[0]}: zeronorm.evaluate takes no such argument, got {options[unknown[0]]!r:.80}"
        )
    if device is not None and isinstance(model, nn.Module):
        model = model.to(device)
    if to_disk and model_name is None:
        raise ArgumentError("model_name: expected the name of the entry on disk, got None")
    result = evaluate(
        model,
        load_data(dataset, "test", n_examples),
        L0(whole(eps, "eps"), unit, channels=channels),
        out=None if out is None else Path(out),
        batch_size=batch_size,
        name=model_name,
        **options,
    )
    if to_disk:
        entry = result_of(result.run, {"name": str(model_name)})
        save_result(entry, Path("model_info") / dataset / threat_model)
    return float(result.clean_accuracy), float(result.robust_accuracy)


def _check(threat_model: str) -> None:
    if threat_model != "L0":
        raise ArgumentError(
            f"threat_model: expected L0, got {threat_model!r}: for the others there is RobustBench"
        )
