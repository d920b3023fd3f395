"""What every certificate says: an answer, and how many changes it withstands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from zeronorm import checks

ABSTAIN = -(2**63)
"""Radius, and prediction, of an example of which nothing is proved: below every radius, not even 0 changes."""
UNBOUNDED = 2**63 - 1
"""Radius of an answer that no number of changes can move."""

Arithmetic = Literal["deployed", "real"]
"""Which program a proof is about: the pass as it is run (in the model's own precision, in any batch), or the function
that its weights define over the real numbers."""


# compared by identity: equality of tensors has no single truth value
@dataclass(frozen=True, eq=False)
class Certificate:
    """What is proved of a batch.

    Attributes:
        prediction: the certified class, or `ABSTAIN`.
        radius: the largest number of pixels (or features, as the method counts) that may change to any values
            without changing the prediction; `ABSTAIN` where nothing is proved, `UNBOUNDED` where all may change.
            0 says that the prediction stands if nothing changes, which a vote may fail to say.
        arithmetic: which program it is about: "deployed", the pass as it is run, or "real", the function that the
            weights define over the real numbers.
        counts: votes for each class, of a method that counts votes.
        selection: the votes that the candidate class was chosen by, where they are others.
        margin: what the radius follows from in a deterministic method, in units of its own.
        passes: of the model, spent on each example, where they are not one.
        failure_probability: the chance, for each example, that its statement is wrong; 0 of a proof without draws.
        broken: of a method that searches for proof and counterexample, the fewest changes it found that move the
            answer, or `ABSTAIN`.  Between `radius` and `broken` nothing is known.
        counterexamples: inputs that differ in so many changes, where there are any; elsewhere whatever.
    """

    prediction: Int64[Tensor, "b"]
    radius: Int64[Tensor, "b"]
    counts: Int64[Tensor, "b j"] | None = None
    selection: Int64[Tensor, "b j"] | None = None
    margin: Int64[Tensor, "b"] | None = None
    passes: Int64[Tensor, "b"] | None = None
    failure_probability: float = 0.0
    arithmetic: Arithmetic = "deployed"
    broken: Int64[Tensor, "b"] | None = None
    counterexamples: Float[Tensor, "b ..."] | None = None

    def __len__(self) -> int:
        return len(self.radius)

    @property
    def abstained(self) -> Bool[Tensor, "b"]:
        """Where nothing is proved."""
        return self.radius == ABSTAIN

    def holds(self, y: Int64[Tensor, "b"], k: int) -> Bool[Tensor, "b"]:
        """Which examples are certified: predicted as `y` whatever k changes are made."""
        return (self.prediction == y.to(self.prediction.device)) & (self.radius >= checks.integer("k", k, 0))
