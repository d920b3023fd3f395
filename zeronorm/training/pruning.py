"""Sparse training for any method: rounds of pruning between epochs, masks, and an ℓ1 penalty."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zeronorm.defenses.pruning import prune_further, weights

if TYPE_CHECKING:
    from zeronorm.training.plan import TrainingPlan

_MASK = "mask/"  # before the names of the masks in a training's memory


class Pruning:
    """Prunes weights in rounds, and keeps them zero afterwards (Guo et al. 2018, section 4.1).

    A weight that was pruned, or that is zero in the model the training starts from, stays exactly zero: its
    gradient and its momentum are masked.  The masks are part of the training's memory, and so of its checkpoint.
    """

    def __init__(self, plan: TrainingPlan, model: nn.Module, memory: dict[str, Tensor], fresh: bool) -> None:
        self._plan, self._model, self._memory = plan, model, memory
        used = plan.initial is not None or plan.prune or plan.l1
        self._weights = weights(model, plan.keep_dense) if used else {}
        if plan.initial is not None and fresh:
            self._mask({name: w != 0 for name, w in self._weights.items() if bool((w == 0).any())})

    def begin(self, epoch: int, optimizer: torch.optim.Optimizer, average: dict[str, Tensor]) -> None:
        """Prune if a round is due before this epoch."""
        if epoch not in self._plan.pruned_before():
            return
        share = 1 - (1 - self._plan.prune) ** (1 / self._plan.prune_rounds)
        self._mask(prune_further(self._model, share, keep_dense=self._plan.keep_dense))
        for name, mask in self._masks():
            momentum = optimizer.state[self._weights[name]].get("momentum_buffer")
            for tensor in (momentum, average.get(name)):
                if tensor is not None:
                    tensor.mul_(mask)

    def mask_gradients(self) -> None:
        """Zero the gradients of pruned weights, between a backward pass and the step."""
        for name, mask in self._masks():
            gradient = self._weights[name].grad
            if gradient is not None:
                gradient.mul_(mask)

    def penalty(self) -> Float[Tensor, ""] | float:
        """λ Σ |w| over the weights that may be pruned."""
        if not self._plan.l1:
            return 0.0
        return self._plan.l1 * torch.stack([w.abs().sum() for w in self._weights.values()]).sum()

    def _mask(self, masks: dict[str, Tensor]) -> None:
        self._memory.update({f"{_MASK}{name}": mask for name, mask in masks.items()})

    def _masks(self) -> list[tuple[str, Tensor]]:
        return [
            (name.removeprefix(_MASK), mask) for name, mask in self._memory.items() if name.startswith(_MASK)
        ]
