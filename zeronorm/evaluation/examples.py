"""The examples of a run: what was given as data, checked, where the model is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zeronorm import checks
from zeronorm.data import Dataset, Stream
from zeronorm.data import load as load_data
from zeronorm.data.images import Images
from zeronorm.errors import ArgumentError
from zeronorm.records.folders import Row
from zeronorm.threat_model import L0

DataLike = Dataset | Stream | Sequence[Tensor] | str  # a sequence is the pair (x, y)


@dataclass(frozen=True)
class Examples:
    """Inputs (n, ...), labels, ids and, where they have them, names."""

    x: Tensor
    y: Tensor
    ids: Tensor
    names: Sequence[str] | None

    def __len__(self) -> int:
        return len(self.x)

    def at(self, places: list[int]) -> Examples:
        """Some of them."""
        names = None if self.names is None else [self.names[i] for i in places]
        return Examples(self.x[places], self.y[places], self.ids[places], names)

    def halves(self) -> tuple[Examples, Examples]:
        """The first half and the rest."""
        half = len(self) // 2
        return self.at(list(range(half))), self.at(list(range(half, len(self))))

    def row(self, i: int, k: int | None, stage: int, attack: str) -> Row:
        """How a row of the i-th example begins: whose it is, and of which search."""
        return {
            "example": int(self.ids[i]),
            "name": self.names[i] if self.names else None,
            "label": int(self.y[i]),
            "k": k,
            "stage": stage,
            "attack": attack,
        }


@dataclass(frozen=True)
class Source:
    """All examples of a run, of which some are asked for at a time: where the model is, decoded if need be."""

    x: Tensor | Images
    y: Tensor
    ids: Tensor
    names: Sequence[str] | None
    device: torch.device

    @classmethod
    def of(cls, dataset: Dataset | Stream, device: torch.device) -> Source:
        """Those of a data set; `ArgumentError` if they cannot be searched."""
        x: Tensor | Images = dataset.x
        if isinstance(x, Tensor):
            x = checks.examples(x).detach().to(device)
        if len(x) == 0:
            raise ArgumentError("data: expected at least one example, got none")
        if x.dtype not in (torch.float32, torch.float64):
            raise ArgumentError(
                f"data: expected float32 or float64, got {x.dtype}; precision='bfloat16' is for the search's passes"
            )
        inputs = torch.empty(len(x), 0, device=device)
        y, ids = (t.detach().to(device) for t in (dataset.y, dataset.ids))
        y, ids = checks.labels(y, inputs), checks.identifiers(ids, inputs)
        if len(ids.unique()) < len(ids):
            raise ArgumentError("data: expected different example ids, got duplicates")
        return cls(x, y, ids, dataset.names, device)

    def __len__(self) -> int:
        return len(self.x)

    def at(self, places: list[int]) -> Examples:
        """Some of them."""
        names = None if self.names is None else [self.names[i] for i in places]
        return Examples(self.x[places].to(self.device), self.y[places], self.ids[places], names)

    def first(self, n: int) -> Examples:
        """The first few."""
        return self.at(list(range(min(n, len(self)))))

    def check(self, threat: L0) -> None:
        """`ArgumentError` unless every example is within the threat model's box, and the budget fits them."""
        if isinstance(self.x, Tensor):
            threat.check_inputs(self.x)
            return
        inputs = torch.tensor([0.0, 1.0], device=self.device)
        threat.check_inputs(self.first(1).x)
        # decoded images are within [0, 1]: only a smaller box needs a look at each
        if not bool(((inputs >= threat.low) & (inputs <= threat.high)).all()):
            for part in self.x.parts():
                threat.check_inputs(part.to(self.device))


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
