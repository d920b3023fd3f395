"""Which smoothed classifier a model is the base of."""

from __future__ import annotations

from typing import Any

from zeronorm.certification.catalogue import get
from zeronorm.defenses.discrete_smoothing import DiscreteSmoothing
from zeronorm.defenses.randomized_ablation import RandomizedAblation
from zeronorm.defenses.smoothed_classifier import SmoothedClassifier
from zeronorm.errors import ArgumentError

SMOOTHED: dict[str, type[SmoothedClassifier]] = {
    kind.certificate: kind for kind in (RandomizedAblation, DiscreteSmoothing)
}
"""Smoothed classifiers by the certificate that judges their votes."""

_OF_VOTES = ("n0", "n", "alpha", "bound", "looks")  # how many votes are cast, and how they are judged


def smoothed(model: Any, method: str = "randomized_ablation", **options: Any) -> SmoothedClassifier:
    """The smoothed classifier of a base classifier, as it was trained for where nothing else is said.

    A model that is one already comes back as it is.

    **Arguments:**

    - `method`: a probabilistic row of the certificates' catalogue.
    - `options`: those of the row.

    **Raises:** `ArgumentError` for options that do not fit the method or the training.
    """
    if isinstance(model, SmoothedClassifier):
        if model.certificate != method:
            raise ArgumentError(f"method: expected {model.certificate} for this model, got {method}")
        if options := {name: value for name, value in options.items() if name in model.options}:
            raise ArgumentError(
                f"{next(iter(options))}: expected none for a {type(model).__name__}, which has its own, got "
                f"{next(iter(options.values()))}"
            )
        return model
    every = get(method).check_options(options)
    trained_for = getattr(model, "facts", {}).get("ablation")
    if method == "randomized_ablation" and every["retained"] is None:
        if trained_for is None:
            raise ArgumentError(
                "retained: expected how many pixels the base classifier is shown, got None; a model of "
                "zeronorm train --method ablation knows it"
            )
        for what in ("null", "mean"):
            given = options.get(what)
            given = list(given) if what == "mean" and given is not None else given
            if given is not None and given != trained_for[what]:
                raise ArgumentError(
                    f"{what}: expected {trained_for[what]}, which the model was trained for, got {given}"
                )
        every |= {what: trained_for[what] for what in ("retained", "null", "mean")}
    copies = {name: value for name, value in every.items() if name not in _OF_VOTES}
    return SMOOTHED[method](model, **copies)


def defended(model: Any, votes: int) -> Any:
    """The classifier that is attacked and certified: of a base classifier of randomized ablation the smoothed one.

    `votes` are those of each answer under attack.
    """
    if "ablation" not in getattr(model, "facts", {}):
        return model
    network = smoothed(model).eval()
    network.votes = votes
    return network
