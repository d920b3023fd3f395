"""The training methods by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor, nn

from zeronorm.training import standard

if TYPE_CHECKING:
    from zeronorm.training.plan import TrainingPlan

# (model in training mode, x, y, ids of the examples, epoch) -> (loss to descend, logits to count)
Objective = Callable[[nn.Module, Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]

METHODS: dict[str, Callable[["TrainingPlan"], Objective]] = {"standard": standard.objective}
