"""What a comparison is asked to do: models and attacks by name, and whether every pair of them can run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch

from zeronorm import checks, models
from zeronorm.attacks.batch_under_attack import Model
from zeronorm.attacks.catalogue import catalogue
from zeronorm.attacks.sparse_autoattack import Stage
from zeronorm.data import Dataset, Stream
from zeronorm.errors import ArgumentError
from zeronorm.evaluation import diagnosis
from zeronorm.evaluation.batches import in_batches
from zeronorm.evaluation.examples import check_box, on_device
from zeronorm.evaluation.fresh_pass import device_of
from zeronorm.evaluation.plan import AttackFunction, AttackLike, as_custom, costs_of, resolve_stages
from zeronorm.threat_model import L0

NamedAttacks = Mapping[str, AttackLike | Sequence[AttackLike]]
Attacks = Sequence[AttackLike] | NamedAttacks


def named_models(model: Model | Mapping[str, Model]) -> dict[str, Model]:
    """Models by name; one without a name goes by its class or function."""
    if not isinstance(model, Mapping):
        return {models.describe(checks.model(model))["architecture"]: model}
    if not model or not all(isinstance(name, str) and name for name in model):
        raise ArgumentError(
            f"model: expected at least one model, each by its name, a word, got {list(model)!r:.100}"
        )
    return dict(model)


def named_attacks(attacks: Attacks) -> dict[str, AttackLike | Sequence[AttackLike]]:
    """Attacks by name; those of a list go by their own."""
    if isinstance(attacks, Mapping):
        named = dict(attacks)
        for name, attack in named.items():
            word = str(name).replace("-", "_")
            if word in catalogue and word not in catalogued(attack):
                raise ArgumentError(
                    f"attacks: {name} is an attack of the catalogue, and what is called so here is not; give it "
                    "another name"
                )
    else:
        one = isinstance(attacks, str) or not isinstance(attacks, Sequence)
        listed: list[Any] = [attacks] if one else list(attacks)
        names = [_name(attack) for attack in listed]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ArgumentError(
                f"attacks: expected different attacks, or names for them, got {twice[0]} twice"
            )
        named = dict(zip(names, listed, strict=True))
    if not named or not all(isinstance(name, str) and name for name in named):
        raise ArgumentError(f"attacks: expected at least one attack, each by its name, got {list(named)}")
    return named


def _name(attack: Any) -> str:
    if isinstance(attack, str):
        return attack.replace("-", "_")
    if isinstance(attack, Stage):
        return attack.name
    if callable(attack):
        return getattr(function := _function(attack), "shown", getattr(function, "__name__", ""))
    raise ArgumentError(f"attacks: expected names, Stages or functions, got {type(attack).__name__}")


def check_comparison(
    named: Mapping[str, Model],
    dataset: Dataset | Stream,
    threats: Sequence[L0],
    attacks: NamedAttacks,
    given: Mapping[str, int],
    batch_size: int | None = None,
) -> dict[str, dict[str, int]]:
    """Which of the lengths given (steps, queries) each attack takes.

    Raises:
        ArgumentError: with everything that stands in the way of any run.
    """
    for name, low in (("steps", 0), ("queries", 1)):
        if name in given:
            checks.integer(name, given[name], low)
    examples = on_device(dataset, torch.device("cpu"))
    for threat in threats:
        check_box(examples, threat)
    parts = {name: catalogued(attack) for name, attack in attacks.items()}
    norms = {"L0", "Linf"} if threats[0].as_linf(dataset.x[:1]) else {"L0"}
    possible = [name for name, entry in catalogue.items() if norms.intersection(entry.norms)]
    if unfit := [name for name in dict.fromkeys(chain(*parts.values())) if name not in possible]:
        raise ArgumentError(
            f"attack: expected some of {', '.join(possible)}, got {', '.join(map(repr, unfit))}"
        )

    taken = sorted(set(chain(*map(costs, attacks.values()))))
    problems = [
        f"{length}: none of the attacks asked for takes it, only {', '.join(taken) or 'none'}"
        for length in given
        if length not in taken
    ]
    lengths = {name: lengths_for(attack, given) for name, attack in attacks.items()}
    for model_name, model in named.items():
        try:
            differentiable = _fits(model, dataset, batch_size)
        except ArgumentError as error:
            problems.append(f"{model_name}: {error}")
            continue
        for name, attack in attacks.items():
            try:
                _try(model, dataset, threats[-1], attack, differentiable, lengths[name])
            except ArgumentError as error:
                problems.append(f"{name} on {model_name}: {error}")
    if len(problems) > 1:
        problems = [f"({number}) {problem}" for number, problem in enumerate(problems, start=1)]
    if problems:
        raise ArgumentError("; ".join(problems))
    return lengths


def unfit_attacks(
    model: Model,
    dataset: Dataset | Stream,
    threats: Sequence[L0],
    attacks: NamedAttacks,
    given: Mapping[str, int],
    batch_size: int | None = None,
) -> dict[str, str]:
    """The attacks that cannot be run on a model, each with why.

    Raises:
        ArgumentError: if the model cannot be attacked on this data at all.
    """
    differentiable = _fits(model, dataset, batch_size)
    unfit = {}
    for name, attack in attacks.items():
        try:
            _try(model, dataset, threats[-1], attack, differentiable, lengths_for(attack, given))
        except ArgumentError as error:
            unfit[name] = str(error)
    return unfit


def lengths_for(attack: AttackLike | Sequence[AttackLike], given: Mapping[str, int]) -> dict[str, int]:
    """Those of the lengths given (steps, queries) that an attack or a cascade takes."""
    return {length: value for length, value in given.items() if length in costs(attack)}


def costs(attack: AttackLike | Sequence[AttackLike]) -> set[str]:
    """The lengths that an attack or a cascade takes."""
    listed = attack if isinstance(attack, Sequence) and not isinstance(attack, str) else [attack]
    own = {cost for part in listed if callable(part) for cost in costs_of(_function(part))}
    return own | {cost for name in catalogued(attack) if name in catalogue for cost in catalogue[name].cost}


def _catalogue_name(function: Any) -> str | None:
    """What a function of the catalogue is called there."""
    return next((name for name, entry in catalogue.items() if entry.function is function), None)


def _function(part: Any) -> AttackFunction:
    """A function of the catalogue, or an attack of one's own."""
    return part if _catalogue_name(part) else as_custom(part)


