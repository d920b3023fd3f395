"""The training methods by name, and what the loop tells them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jaxtyping import Float, Int
from torch import Tensor, nn

from zeronorm.training import (
    ablation,
    adversarial,
    append,
    fast_ls,
    linf_adversarial,
    standard,
    trades,
    truncation_window,
)
from zeronorm.training.processes import Processes

if TYPE_CHECKING:
    from zeronorm.data import Dataset
    from zeronorm.training.adversary import Adversary
    from zeronorm.training.plan import TrainingPlan


@dataclass(frozen=True)
class Examples:
    """A data set, or some of its rows, on the device of the training."""

    x: Float[Tensor, "n c h w"]
    y: Int[Tensor, "n"]
    ids: Int[Tensor, "n"]

    def __getitem__(self, rows: Tensor) -> Examples:
        rows = rows.to(self.ids.device)
        return Examples(self.x[rows], self.y[rows], self.ids[rows])


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
    """What a method may use: the plan, the attack, the encoding if the method has one, and a memory that the
    checkpoint keeps."""

    plan: TrainingPlan
    adversary: Adversary
    y: Int[Tensor, "n"]  # the labels of all training data
    classes: int
    memory: dict[str, Tensor]  # by name; a method fills it unless a resumed training has brought it
    encoding: ablation.Encoding | None = None
    processes: Processes = field(default_factory=Processes)


# (model in training mode, batch) -> (loss to descend, logits of what was learnt, to count)
Objective = Callable[[nn.Module, Batch], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Method:
    """A training method: how a batch becomes a loss, and what else sets it apart."""

    objective: Callable[[Setting], Objective]
    uses: tuple[str, ...] = ()
    """Fields of the plan that it has and not every other method; with "attack" it attacks within `k`."""
    encoding: Callable[[TrainingPlan, Dataset], ablation.Encoding] | None = None
    """How its model is shown the images, if not as they are."""
    grow: Callable[[Setting, Examples, Tensor, int], tuple[Examples, Tensor]] | None = None
    """(setting, examples, rows to learn, epoch) -> the two for this epoch, if not the same."""
    by_example: tuple[str, ...] = ()
    """Of its memory, what has a row for each training example, which a step writes for the examples of its batch."""
    keeps_last: bool = False
    """Whether the last epoch is kept, whatever earlier ones make of clean images: they learnt something easier."""

    @property
    def budget(self) -> str | None:
        """The field of the plan that says what the model is to withstand, of a method that attacks it."""
        return "epsilon" if "epsilon" in self.uses else "k" if "attack" in self.uses else None


_ATTACK = ("multi_k", "attack", "steps", "gradient", "tolerance")

METHODS: dict[str, Method] = {
    "standard": Method(standard.objective),
    "sat": Method(adversarial.objective, _ATTACK),
    "strades": Method(trades.objective, (*_ATTACK, "beta")),
    "fast_ls": Method(
        fast_ls.objective,
        (*_ATTACK, "beta", "noise", "label_momentum", "label_warm_up"),
        by_example=("labels",),
    ),
    "linf_adversarial": Method(linf_adversarial.objective, ("epsilon", "steps", "step_size")),
    "ablation": Method(ablation.objective, ("retained", "null"), encoding=ablation.Encoding.of),
    "truncated": Method(
        standard.objective,
        ("attack", "steps", "append_every", "append_limit", "box_factor"),
        grow=append.grow,
    ),
    "truncation_window": Method(truncation_window.objective, ("budget",), keeps_last=True),
}
