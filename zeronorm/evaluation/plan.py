"""What a run is asked to do, as plain values: what must be equal for a run to continue another."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import Model
from zeronorm.attacks.catalogue import catalogue, get
from zeronorm.attacks.custom import CustomAttack, custom
from zeronorm.attacks.sparse_autoattack import Stage, stages
from zeronorm.data import Schema
from zeronorm.errors import ArgumentError
from zeronorm.threat_model import L0, Linf

AttackFunction = Callable[..., Tensor]
AttackLike = str | Stage | AttackFunction


@dataclass(frozen=True)
class PlannedStage:
    """One search of a run, with every option and the function that does it.

    Attributes:
        index: its place in the cascade.
        name: the attack, and the choice that tells it from others of the same attack.
        minimal: whether it looks for the smallest change, and so answers for every budget at once.
        proof: whether it is a certificate, handed whom the attacks left; then `function` is not called.
    """

    index: int
    name: str
    attack: str
    options: dict[str, Any]
    function: AttackFunction
    minimal: bool
    proof: bool = False

    @property
    def custom(self) -> bool:
        """Whether it is an attack of one's own."""
        return isinstance(self.function, CustomAttack)

    def describe(self) -> dict[str, Any]:
        """As the plan in run.json holds it."""
        kind = "proof" if self.proof else "minimal" if self.minimal else "budget"
        told: dict[str, Any] = {
            "name": self.name,
            "attack": self.attack,
            "kind": kind,
            "options": self.options,
        }
        if isinstance(self.function, CustomAttack):
            told |= {"knowledge": self.function.knowledge, "custom": self.function.identity}
        return told

    def check(self, model: Model, x: Tensor, y: Tensor, threat: L0) -> None:
        """Whatever the attack refuses, it refuses here, on no examples; a function of one's own is not asked."""
        if self._catalogued():
            self.function(model, x[:0], y[:0], self.own(threat, x), **self.options)

    def own(self, threat: L0, x: Tensor) -> L0 | Linf:
        """The threat model in the norm that the attack knows: an ℓ∞ ball is all features, each changed by so much."""
        if self._catalogued() and "L0" not in get(self.attack).norms:
            return threat.as_linf(x) or threat
        return threat

    def _catalogued(self) -> bool:
        return self.attack in catalogue and self.function is get(self.attack).function


def resolve_threats(
    threat: L0 | Linf | Sequence[L0], curve: bool, x: Tensor, models: Iterable[Model] = ()
) -> tuple[L0, ...]:
    """The threat models of a run on inputs like x, by ascending budget: equal but for k.

    An ℓ∞ ball becomes the capped sparse one that it is.  Where channels are is the models' to say if nobody else does.
    """
    if isinstance(threat, Linf):
        checks.real("epsilon", threat.epsilon, 0.0, open_low=True)
        if curve:
            raise ArgumentError(
                "curve: expected none within an ℓ∞ ball, where the number of changes is no budget"
            )
        threat = threat.as_l0(x)
    threats = list(threat) if isinstance(threat, Sequence) else [threat]
    if not threats or not all(isinstance(t, L0) for t in threats):
        raise ArgumentError(
            f"threat: expected an L0 threat model, several, or an Linf, got {type(threat).__name__}"
        )
    said = {getattr(model, "channels", None) for model in models} & {"first", "last"}
    if len(said) == 1 and x.dim() > 2:
        (channels,) = said
        threats = [t if t.channels or t.unit == "feature" else replace(t, channels=channels) for t in threats]
    budgets = [t.k for t in threats]
    if None in budgets:
        raise ArgumentError("threat: expected a budget k, got None")
    if len(set(budgets)) < len(budgets):
        raise ArgumentError(f"k: expected different budgets, got {budgets}")
    if any(t.describe() != threats[0].describe() for t in threats):
        raise ArgumentError("threat: expected threat models that differ in k only")
    if curve and len(threats) > 1:
        raise ArgumentError(f"curve: expected one threat model, the largest budget, got {len(threats)}")
    return tuple(sorted(threats, key=lambda t: t.k or 0))


def described_threat(plan: Mapping[str, Any], x: Tensor) -> L0:
    """The threat model that a plan describes, of inputs like x and any budget."""
    low, high = (
        torch.tensor(v, dtype=x.dtype) if isinstance(v, list) else v for v in (plan["low"], plan["high"])
    )
    if "schema" in plan:
        threat = L0(None, "column", schema=Schema.parse(plan["schema"]))
    else:
        threat = L0(None, plan["unit"], low, high, plan["linf"], channels=plan.get("channels"))
    if plan["allowed"] is None:
        return threat
    allowed = torch.zeros(threat.positions(x), dtype=torch.bool)
    allowed[torch.tensor(plan["allowed"], dtype=torch.int64)] = True
    return replace(threat, allowed=allowed)