def catalogued(attack: AttackLike | Sequence[AttackLike]) -> list[str]:
    """The names in the catalogue that an attack or a cascade goes by."""
    parts = attack if isinstance(attack, Sequence) and not isinstance(attack, str) else [attack]
    names = [part.attack if isinstance(part, Stage) else _catalogue_name(part) or part for part in parts]
    return [name.replace("-", "_") for name in names if isinstance(name, str)]


def _fits(model: Model, dataset: Dataset | Stream, batch_size: int | None) -> bool:
    """Whether the model gives gradients; `ArgumentError` if it cannot be attacked on this data at all."""
    checks.model(model)
    checks.evaluation_mode(model)
    examples = on_device(dataset, device_of(model))
    return diagnosis.look_at(in_batches(model, batch_size, examples.first(1).x), examples).differentiable


def _try(
    model: Model,
    dataset: Dataset | Stream,
    threat: L0,
    attack: AttackLike | Sequence[AttackLike],
    differentiable: bool,
    lengths: Mapping[str, int],
) -> None:
    """Whatever the attack refuses, it refuses now."""
    none = on_device(dataset, device_of(model)).at([])
    stages = resolve_stages(
        attack,
        differentiable=differentiable,
        steps=lengths.get("steps"),
        queries=lengths.get("queries"),
    )
    for stage in stages:
        stage.check(model, none.x, none.y, threat)
