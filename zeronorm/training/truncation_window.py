"""Certified training of truncated networks: minimise the loss of the worst logits that the window allows.

The bounds are those of `zeronorm.certification.worst_case_logits`; training on them is this library's own.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from zeronorm import checks
from zeronorm.certification.truncation_window import worst_case_logits
from zeronorm.training.method import BatchLoss, Setting, TrainingBatch


def batch_loss(setting: Setting) -> BatchLoss:
    """`window_loss` with the budget of the plan, which is reached halfway through the epochs."""
    return window_loss(int(setting.plan.budget), setting.plan.epochs // 2)


def window_loss(budget: int, ramp: int) -> BatchLoss:
    """The cross-entropy of the worst-case logits after `budget` changed coordinates, at most the layer's k.

    The budget rises evenly from 0 in epoch 1 to its full value in epoch `ramp` + 1: begun at once, the
    intervals are too wide to learn anything.  Logits that are counted are those of the clean input.
    """
    checks.integer("budget", budget, 0)
    checks.integer("ramp", ramp, 0)

    def loss(model: nn.Module, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        now = budget if batch.epoch > ramp else budget * (batch.epoch - 1) // ramp
        layers = getattr(model, "module", model)  # inside Fabric's wrapper
        return F.cross_entropy(worst_case_logits(layers, batch.x, batch.y, now), batch.y), model(batch.x)

    return loss
