"""Attacks written as classes around a torch model: torchattacks, AutoAttack, the codes of papers.

zn.evaluate(model, data, zn.L0(10), attack=from_torch_class(torchattacks.SparseFool, steps=20))
zn.evaluate(model, data, zn.Linf(8 / 255), attack=from_torch_class(AutoAttack, eps=8 / 255))
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from zeronorm.errors import ArgumentError
from zeronorm.integrations.foreign_attack import ForeignAttack, Threat


def from_torch_class(attack: type, **options: Any) -> ForeignAttack:
    """A class and its arguments after the model, as an attack of ours.

    `attack(model, **options)` is made for every batch and asked by whichever it has of
    `run_standard_evaluation(x, y)` (AutoAttack), `perturb(x, y)` (Sparse-RS) and the call `(x, y)`
    (torchattacks, sPGD); of several results the first of the inputs' shape counts.  What it finds is brought
    into the threat model.
    """
    return _TorchClass(attack, **options)


class _TorchClass(ForeignAttack):
    before = 1

    @property
    def library(self) -> str:  # type: ignore[override]
        return str(self.made_of.__module__.partition(".")[0])

    def attempt(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        one: Any = self.made_of(model, **self.options)
        if hasattr(one, "run_standard_evaluation"):
            result = one.run_standard_evaluation(x, y)
        else:
            result = (one.perturb if hasattr(one, "perturb") else one)(x, y)
        several = result if isinstance(result, tuple | list) else [result]
        for found in several:
            if isinstance(found, Tensor) and found.shape == x.shape:
                return found
        kinds = ", ".join(
            str(tuple(found.shape)) if isinstance(found, Tensor) else type(found).__name__
            for found in several
        )
        raise ArgumentError(
            f"attack: expected inputs of shape {tuple(x.shape)} from {self.made_of.__name__}, got {kinds}"
        )
