"""Labelled images that stay in their files until they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Int64
from torch import Tensor

from zeronorm.data.dataset import Dataset, digest, summary
from zeronorm.data.images import Images


@dataclass(frozen=True, eq=False, repr=False)
class Stream:
    """A data set as `Dataset`, whose images are decoded whenever they are asked for.

    `stream.x[places]` is a tensor; the rest, and the digest, are those of the data set in memory.
    """

    x: Images
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
        """SHA-256 as of the loaded data set; decodes every image once."""
        return digest(self.x.shape, self.x.parts(), self.y, self.ids)

    def load(self) -> Dataset:
        """The data set in memory."""
        return Dataset(self.x[:], self.y, self.ids, self.name, self.split, self.class_names, self.names)
