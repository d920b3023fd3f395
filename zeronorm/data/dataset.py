"""What every source of examples gives."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor


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
        shape = "x".join(map(str, self.x.shape[1:]))
        return f"Dataset({self.name}, {self.split}: {len(self)} of {shape}, {len(self.class_names)} classes)"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the examples, their labels and their ids: it changes when any of them does."""
        sha = hashlib.sha256(repr(tuple(self.x.shape)).encode())
        for tensor in (self.x, self.y, self.ids):
            sha.update(tensor.cpu().contiguous().numpy().reshape(-1).view(np.uint8).data)
        return f"sha256:{sha.hexdigest()}"


def one_line(error: Exception) -> str:
    """What another library complained about, short enough to end an error message of ours."""
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
