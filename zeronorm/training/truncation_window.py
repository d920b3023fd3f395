"""Certified training of truncated networks: descend the loss of the worst logits that the window allows.

The bounds are those of `zeronorm.certification.worst_case_logits`; training on them is this library's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from zeronorm import checks
from zeronorm.certification.truncation_window import worst_case_logits

if TYPE_CHECKING:
    from zeronorm.training.methods import Objective


def window_loss(budget: int, ramp: int) -> Objective:
    """The cross-entropy of the worst-case logits after `budget` changed coordinates, at most the layer's k.

    The budget rises evenly from 0 in epoch 1 to its full value in epoch `ramp` + 1: begun at once, the
    intervals are too wide to learn anything.  Logits that are counted are those of the clean input.
    """
    checks.integer("budget", budget, 0)
    checks.integer("ramp", ramp, 0)

    def objective(model: nn.Module, x: Tensor, y: Tensor, ids: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        now = budget if epoch > ramp else budget * (epoch - 1) // ramp
        return F.cross_entropy(worst_case_logits(model, x, y, now), y), model(x)

    return objective
