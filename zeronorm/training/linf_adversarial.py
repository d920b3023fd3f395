"""Adversarial training within an ℓ∞ ball (Madry, Makelov, Schmidt, Tsipras & Vladu, "Towards deep learning models
resistant to adversarial attacks", ICLR 2018): cross-entropy on the result of projected gradient descent.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zeronorm.modules import evaluation_mode
from zeronorm.seeding import Streams
from zeronorm.threat_model import Linf
from zeronorm.training.method import BatchLoss, Setting, TrainingBatch


def batch_loss(setting: Setting) -> BatchLoss:
    """Cross-entropy on what PGD finds within `epsilon`, from a random start in the ball.

    A front end trains along: its `gradient` says how the attack sees through it.
    """
    plan = setting.plan
    assert plan.epsilon is not None
    threat = Linf(plan.epsilon)
    step_size = plan.epsilon / 4 if plan.step_size is None else plan.step_size

    def loss(model: nn.Module, batch: TrainingBatch) -> tuple[Float[Tensor, ""], Float[Tensor, "b classes"]]:
        x = batch.x
        u = Streams(plan.seed, batch.ids, "linf adversarial").uniform(batch.epoch, x[0].numel(), x.dtype)
        start = x + threat.epsilon * (2 * u.view_as(x) - 1)
        worst = perturbed(
            setting.adversary.model, x, batch.y, threat,
            steps=plan.attack_steps(), step_size=step_size, start=start,
        )  # fmt: skip
        logits = model(worst)
        return F.cross_entropy(logits, batch.y), logits

    return loss


def perturbed(
    model: nn.Module,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: Linf,
    *,
    steps: int,
    step_size: float,
    start: Float[Tensor, "b ..."],
) -> Float[Tensor, "b ..."]:
    """The last input after `steps` signed gradient steps from `start`, whether it breaks the model or not.

    An attack stops at the first success; to train on, the largest loss is wanted.
    """
    low, high = threat.bounds(x)
    v = start.clamp(low, high)
    with evaluation_mode(model):
        for _ in range(steps):
            leaf = v.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
            v = (v + step_size * gradient.sign()).clamp(low, high)
    return v.detach()
