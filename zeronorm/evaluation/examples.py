"""The examples of a run: a data set on the model's device, checked, and how their rows begin."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zeronorm import checks
from zeronorm.data import Dataset, Stream, TableDataset
from zeronorm.data import load as load_data
from zeronorm.errors import ArgumentError
from zeronorm.records.folders import Row
from zeronorm.threat_model import L0

DataLike = Dataset | Stream | Sequence[Tensor] | str  # a sequence is the pair (x, y)


def as_dataset(data: DataLike) -> Dataset | Stream:
    """The data set itself, the one of that name, or one made of (x, y)."""
    if isinstance(data, Dataset | Stream):
        return data
    if isinstance(data, str):
        return load_data(data)
    if isinstance(data, tuple | list) and len(data) == 2:
        x = checks.examples(data[0]).detach()
        y = checks.labels(data[1], x)
        return Dataset(
            x=x,
            y=y.to(torch.int64),
            ids=torch.arange(len(x)),
            name="given",
            split="given",
            class_names=(),
            names=None,
        )
    raise ArgumentError(f"data: expected a Dataset, a tuple (x, y) or a name, got {type(data).__name__}")


def on_device(dataset: Dataset | Stream, device: torch.device) -> Dataset | Stream:
    """The examples where the model is; `ArgumentError` if they cannot be searched."""
    if isinstance(dataset.x, Tensor) and not isinstance(dataset, TableDataset):  # whose values may be missing
        checks.examples(dataset.x)
    if len(dataset) == 0:
        raise ArgumentError("data: expected at least one example, got none")
    if dataset.x.dtype not in (torch.float32, torch.float64):
        raise ArgumentError(
            f"data: expected float32 or float64, got {dataset.x.dtype}; precision='bfloat16' is for the search's passes"
        )
    inputs = torch.empty(len(dataset), 0, device=dataset.y.device)
    checks.labels(dataset.y, inputs)
    if len(checks.identifiers(dataset.ids, inputs).unique()) < len(dataset):
        raise ArgumentError("data: expected different example ids, got duplicates")
    return dataset.to(device)


def check_box(dataset: Dataset | Stream, threat: L0) -> None:
    """`ArgumentError` unless every example is within the threat model's box, and the budget fits them."""
    if isinstance(dataset.x, Tensor):
        threat.check_inputs(dataset.x)
        return
    inputs = torch.tensor([0.0, 1.0], device=dataset.y.device)
    threat.check_inputs(dataset.first(1).x)
    # decoded images are within [0, 1]: only a smaller box needs a look at each
    if not bool(((inputs >= threat.low) & (inputs <= threat.high)).all()):
        for part in dataset.x.parts():
            threat.check_inputs(part.to(dataset.y.device))


def first_columns(dataset: Dataset, i: int, k: int | None, stage: int, attack: str) -> Row:
    """How a row of the i-th example begins: whose it is, and of which search."""
    return {
        "example": int(dataset.ids[i]),
        "name": dataset.names[i] if dataset.names else None,
        "label": int(dataset.y[i]),
        "k": k,
        "stage": stage,
        "attack": attack,
    }
