"""sAT (Zhong, Huang & Liu 2024, section 4.3): cross-entropy on the adversarial examples of sparse-PGD."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zeronorm.training.method import BatchLoss, Setting, TrainingBatch


def batch_loss(setting: Setting) -> BatchLoss:
    """The loss on adversarials alone, as in Madry et al. 2018.

    One forward in training mode: batch normalisation sees adversarials only (in the authors' code it also
    sees a clean batch every five steps, which is forwarded for the log).
    """

    def loss(model: nn.Module, batch: TrainingBatch) -> tuple[Float[Tensor, ""], Float[Tensor, "b classes"]]:
        logits = model(setting.adversary(batch.x, batch.y, batch.ids, batch.epoch, batch.step))
        return F.cross_entropy(logits, batch.y), logits

    return loss
