"""Standard training: cross-entropy on the examples as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

if TYPE_CHECKING:
    from zeronorm.training.methods import Objective
    from zeronorm.training.plan import TrainingPlan


def objective(plan: TrainingPlan) -> Objective:
    """The loss of one batch under `plan`; a method's file is this function."""
    return cross_entropy


def cross_entropy(
    model: nn.Module, x: Float[Tensor, "b c h w"], y: Int[Tensor, "b"], ids: Int[Tensor, "b"], epoch: int
) -> tuple[Float[Tensor, ""], Float[Tensor, "b classes"]]:
    logits = model(x)
    return F.cross_entropy(logits, y), logits
