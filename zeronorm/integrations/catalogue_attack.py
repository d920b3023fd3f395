"""Our attacks behind another library's interface: which threat model its one number, the budget, stands for."""

from __future__ import annotations

from typing import Any, Literal

from zeronorm import checks
from zeronorm.attacks.catalogue import Attack, get
from zeronorm.errors import ArgumentError
from zeronorm.threat_model import L0, L2, Bound, Linf

Unit = Literal["pixel", "feature"]


def entry(attack: str, options: dict[str, Any]) -> Attack:
    """The catalogue's row of that name, its options checked."""
    found = get(attack)
    found.check_options(options)
    return found


def threat_of(attack: Attack, budget: float | None, unit: Unit, low: Bound, high: Bound) -> L0 | Linf | L2:
    """The threat model in the attack's own norm: `budget` is k of an ℓ0 attack, else ε; None: unbounded."""
    if attack.norms[0] == "L0":
        return L0(None if budget is None else whole(budget), unit, low, high)
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
