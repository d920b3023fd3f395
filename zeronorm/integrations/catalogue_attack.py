"""Our attacks behind another library's interface: which threat model its one number, the budget, stands for."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from zeronorm import checks, losses
from zeronorm.attacks.batch_under_attack import Model
from zeronorm.attacks.catalogue import Attack, get
from zeronorm.errors import ArgumentError
from zeronorm.threat_model import L0, L2, Bound, Linf

_LOOKED_AT = 16  # inputs

Unit = Literal["pixel", "feature"]
Channels = Literal["first", "last"]


def in_logits(model: Model, x: Tensor) -> Model:
    """The model itself, or the logarithms of what it answers if these are probabilities, as its answers to x show."""
    with torch.no_grad():
        z = checks.logits(model(x[:_LOOKED_AT].clone()), len(x[:_LOOKED_AT]))
    if not len(z) or losses.probabilities(z) != 1:
        return model

    def logarithms(v: Tensor) -> Tensor:
        p = model(v)
        return p.clamp_min(torch.finfo(p.dtype).tiny).log()

    logarithms.differentiable = getattr(model, "differentiable", True)  # type: ignore[attr-defined]
    return logarithms


def entry(attack: str, options: dict[str, Any]) -> Attack:
    """The catalogue's row of that name, its options checked."""
    found = get(attack)
    found.check_options(options)
    return found


def threat_of(
    attack: Attack,
    budget: float | None,
    unit: Unit,
    low: Bound,
    high: Bound,
    channels: Channels | None = None,
) -> L0 | Linf | L2:
    """The threat model in the attack's own norm: `budget` is k of an ℓ0 attack, else ε; None: unbounded."""
    if attack.norms[0] == "L0":
        return L0(None if budget is None else whole(budget), unit, low, high, channels=channels)
    if attack.norms[0] == "L2":
        return L2(budget, low, high)
    if budget is None:
        raise ArgumentError(f"epsilon: expected a number for {attack.name}, got None")
    return Linf(budget, low, high)


def whole(budget: float, name: str = "epsilon") -> int:
    """A budget as libraries of dense norms have it, a float, as a number of positions."""
    number = checks.real(name, budget, 0.0)
    if not number.is_integer():
        raise ArgumentError(f"{name}: expected a whole number of changes, got {budget}")
    return int(number)
