"""Training the base classifier of randomized ablation: on images of which only a few random pixels are shown.

Levine & Feizi, "Robustness certificates for sparse adversarial attacks by randomized ablation" (AAAI 2020), with their
trick: one subset of pixels for each mini-batch, shared by all of its images.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zeronorm.training.method import BatchLoss, Setting, TrainingBatch


def batch_loss(setting: Setting) -> BatchLoss:
    """Cross-entropy on ablated images.

    The paper trains for 400 epochs at a learning rate of 0.01, from the middle on 0.001, with batches of 128 and
    momentum 0.9 (with weight decay 5e-4, `crop` 4 and `flip` on CIFAR-10).  Images are first augmented, then ablated.
    """
    encoding = setting.encoding
    assert encoding is not None

    def loss(model: nn.Module, batch: TrainingBatch) -> tuple[Float[Tensor, ""], Float[Tensor, "b classes"]]:
        logits = model(encoding.shared(batch.x, batch.epoch, batch.step))
        return F.cross_entropy(logits, batch.y), logits

    return loss
