"""Fast-LS-ℓ0: one-step adversarial training on a smoothed loss (Zhong, Huang & Liu 2025, arXiv 2502.21041).

From the public description of the method; what it leaves open is decided here and said below.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zeronorm.seeding import Streams
from zeronorm.training.method import BatchLoss, Setting, TrainingBatch
from zeronorm.training.trades import divergence


def batch_loss(setting: Setting) -> BatchLoss:
    """The loss of sTRADES with soft labels, on adversarials of one step from a noisy start.

    A single step finds poor positions, the ℓ0 loss is rough, and the training overfits to both: the model
    learns to mislead the step.  Two things smooth the loss: the trade-off of TRADES, and targets that are
    a moving average of the model's own predictions on each example (self-adaptive training, Huang, Zhang &
    Zhang 2020), kept by example in the checkpoint, after a warm-up on the given labels.

    Decided here: the noise is sparse (`noise` x the training budget, of random pixels in random colours) and
    stays in the example, as N-FGSM's does (de Jorge et al. 2022), so that up to (1 + noise) times the budget
    is changed; the average takes in the clean prediction of each visit, with weight 1 - `label_momentum`,
    from epoch `label_warm_up` x epochs on.
    """
    plan, memory = setting.plan, setting.memory
    if "labels" not in memory:
        memory["labels"] = F.one_hot(setting.y, setting.classes).float()
    first = 1 + round(plan.label_warm_up * plan.epochs)

    def loss(model: nn.Module, batch: TrainingBatch) -> tuple[Float[Tensor, ""], Float[Tensor, "b classes"]]:
        labels = memory["labels"]
        noisy = sparse_noise(
            batch.x, batch.ids, round(plan.noise * plan.training_k()), plan.seed, batch.epoch
        )
        x_adv = setting.adversary(noisy, batch.y, batch.ids, batch.epoch, batch.step)
        clean, moved = model(batch.x), model(x_adv)
        if batch.epoch >= first:
            labels[batch.rows] = labels[batch.rows].lerp(
                clean.detach().float().softmax(1), 1 - plan.label_momentum
            )
        targets = labels[batch.rows]
        return F.cross_entropy(clean, targets) + plan.beta * divergence(clean, moved), moved

    return loss


def sparse_noise(
    x: Float[Tensor, "b c h w"], ids: Int[Tensor, "b"], pixels: int, seed: int, epoch: int
) -> Float[Tensor, "b c h w"]:
    """Set so many random pixels of each image to random colours, which follow from (seed, example, epoch)."""
    if not pixels:
        return x
    b, channels, height, width = x.shape
    streams = Streams(seed, ids, f"sparse noise {epoch}")
    pixels = min(pixels, height * width)
    places = streams.uniform(0, height * width).topk(pixels, dim=1).indices
    colours = streams.uniform(1, channels * pixels, x.dtype).view(b, channels, pixels)
    noisy = x.flatten(2).scatter(2, places[:, None].expand_as(colours), colours)
    return noisy.view_as(x)
