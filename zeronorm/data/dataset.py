"""What every source of examples gives: labelled images in memory, or in their files until they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from zeronorm.data.images import Images

X = TypeVar("X", Tensor, Images)
L = TypeVar("L", bound="Labelled[Any]")


# compared and hashed by identity: equality of tensors has no single truth value, `digest` does
@dataclass(frozen=True, eq=False, repr=False)
class Labelled(Generic[X]):
    """Examples with their labels.

    Attributes:
        x: images in [0, 1].
        y: class indices.
        ids: a stable name of each example within its split: the row of a table, a hash of the path in a folder.
        name, split: what was asked of `load`.
        class_names: one per class, so `len(class_names)` is the number of classes.
        names: relative path of each image of a folder, else None.
    """

    x: X
    y: Int64[Tensor, "n"]
    ids: Int64[Tensor, "n"]
    name: str
    split: str
    class_names: tuple[str, ...]
    names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.x.shape[1:]))
        kind, classes = type(self).__name__, len(self.class_names)
        return f"{kind}({self.name}, {self.split}: {len(self)} of {shape}, {classes} classes)"

    def at(self, places: Sequence[int]) -> Dataset:
        """Some of the examples, in memory, where the labels are."""
        names = None if self.names is None else tuple(self.names[i] for i in places)
        x, which = self.x[places].to(self.y.device), list(places)
        return Dataset(x, self.y[which], self.ids[which], self.name, self.split, self.class_names, names)

    def first(self, n: int) -> Dataset:
        """The first few examples."""
        return self.at(range(min(n, len(self))))

    def halves(self) -> tuple[Dataset, Dataset]:
        """The first half of the examples and the rest."""
        half = len(self) // 2
        return self.at(range(half)), self.at(range(half, len(self)))

    def to(self: L, device: torch.device) -> L:
        """The same examples on a device; images in files go there when they are asked for."""
        x: Any = self.x.to(device) if isinstance(self.x, Tensor) else self.x
        return replace(self, x=x, y=self.y.to(device), ids=self.ids.to(device))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the examples, their labels and their ids: it changes when any of them does.

        The same for images in memory and in files, each of which is decoded once.
        """
        parts: Iterable[Tensor] = [self.x] if isinstance(self.x, Tensor) else self.x.parts()
        sha = hashlib.sha256(repr(tuple(self.x.shape)).encode())
        for tensor in chain(parts, (self.y, self.ids)):
            sha.update(tensor.cpu().contiguous().numpy().reshape(-1).view(np.uint8).data)
        return f"sha256:{sha.hexdigest()}"


class Dataset(Labelled[Tensor]):
    """Labelled images in memory: `x` is a floating-point tensor (n, ...)."""


class Stream(Labelled[Images]):
    """Labelled images that are decoded whenever they are asked for: `stream.x[places]` is a tensor."""

    def load(self) -> Dataset:
        """The data set in memory."""
        return Dataset(self.x[:], self.y, self.ids, self.name, self.split, self.class_names, self.names)
