"""sAT (Zhong, Huang & Liu 2024, section 4.3): cross-entropy on the adversarial examples of sparse-PGD."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from zeronorm.training.methods import Batch, Objective, Setting


def objective(setting: Setting) -> Objective:
    """The loss on adversarials alone, as in Madry et al. 2018.

    One forward in training mode: batch normalisation sees adversarials only (in the authors' code it also
    sees a clean batch every five steps, which is forwarded for the log).
    """

    def loss(model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, "b classes"]]:
        logits = model(setting.adversary(batch.x, batch.y, batch.ids, batch.epoch, batch.step))
        return F.cross_entropy(logits, batch.y), logits

    return loss
