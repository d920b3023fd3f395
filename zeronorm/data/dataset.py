"""What every source of examples gives."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

if TYPE_CHECKING:
    from zeronorm.data.stream import Stream


# compared and hashed by identity: equality of tensors has no single truth value, `digest` does
@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Labelled images in memory.

    Attributes:
        x: images in [0, 1].
        y: class indices.
        ids: a stable name of each example within its split: the row of a table, a hash of the path in a folder.
        name, split: what was asked of `load`.
        class_names: one per class, so `len(class_names)` is the number of classes.
        names: relative path of each image of a folder, else None.
    """

    x: Float[Tensor, "n ..."]
    y: Int64[Tensor, "n"]
    ids: Int64[Tensor, "n"]
    name: str
    split: str
    class_names: tuple[str, ...]
    names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        return summary(self)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the examples, their labels and their ids: it changes when any of them does."""
        return digest(self.x.shape, [self.x], self.y, self.ids)


def digest(shape: Sequence[int], parts: Iterable[Tensor], y: Tensor, ids: Tensor) -> str:
    """SHA-256 of examples that come in parts, their labels and their ids."""
    sha = hashlib.sha256(repr(tuple(shape)).encode())
    for tensor in chain(parts, (y, ids)):
        sha.update(tensor.cpu().contiguous().numpy().reshape(-1).view(np.uint8).data)
    return f"sha256:{sha.hexdigest()}"


def summary(data: Dataset | Stream) -> str:
    """A data set in a line."""
    shape = "x".join(map(str, data.x.shape[1:]))
    classes = len(data.class_names)
    return f"{type(data).__name__}({data.name}, {data.split}: {len(data)} of {shape}, {classes} classes)"


def one_line(error: Exception) -> str:
    """What another library complained about, short enough to end an error message of ours."""
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
