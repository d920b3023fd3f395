"""Standard training: cross-entropy on the examples as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from zeronorm.training.methods import Batch, Objective, Setting


def objective(setting: Setting) -> Objective:
    """The loss of a batch; a method's file is this function."""
    return cross_entropy


def cross_entropy(model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, "b classes"]]:
    logits = model(batch.x)
    return F.cross_entropy(logits, batch.y), logits
