"""The table of certificates, and what each claims about itself.  The tests read the claims and hold it to them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from zeronorm import checks
from zeronorm.certification.bound_propagation import certify_bound_propagation, check_bound_propagation
from zeronorm.certification.certificate import ABSTAIN, UNBOUNDED, Arithmetic, Certificate
from zeronorm.certification.confidence import Ints, check_counts, check_probability
from zeronorm.certification.discrete_smoothing import check_noise, discrete_smoothing_radius
from zeronorm.certification.enumeration import QUERIES, certify_enumeration, enumeration_queries
from zeronorm.certification.feature_partition import certify_feature_partition, check_feature_partition
from zeronorm.certification.l0_lipschitz import certify_l0_lipschitz, check_l0_lipschitz
from zeronorm.certification.nearest_neighbour import certify_neighbours, check_nearest_neighbour
from zeronorm.certification.randomized_ablation import BOUNDS, certify_votes
from zeronorm.certification.tree_ensemble import WORK, smallest_change
from zeronorm.certification.truncation_window import certify_truncated, check_truncated
from zeronorm.errors import ArgumentError
from zeronorm.models.classifier import Classifier
from zeronorm.models.nearest_neighbour import NearestNeighbour
from zeronorm.models.tree_ensemble import TreeClassifier
from zeronorm.threat_model import L0

GIVEN = ("y", "threats", "seconds", "seed", "ids", "batch_size")
"""What a proof may ask for by the name of a keyword: labels, threat models with budgets in ascending order, seconds for
each example, what names random numbers, and how many examples to take at a time."""


@dataclass(frozen=True)
class Certifier:
    """One row of the catalogue.

    Attributes:
        function: of a deterministic method `(model, x, *, ...) -> Certificate`, whose keywords among `GIVEN` are handed
            in and whose others are the method's options; of a probabilistic one `(selection, counts, shape, options)
            -> (predictions, radii)`, a formula of votes that a `SmoothedClassifier` of `zeronorm.defenses` casts.
        kind: "deterministic", a proof; or "probabilistic", wrong of each example with a stated probability.
        unit: what the radius counts: pixels, of which one is changed in all its channels; features; or columns.
        accepts: `(model, x)`, raises `ArgumentError` with the reason where it cannot certify this model on such inputs.
        made_for: whether a model was made to be certified so; then it is the method where none is asked for.
        source: the paper.
        arithmetic: the program that its proofs are about, as of `Certificate`.
        defaults: options and their defaults, of a probabilistic method.
        fits: of a method that asks for threats, `(x, threats)`, raises `ArgumentError` for those it does not know; None
            of one that knows no columns of tables.
        check: of a probabilistic method, raises `ArgumentError` for options that cannot be used.
    """

    name: str
    function: Callable[..., Any]
    kind: Literal["deterministic", "probabilistic"]
    unit: Literal["pixel", "feature", "column"]
    accepts: Callable[[Any, Tensor], object]
    made_for: Callable[[Any], bool]
    source: str
    arithmetic: Arithmetic = "deployed"
    defaults: Mapping[str, Any] | None = None
    check: Callable[[Mapping[str, Any]], None] | None = None
    fits: Callable[[Tensor, Sequence[Any]], object] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Its options and their defaults."""
        if self.defaults is not None:
            return dict(self.defaults)
        return {name: value for name, value in self._keywords().items() if name not in GIVEN}

    @property
    def needs(self) -> set[str]:
        """Which of `GIVEN` it asks for."""
        return set() if self.kind == "probabilistic" else set(self._keywords()) & set(GIVEN)

    @property
    def votes(self) -> bool:
        """Whether it judges votes."""
        return self.kind == "probabilistic"

    def _keywords(self) -> dict[str, Any]:
        parameters = list(inspect.signature(self.function).parameters.values())[2:]
        return {p.name: p.default for p in parameters}

    def check_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """All options, with defaults; `ArgumentError` if one is not one of this method's, or cannot be used."""
        for name in options:
            if name not in self.options:
                known = ", ".join(self.options) or "none"
                why = "" if self.votes else " casts no votes and"
                raise ArgumentError(
                    f"{name}: the method {self.name}{why} takes no {name}; its options: {known}"
                )
        every = self.options | dict(options)
        if self.check is not None:
            self.check(every)
        return every

    def refusal(self, model: Any, x: Tensor) -> str | None:
        """Why it cannot certify the model on inputs such as x; None where it can."""
        try:
            self.accepts(model, x)
        except ArgumentError as error:
            return str(error)
        return None

    def misfit(self, x: Tensor, threats: Sequence[L0]) -> str | None:
        """Why its proofs are not about these threat models, with ascending budgets; None where they are."""
        if self.fits is None:
            return None if threats[0].unit != "column" else "it knows nothing of the columns of a table"
        try:
            self.fits(x, threats)
        except ArgumentError as error:
            return str(error)
        return None

    def prove(self, model: Any, x: Tensor, options: Mapping[str, Any], **given: Any) -> Certificate:
        """What a deterministic method proves; of `given` it is handed what it asks for."""
        asked = {name: value for name, value in given.items() if name in self.needs}
        proof: Certificate = self.function(model, x, **options, **asked)
        return proof

    def judge(
        self, selection: Any, counts: Any, shape: Sequence[int], options: Mapping[str, Any]
    ) -> tuple[Ints, Ints]:
        """Predictions and radii that the votes prove, of inputs of this shape; `ABSTAIN` where nothing is proved."""
        found: tuple[Ints, Ints] = self.function(selection, counts, shape, options)
        return found


# -- votes -------------------------------------------------------------------------------------------------

_VOTES = {"n0": 1000, "n": 10_000, "alpha": 0.05, "precision": "float32"}
ABLATION = {
    "retained": None,
    "null": "multichannel",
    "mean": None,
    "std": None,
    **_VOTES,
    "bound": "half",
    "looks": 1,
}
DISCRETE = {"keep": None, "levels": 256, **_VOTES}


def _check_votes(options: Mapping[str, Any]) -> None:
    checks.integer("n0", options["n0"], 1)
    checks.integer("n", options["n"], 1)
    check_probability(options["alpha"], "alpha")


def _check_ablation(options: Mapping[str, Any]) -> None:
    _check_votes(options)
    checks.choice("bound", options["bound"], BOUNDS)
    checks.integer("looks", options["looks"], 1)


def _check_discrete(options: Mapping[str, Any]) -> None:
    _check_votes(options)
    if options["keep"] is None:
        raise ArgumentError("keep: expected the chance that a value stays, got None")
    check_noise(options["levels"], options["keep"])


def _ablation(
    selection: Any, counts: Any, shape: Sequence[int], options: Mapping[str, Any]
) -> tuple[Ints, Ints]:
    told = options["retained"], options["alpha"], options["bound"], options.get("looks", 1)
    return certify_votes(selection, counts, int(np.prod(shape[1:])), *told)


def _discrete(
    selection: Any, counts: Any, shape: Sequence[int], options: Mapping[str, Any]
) -> tuple[Ints, Ints]:
    chosen, votes = check_counts(selection), check_counts(counts)
    if not len(votes):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    candidate = chosen.argmax(1)
    own = np.take_along_axis(votes, candidate[:, None], 1)[:, 0]
    told = options["levels"], options["keep"], options["alpha"]
    radius = discrete_smoothing_radius(own, options["n"], *told, most=int(np.prod(shape)))
    return np.where(radius == ABSTAIN, ABSTAIN, candidate), radius


def _callable(model: Any, x: Tensor) -> object:
    return checks.model(model)


# -- trees -------------------------------------------------------------------------------------------------


def _columns(model: Any, x: Tensor, *, threats: Sequence[L0], work: int = WORK) -> Certificate:
    """The smallest number of changes that moves each answer, up to the largest budget."""
    found = smallest_change(model, x, threats[-1], work)
    broken = found.upper.where(found.upper < UNBOUNDED, torch.tensor(ABSTAIN))
    return replace(found.certificate, broken=broken, counterexamples=found.witness)


def _any(x: Tensor, threats: Sequence[L0]) -> None:
    """Pixels of one channel, features and columns alike."""


def _enumerated(model: Any, x: Tensor, *, threats: Sequence[L0], queries: int = QUERIES) -> Certificate:
    """What asking about every row within the largest budget shows."""
    found = certify_enumeration(model, x, threats[-1], queries)
    broken = found.changes.where(found.changes < UNBOUNDED, torch.tensor(ABSTAIN))
    return replace(found.certificate, broken=broken, counterexamples=found.witness)


def _finite(x: Tensor, threats: Sequence[L0]) -> None:
    if threats[-1].schema is None:
        raise ArgumentError('threats: expected unit="column" and a schema, got none')
    if (needed := enumeration_queries(x, threats[-1])) > QUERIES:
        raise ArgumentError(f"threats: expected at most {QUERIES:,} rows to ask about, got {needed:,}")


def _check_trees(model: Any, x: Tensor) -> None:
    if not _trees(model):
        raise ArgumentError(
            f"model: expected trees that zeronorm.models has opened, got {type(model).__name__}; see from_sklearn"
        )
    model.trees  # noqa: B018  # which says what is not understood


# -- models ------------------------------------------------------------------------------------------------


def _architecture(model: Any) -> Any:
    return getattr(model, "architecture", None)


def _is_lipschitz(model: Any) -> bool:
    return bool(_architecture(model) == "l0_lipschitz")


def _votes(model: Any) -> bool:
    return bool(_architecture(model) == "feature_partition")


def _compares(model: Any) -> bool:
    return type(model) is NearestNeighbour


def _truncates(model: Any) -> bool:
    # a truncated network that was trained on ablated images is made for those
    return isinstance(model, Classifier) and bool(model.arguments.get("truncation")) and not _ablated(model)


def _ablated(model: Any) -> bool:
    return "ablation" in getattr(model, "facts", {})


def _trees(model: Any) -> bool:
    return isinstance(model, TreeClassifier)


def _no(model: Any) -> bool:
    return False


_LEVINE, _LEE = "Levine & Feizi, AAAI 2020; Jia et al., ICLR 2022", "Lee et al., NeurIPS 2019"
_GROUPS, _OURS = "Hammoudeh & Lowd, AAAI 2024; soft votes: this library", "this library"

_PROOF: tuple[Literal["deterministic"], Literal["pixel"]] = ("deterministic", "pixel")
_PIXELS: tuple[Literal["probabilistic"], Literal["pixel"]] = ("probabilistic", "pixel")
_FEATURES: tuple[Literal["probabilistic"], Literal["feature"]] = ("probabilistic", "feature")
_ON_ABLATION: dict[str, Any] = {"defaults": ABLATION, "check": _check_ablation}
_ON_NOISE: dict[str, Any] = {"defaults": DISCRETE, "check": _check_discrete}

catalogue: dict[str, Certifier] = {
    row.name: row
    for row in (
        # name, function, kind and unit, accepts, made for, source
        Certifier("randomized_ablation", _ablation, *_PIXELS, _callable, _ablated, _LEVINE, **_ON_ABLATION),
        Certifier("discrete_smoothing", _discrete, *_FEATURES, _callable, _no, _LEE, **_ON_NOISE),
        Certifier("l0_lipschitz", certify_l0_lipschitz, *_PROOF, check_l0_lipschitz, _is_lipschitz, _OURS),
        Certifier("feature_partition", certify_feature_partition, *_PROOF, check_feature_partition, _votes, _GROUPS),
        Certifier("truncation_window", certify_truncated, *_PROOF, check_truncated, _truncates, _OURS),
        Certifier("tree_ensemble", _columns, "deterministic", "feature", _check_trees, _trees, _OURS, fits=_any),
        Certifier("enumeration", _enumerated, "deterministic", "column", _callable, _no, _OURS, fits=_finite),
        Certifier("bound_propagation", certify_bound_propagation, *_PROOF, check_bound_propagation, _no, _OURS, "real"),
        Certifier("nearest_neighbour", certify_neighbours, *_PROOF, check_nearest_neighbour, _compares, _OURS),
    )
}  # fmt: skip


def get(name: str) -> Certifier:
    """The catalogue's row of that name; hyphens may stand for underscores."""
    return catalogue[checks.choice("method", str(name).replace("-", "_"), tuple(catalogue))]


def made_for(model: Any) -> str:
    """The method that a model was made for, else randomized ablation, which goes with any."""
    smoothed = getattr(model, "certificate", None)
    if isinstance(smoothed, str):
        return smoothed
    return next((row.name for row in catalogue.values() if row.made_for(model)), "randomized_ablation")
