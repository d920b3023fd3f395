"""The training methods by name, and what the loop tells them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float, Int
from torch import Tensor, nn

from zeronorm.training import adversarial, fast_ls, standard, trades

if TYPE_CHECKING:
    from zeronorm.training.adversary import Adversary
    from zeronorm.training.plan import TrainingPlan


@dataclass(frozen=True)
class Batch:
    """The examples of one step, after augmentation."""

    x: Float[Tensor, "b c h w"]
    y: Int[Tensor, "b"]
    ids: Int[Tensor, "b"]
    rows: Int[Tensor, "b"]  # of the training data
    epoch: int  # from 1
    step: int  # of the epoch, from 0


@dataclass(frozen=True)
class Setting:
    """What a method may use: the plan, the attack, and a memory that the checkpoint keeps."""

    plan: TrainingPlan
    adversary: Adversary
    y: Int[Tensor, "n"]  # the labels of all training data
    classes: int
    memory: dict[str, Tensor]  # by name; a method fills it unless a resumed training has brought it


# (model in training mode, batch) -> (loss to descend, logits of what was learnt, to count)
Objective = Callable[[nn.Module, Batch], tuple[Tensor, Tensor]]

METHODS: dict[str, Callable[[Setting], Objective]] = {
    "standard": standard.objective,
    "sat": adversarial.objective,
    "strades": trades.objective,
    "fast_ls": fast_ls.objective,
}