def resolve_stages(
    attack: AttackLike | Sequence[AttackLike],
    *,
    differentiable: bool,
    steps: int | None,
    queries: int | None,
) -> list[PlannedStage]:
    """The searches of a run, in order.

    `steps` and `queries` go to every stage that takes them and has none of its own.  For a model without
    gradients a named ensemble keeps its black-box stages; a single white-box attack is an error.
    """
    given = {
        name: checks.integer(name, value, low)
        for name, value, low in (("steps", steps, 0), ("queries", queries, 1))
        if value is not None
    }
    asked = list(attack) if isinstance(attack, Sequence) and not isinstance(attack, str) else [attack]
    if not asked:
        raise ArgumentError("attack: expected at least one attack, got an empty list")
    resolved: list[tuple[Stage, AttackFunction]] = []  # a custom attack's function is a `CustomAttack`
    used: set[str] = set()
    for one in asked:
        if (
            callable(one)
            and (name := getattr(one, "__name__", "")) in catalogue
            and get(name).function is one
        ):
            one = name
        if isinstance(one, str | Stage):
            stage = one if isinstance(one, Stage) else Stage(one, {})
            entry = get(stage.attack)
            entry.check_options(stage.options)
            lengths = {n: v for n, v in given.items() if n in entry.cost and n not in stage.options}
            used |= lengths.keys()
            stage = Stage(entry.name, lengths | stage.options)
            cascade: Sequence[Stage] = [stage]
            if entry.name == "sparse_autoattack":
                cascade = [s for s in stages(**stage.options) if differentiable or _scores_only(s.attack)]
            resolved += [(s, get(s.attack).function) for s in cascade]
        elif callable(one):
            mine = as_custom(one)
            lengths = {n: v for n, v in given.items() if n in mine.costs and n not in mine.chosen}
            used |= lengths.keys()
            resolved.append((Stage(mine.name, mine.options | lengths), mine))
        else:
            raise ArgumentError(f"attack: expected a name, a Stage or a function, got {type(one).__name__}")

    planned: list[PlannedStage] = []
    for stage, function in resolved:
        own = function if isinstance(function, CustomAttack) else None
        if (
            own.knowledge if own is not None else get(stage.attack).knowledge
        ) == "white" and not differentiable:
            black = ", ".join(name for name in catalogue if _scores_only(name))
            raise ArgumentError(
                f"attack: {stage.attack} needs gradients, and this model gives none; expected one of {black}"
            )
        if own is not None:
            name, minimal = own.shown, own.kind == "minimal"
        else:
            entry = get(stage.attack)
            stage, minimal = Stage(stage.attack, entry.options | stage.options), entry.kind == "minimal"
            name = stage.name
        planned.append(PlannedStage(len(planned), name, stage.attack, stage.options, function, minimal))
    for name in given.keys() - used:
        takes = sorted({cost for stage in planned for cost in costs_of(stage.function)}) or ["none"]
        if name in takes:
            raise ArgumentError(
                f"{name}: each attack that takes {name} was given its own; leave one of both out"
            )
        raise ArgumentError(f"{name}: the attack asked for takes no {name}, only {', '.join(takes)}")
    names = [stage.name for stage in planned]
    if len(set(names)) < len(names):
        raise ArgumentError(f"attack: expected stages of different names, got {', '.join(names)}")
    return planned


def as_custom(function: AttackFunction) -> CustomAttack:
    """A function that stands for an attack, as one of one's own."""
    return function if isinstance(function, CustomAttack) else custom(function)


def costs_of(function: AttackFunction) -> tuple[str, ...]:
    """Those of steps and queries that an attack takes."""
    if isinstance(function, CustomAttack):
        return function.costs
    return next((entry.cost for entry in catalogue.values() if entry.function is function), ())


def takes(function: AttackFunction, name: str) -> bool:
    """Whether an attack has a parameter of that name."""
    if isinstance(function, CustomAttack):
        return function.takes(name)
    parameters = inspect.signature(function).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def digest(plan: dict[str, Any]) -> str:
    """SHA-256 of a plan."""
    try:
        text = json.dumps(plan, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"attack, threat: expected options that are plain numbers and words, for the record: {error}"
        ) from None
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def differences(asked: Any, found: Any, path: str = "") -> list[str]:
    """Where two plans differ, as `path: found there, asked for`."""
    if isinstance(asked, dict) and isinstance(found, dict):
        keys = sorted(asked.keys() | found.keys(), key=lambda key: (key == "digest", key))  # the cause first
        parts = (differences(asked.get(k), found.get(k), f"{path}.{k}" if path else k) for k in keys)
        return [line for part in parts for line in part]
    if isinstance(asked, list) and isinstance(found, list) and len(asked) == len(found):
        parts = (differences(a, f, f"{path}[{i}]") for i, (a, f) in enumerate(zip(asked, found, strict=True)))
        return [line for part in parts for line in part]
    return [] if asked == found else [f"{path} is {_short(found)} there, {_short(asked)} here"]


def _scores_only(name: str) -> bool:
    return get(name).knowledge != "white"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
