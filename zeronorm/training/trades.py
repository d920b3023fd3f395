"""sTRADES (Zhong, Huang & Liu 2024, section 4.3): TRADES on the adversarial examples of sparse-PGD."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zeronorm.training.method import BatchLoss, Setting, TrainingBatch


def batch_loss(setting: Setting) -> BatchLoss:
    """Cross-entropy on the clean examples, plus `beta` times how far adversarials move the prediction.

    CE(f(x), y) + β KL(softmax f(x) ‖ softmax f(x')), the mean over the batch, with gradients through both
    arguments; x' maximises the cross-entropy, not the divergence (Zhang et al. 2019 do the latter).

    Two forwards in training mode, clean then adversarial: each is normalised by its own batch statistics, and
    the running ones are a mix of both.
    """
    beta = setting.plan.beta

    def loss(model: nn.Module, batch: TrainingBatch) -> tuple[Float[Tensor, ""], Float[Tensor, "b classes"]]:
        x_adv = setting.adversary(batch.x, batch.y, batch.ids, batch.epoch, batch.step)
        clean, moved = model(batch.x), model(x_adv)
        return F.cross_entropy(clean, batch.y) + beta * divergence(clean, moved), moved

    return loss


def divergence(clean: Float[Tensor, "b classes"], moved: Float[Tensor, "b classes"]) -> Float[Tensor, ""]:
    """KL(softmax clean ‖ softmax moved), the mean over the batch."""
    return F.kl_div(moved.log_softmax(1), clean.log_softmax(1), reduction="batchmean", log_target=True)
