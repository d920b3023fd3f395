"""Standard training: cross-entropy on the examples as they are."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zeronorm.training.method import BatchLoss, Setting, TrainingBatch


def batch_loss(setting: Setting) -> BatchLoss:
    """Cross-entropy, whatever the setting."""
    return cross_entropy


def cross_entropy(
    model: nn.Module, batch: TrainingBatch
) -> tuple[Float[Tensor, ""], Float[Tensor, "b classes"]]:
    logits = model(batch.x)
    return F.cross_entropy(logits, batch.y), logits
