"""The Adversarial Robustness Toolbox (ART): our attacks as its evasion attacks, its attacks in our runner.

attack = ArtAttack(classifier, "sparse_rs", budget=10, queries=1000)
x_adv = attack.generate(x, y)

zn.evaluate(model, data, zn.L0(10), attack=from_art(SaliencyMapMethod, labels=False, gamma=0.1))
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import Model
from zeronorm.errors import ArgumentError
from zeronorm.integrations.catalogue_attack import Unit, entry, in_logits, threat_of
from zeronorm.integrations.extras import require
from zeronorm.integrations.foreign_attack import ForeignAttack, Threat, box
from zeronorm.models.black_box import BlackBox
from zeronorm.threat_model import L0

art = require("art", "integrations")
_attack = require("art.attacks.attack", "integrations")
_estimators = require("art.estimators.classification", "integrations")
_mixin = require("art.estimators.classification.classifier", "integrations")
_base = require("art.estimators.estimator", "integrations")


class ArtAttack(_attack.EvasionAttack):  # type: ignore[name-defined]
    """One of our attacks as an evasion attack of ART.

    **Arguments:**

    - `estimator`: a classifier of ART with `clip_values`, which are the box.  White-box attacks need a
      `PyTorchClassifier`; of any other the predictions alone are asked for.
    - `attack`, `options`: name and options of the catalogue's attack.
    - `budget`: changes in the `unit` of an ℓ0 attack, ε of the others; None: unbounded (minimal attacks).
    - `batch_size`: examples per call; the result does not depend on it.
    """

    attack_params: ClassVar[list[str]] = [
        *_attack.EvasionAttack.attack_params,
        *("attack", "budget", "unit", "seed", "batch_size", "options"),
    ]
    _estimator_requirements = (_base.BaseEstimator, _mixin.ClassifierMixin)

    def __init__(
        self,
        estimator: Any,
        attack: str = "sparse_autoattack",
        *,
        budget: float | None,
        unit: Unit = "pixel",
        targeted: bool = False,
        seed: int = 0,
        batch_size: int = 128,
        **options: Any,
    ) -> None:
        super().__init__(estimator=estimator)
        self.attack, self.budget, self.unit, self.options = attack, budget, unit, options
        self.seed, self.batch_size = seed, batch_size
        self._targeted = targeted
        self._check_params()

    def _check_params(self) -> None:
        super()._check_params()
        if not hasattr(self, "options"):
            return  # while the base class is made
        chosen = entry(self.attack, self.options)
        checks.integer("batch_size", self.batch_size, 1)
        if self.targeted and not chosen.targeted:
            raise ArgumentError(f"targeted: {chosen.name} cannot aim at a class")
        if self.estimator.clip_values is None:
            raise ArgumentError("estimator: expected clip_values, the box that inputs must stay in, got None")
        if chosen.knowledge == "white" and not isinstance(self.estimator, _estimators.PyTorchClassifier):
            raise ArgumentError(
                f"estimator: {chosen.name} needs the gradients of a PyTorchClassifier, got "
                f"{type(self.estimator).__name__}; sparse_rs asks for predictions only"
            )

    def generate(self, x: Any, y: Any = None, **unused: Any) -> Any:
        """Adversarials of `x`, an array (batch, ...) with channels where the classifier says that they are.

        `y`: true labels, or of a targeted attack the classes to reach; as indices (batch,) or (batch, 1), or one-hot
        (batch, classes).  None: what the classifier says of `x`.
        """
        if y is None:
            if self.targeted:
                raise ArgumentError("y: expected the classes to reach, got None")
            y = np.argmax(self.estimator.predict(x), axis=1)
        labels = _indices(y, len(x))
        chosen, model = entry(self.attack, self.options), _model_of(self.estimator)
        low, high = (_bound(bound) for bound in self.estimator.clip_values)
        last = getattr(self.estimator, "channels_first", True) is False
        threat = threat_of(chosen, self.budget, self.unit, low, high, "last" if last else None)
        given, found = np.asarray(x), []
        x = given.astype(art.config.ART_NUMPY_DTYPE)  # as the classifier sees it
        if len(x):
            model = in_logits(model, torch.from_numpy(x).to(_device_of(self.estimator)))
        for start in range(0, len(x), self.batch_size):
            part = slice(start, start + self.batch_size)
            inputs = torch.from_numpy(np.ascontiguousarray(x[part])).to(_device_of(self.estimator))
            options = dict(self.options)
            goal = labels[part].to(inputs.device)
            if self.targeted:
                options["targeted"] = goal
                with torch.no_grad():
                    goal = model(inputs).argmax(1)
            ids = torch.arange(start, start + len(inputs), device=inputs.device)
            found.append(chosen.function(model, inputs, goal, threat, seed=self.seed, ids=ids, **options))
        if not found:
            return np.array(given)
        x_adv = torch.cat(found).cpu().numpy()
        return np.where(x_adv == x, given, x_adv).astype(given.dtype)  # what did not change, to the last bit


def from_art(attack: type, *, labels: bool = True, **options: Any) -> ForeignAttack:
    """A class of ART's evasion attacks and its arguments, as an attack of ours.

    It gets a classifier around the model that the runner watches: a `PyTorchClassifier`, or of a model without
    gradients a `BlackBoxClassifierNeuralNetwork`.  Its budget is its own argument (`eps`, `th`, ...); what it
    finds is brought into the threat model.  `labels`: whether to hand over the true labels; False for those, such
    as `SaliencyMapMethod`, that take any for classes to reach and choose these themselves without.
    """

    return _ArtSearch(attack, labels, options)


class _ArtSearch(ForeignAttack):
    library, before = "art", 1

    def __init__(self, attack: type, labels: bool, options: dict[str, Any]) -> None:
        self.labels = labels
        super().__init__(attack, **options)

    def told(self) -> dict[str, Any]:
        return ({} if self.labels else {"labels": False}) | self.options

    def attempt(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        with torch.no_grad():
            classes = model(x).shape[1]
        shape, clip_values = tuple(x.shape[1:]), box(threat)
        first = not (isinstance(threat, L0) and threat.channels == "last")
        if getattr(model, "differentiable", True):
            classifier = _estimators.PyTorchClassifier(
                model,
                loss=nn.CrossEntropyLoss(),
                input_shape=shape,
                nb_classes=classes,
                clip_values=clip_values,
                channels_first=first,
                device_type=x.device.type,
            )
        else:

            def predict(images: Any) -> Any:
                return model(torch.from_numpy(np.asarray(images, dtype=_numpy(x)))).softmax(1).numpy()

            classifier = _estimators.BlackBoxClassifierNeuralNetwork(
                predict, input_shape=shape, nb_classes=classes, clip_values=clip_values, channels_first=first
            )
        given = nn.functional.one_hot(y, classes).cpu().numpy() if self.labels else None
        found = self.made_of(classifier, **self.options).generate(x=x.cpu().numpy(), y=given)
        return torch.from_numpy(found)


def _indices(y: Any, n: int) -> Tensor:
    """Labels as ART takes them, (n,) or (n, 1) indices or (n, classes) one-hot, as indices."""
    given = np.asarray(y)
    expected = (
        f"y: expected {n} class indices, of shape ({n},) or ({n}, 1), or one-hot of shape ({n}, classes)"
    )
    if given.ndim not in (1, 2) or len(given) != n or given.dtype.kind not in "iufb":
        raise ArgumentError(f"{expected}, got {given.dtype} of shape {given.shape}")
    if given.ndim == 2 and given.shape[1] > 1:
        if not (np.isin(given, (0, 1)).all() and (given.sum(1) == 1).all()):
            raise ArgumentError(f"{expected}, got rows such as {given[0].tolist()!s:.60}")
        return torch.from_numpy(given.argmax(1))
    flat = given.reshape(n)
    if (flat != np.floor(flat)).any() or (flat < 0).any():
        raise ArgumentError(
            f"{expected}, got values such as {flat[(flat != np.floor(flat)) | (flat < 0)][0]}"
        )
    return torch.from_numpy(flat.astype(np.int64))


def _model_of(estimator: Any) -> Model:
    if not isinstance(estimator, _estimators.PyTorchClassifier):
        return BlackBox(estimator.predict, name=f"art.{type(estimator).__name__}")

    def model(x: Tensor) -> Tensor:
        # with ART's own preprocessing, as its white-box attacks see the classifier
        prepared, _ = estimator._apply_preprocessing(x, y=None, fit=False, no_grad=False)
        return estimator._model(prepared)[-1]

    estimator._model.eval()
    return model


def _device_of(estimator: Any) -> torch.device:
    return torch.device(getattr(estimator, "device", None) or "cpu")


def _bound(value: Any) -> float | Tensor:
    array = np.asarray(value)
    return float(array) if array.ndim == 0 else torch.from_numpy(array)


def _numpy(x: Tensor) -> Any:
    return x.new_zeros(0).cpu().numpy().dtype
