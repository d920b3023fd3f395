"""Foolbox: our attacks as its attacks, its attacks in our runner.

attack = to_foolbox("sparse_rs", queries=1000)
raw, clipped, is_adv = attack(foolbox_model, images, labels, epsilons=[1, 5, 10])

zn.evaluate(model, data, zn.L0(10), attack=from_foolbox(foolbox.attacks.L0FMNAttack, steps=200))
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from zeronorm.attacks.catalogue import Attack
from zeronorm.errors import ArgumentError
from zeronorm.integrations.catalogue_attack import Channels, Unit, entry, in_logits, threat_of, whole
from zeronorm.integrations.extras import require
from zeronorm.integrations.foreign_attack import ForeignAttack, Threat, box, into
from zeronorm.threat_model import L0

eagerpy, foolbox = (require(module, "integrations") for module in ("eagerpy", "foolbox"))


def to_foolbox(
    attack: str = "sparse_autoattack",
    *,
    unit: Unit = "pixel",
    channels: Channels | None = None,
    seed: int = 0,
    **options: Any,
) -> Any:
    """One of our attacks as a Foolbox attack.

    `epsilons` of the call are numbers of changes in the `unit` of an ℓ0 attack, ε of the others.  Budget attacks
    become `FixedEpsilonAttack`, minimal ones `MinimizationAttack`, which also take `epsilons=None`.  The Foolbox
    model must be a PyTorch one; its bounds are the box, its preprocessing is part of the model.

    Criteria: `Misclassification` (or labels) and, where the attack can aim, `TargetedMisclassification`.
    """
    kind = _Minimal if entry(attack, options).kind == "minimal" else _Budget
    return kind(attack, unit, channels, seed, options)


def from_foolbox(attack: type, *, epsilon: float | None = None, **options: Any) -> ForeignAttack:
    """A class of Foolbox attacks and its arguments, as an attack of ours.

    A minimising attack needs no budget: what it finds is brought into the threat model.  One of fixed ε is given
    the ε of an ℓ∞ run or the k of a sparse one; `epsilon` says another.
    """

    return _FoolboxSearch(attack, epsilon, options)


class _FoolboxSearch(ForeignAttack):
    library = "foolbox"

    def __init__(self, attack: type, epsilon: float | None, options: dict[str, Any]) -> None:
        if not (isinstance(attack, type) and issubclass(attack, foolbox.attacks.base.Attack)):
            raise ArgumentError(
                f"attack: expected a class of Foolbox's attacks, with its arguments beside it, got {attack!r:.80}"
            )
        self.epsilon = epsilon
        super().__init__(attack, **options)

    def told(self) -> dict[str, Any]:
        return ({} if self.epsilon is None else {"epsilon": self.epsilon}) | self.options

    def attempt(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        one = self.made_of(**self.options)
        budget = None
        if not isinstance(one, foolbox.attacks.base.MinimizationAttack):
            budget = _epsilon_of(one, threat, x) if self.epsilon is None else self.epsilon
        wrapped = foolbox.PyTorchModel(model, bounds=box(threat), device=x.device)
        return one(wrapped, x, foolbox.criteria.Misclassification(y), epsilons=budget)[0]


def _epsilon_of(attack: Any, threat: Threat, x: Tensor) -> float:
    order = getattr(attack.distance, "p", None)
    if order == math.inf and isinstance(threat, L0):
        threat = threat.as_linf(x) or threat
    value = threat.k if order == 0 and isinstance(threat, L0) else getattr(threat, "epsilon", None)
    if value is None:
        raise ArgumentError(
            f"epsilon: expected a number for {type(attack).__name__}, whose {attack.distance} this threat model "
            "does not bound"
        )
    return float(value)


class PixelDistance(foolbox.distances.Distance):  # type: ignore[name-defined]
    """How many positions differ, as a Foolbox distance; clipping keeps the largest changes."""

    def __init__(self, unit: Unit, channels: Channels | None = None) -> None:
        self.unit, self.channels = unit, channels

    def __repr__(self) -> str:
        return f"PixelDistance({self.unit!r})"

    def __call__(self, references: Any, perturbed: Any) -> Any:
        x, restore = _torch(references)
        x_adv, _ = _torch(perturbed)
        return restore(self._threat(None).distance(x, x_adv).to(x.dtype))

    def clip_perturbation(self, references: Any, perturbed: Any, epsilon: float) -> Any:
        x, restore = _torch(references)
        x_adv, _ = _torch(perturbed)
        # a box that cuts nothing off: Foolbox clips to its own
        both = torch.stack([x, x_adv])
        low, high = float(both.min()), float(both.max())
        k = min(whole(epsilon), self._threat(None).positions(x))
        return restore(into(self._threat(k, low, max(high, low + 1)), x, x_adv))

    def _threat(self, k: int | None, low: float = 0.0, high: float = 1.0) -> L0:
        return L0(k, self.unit, low, high, channels=self.channels)


class _Ours:
    """What both kinds share; Foolbox prints the attributes."""

    def __init__(
        self, attack: str, unit: Unit, channels: Channels | None, seed: int, options: dict[str, Any]
    ) -> None:
        self.attack, self.unit, self.seed, self.options = attack, unit, seed, options
        self.channels = channels

    @property
    def entry(self) -> Attack:
        """The catalogue's row."""
        return entry(self.attack, self.options)

    @property
    def distance(self) -> Any:
        norm = self.entry.norms[0]
        if norm == "L0":
            return PixelDistance(self.unit, self.channels)
        return foolbox.distances.linf if norm == "Linf" else foolbox.distances.l2

    def search(self, model: Any, inputs: Any, criterion: Any, budget: float | None) -> Any:
        """Adversarials of the inputs' own kind."""
        x, restore = _torch(inputs)
        low, high = model.bounds
        threat = threat_of(self.entry, budget, self.unit, low, high, self.channels)
        if len(x):
            model = in_logits(model, x)
        criterion = foolbox.attacks.base.get_criterion(criterion)
        options = dict(self.options)
        if isinstance(criterion, foolbox.criteria.Misclassification):
            y = criterion.labels.raw
        elif isinstance(criterion, foolbox.criteria.TargetedMisclassification) and self.entry.targeted:
            options["targeted"] = criterion.target_classes.raw
            with torch.no_grad():
                y = model(x).argmax(-1)
        else:
            aims = ", TargetedMisclassification" if self.entry.targeted else ""
            raise ArgumentError(f"criterion: expected Misclassification{aims}, got {criterion!r:.60}")
        return restore(self.entry.function(model, x, y, threat, seed=self.seed, **options))


class _Budget(_Ours, foolbox.attacks.base.FixedEpsilonAttack):  # type: ignore[name-defined]
    def run(self, model: Any, inputs: Any, criterion: Any, *, epsilon: float, **options: Any) -> Any:
        foolbox.attacks.base.raise_if_kwargs(options)
        return self.search(model, inputs, criterion, epsilon)


class _Minimal(_Ours, foolbox.attacks.base.MinimizationAttack):  # type: ignore[name-defined]
    def run(
        self, model: Any, inputs: Any, criterion: Any, *, early_stop: float | None = None, **options: Any
    ) -> Any:
        foolbox.attacks.base.raise_if_kwargs(options)
        return self.search(model, inputs, criterion, None)


def _torch(values: Any) -> tuple[Tensor, Any]:
    """The torch tensor behind one of EagerPy, or itself, and how to make such a one again."""
    tensor, restore = eagerpy.astensor_(values)
    if not isinstance(tensor.raw, Tensor):
        raise ArgumentError(f"inputs: expected torch tensors, got {type(tensor.raw).__name__}")
    return tensor.raw, lambda raw: restore(eagerpy.astensor(raw))
