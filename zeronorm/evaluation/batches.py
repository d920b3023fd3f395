"""A model asked in batches of a size that its owner chose, whatever a search hands over at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import TILE, Model
from zeronorm.errors import ArgumentError
from zeronorm.evaluation.fresh_pass import predict


class InBatches:
    """A model that is handed at most `size` inputs a pass, or exactly so many, with copies of the last to fill up.

    Attributes:
        tile: 1, since passes are filled up here; see `filled_up`.
    """

    tile = 1

    def __init__(self, model: Model, size: int, exactly: bool = False) -> None:
        self.model, self.size = model, checks.integer("batch_size", size, 1)
        self.exactly = exactly or size < TILE
        self.at_once = size if self.exactly else size - size % TILE

    def __getattr__(self, name: str) -> Any:
        """What a model says of itself: `differentiable`, `abstains`, ..."""
        if name == "model" or name.startswith("__"):  # it is being made, or unpickled
            raise AttributeError(name)
        return getattr(self.model, name)

    def __call__(self, x: Tensor) -> Any:
        if not len(x):
            return self.model(x)
        parts = [self._asked(part) for part in x.split(self.at_once)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _asked(self, x: Tensor) -> Any:
        only_called = not getattr(self.model, "differentiable", True)  # perhaps for money
        to = self.size if self.exactly else 1 if only_called else TILE
        missing = -len(x) % to
        if missing:
            x = torch.cat([x, x.detach()[-1:].expand(missing, *x.shape[1:])])
        z = self.model(x)
        return z[: len(z) - missing] if isinstance(z, Tensor) and z.dim() and len(z) == len(x) else z


def in_batches(model: Model, size: int | None, x: Tensor) -> Model:
    """The model, asked for `size` inputs a pass at most; exactly so many if it takes no other number of them."""
    if size is None or isinstance(model, InBatches):
        return model
    asked = InBatches(model, size)
    if not _answers(asked, x) and _answers(exactly := InBatches(model, size, exactly=True), x):
        return exactly
    return asked


def _answers(model: Model, x: Tensor) -> bool:
    try:
        predict(model, x[:1])
    except ArgumentError:
        return True  # it can be asked; what it says is for others to judge
    except Exception:  # whatever a stranger's model raises
        return False
    return True
