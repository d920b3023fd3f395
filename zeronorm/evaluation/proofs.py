"""Certificates as the last stages of a run: whom the attacks left is proved, broken or left unknown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import Model
from zeronorm.certification.catalogue import Certifier, catalogue
from zeronorm.certification.certificate import Certificate
from zeronorm.data import Dataset
from zeronorm.errors import ArgumentError
from zeronorm.evaluation.batches import InBatches
from zeronorm.evaluation.plan import PlannedStage
from zeronorm.threat_model import L0


def proof_stages(
    model: Model, x: Tensor, threats: Sequence[L0], seconds: float | None, after: int
) -> list[PlannedStage]:
    """A stage for every deterministic certificate that accepts the model, from the easiest; they follow `after` others.

    **Raises:** `ArgumentError` if there is none, with the reason of each.
    """
    if seconds is not None:
        seconds = checks.real("seconds", seconds, 0.0, open_low=True)
    owned, refusals = _unwrapped(model), []
    stages: list[PlannedStage] = []
    rows = sorted(
        (row for row in catalogue.values() if not row.votes),
        key=lambda row: (not row.made_for(owned), "seconds" in row.needs),
    )
    for row in rows:
        if (why := _unfit(row, x, threats) or row.refusal(owned, x)) is not None:
            refusals.append(f"{row.name}: {why}")
            continue
        options: dict[str, Any] = dict(row.options)
        if seconds is not None and "seconds" in row.needs:
            options["seconds"] = seconds
        stages.append(
            PlannedStage(after + len(stages), row.name, row.name, options, row.function, False, proof=True)
        )
    if not stages:
        raise ArgumentError(f"prove: no certificate accepts this model ({'; '.join(refusals)})")
    return stages


def certificate_of(
    stage: PlannedStage, model: Model, examples: Dataset, threat: L0, seed: int
) -> Certificate:
    """What a stage proves of some examples within one budget."""
    options = dict(stage.options)
    given: dict[str, Any] = {
        "y": examples.y, "ids": examples.ids, "seed": seed, "threats": [threat],
    }  # fmt: skip
    if "seconds" in options:
        given["seconds"] = options.pop("seconds")
    return catalogue[stage.attack].prove(_unwrapped(model), examples.x, options, **given)


def _unfit(row: Certifier, x: Tensor, threats: Sequence[L0]) -> str | None:
    """Why what a method proves is not about the threat models; None where it is."""
    threat = threats[0]
    if threat.channels == "last" and threat.unit == "pixel":
        return "it counts pixels whose channels are first"
    if (why := row.misfit(x, threats)) is not None or "threats" in row.needs:
        return why
    if row.unit == "feature" and threat.unit == "pixel":
        return "it counts features, of which a pixel may have several"
    low, high = (end if isinstance(end, float | int) else None for end in (threat.low, threat.high))
    if low is None or high is None or low < 0 or high > 1:
        return "its proofs are about values in [0, 1]"
    return None


def _unwrapped(model: Model) -> Any:
    """The model itself, whose layers are known, rather than one asked in batches."""
    return model.model if isinstance(model, InBatches) else model
