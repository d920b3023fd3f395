"""What every certificate says: an answer, and how many changes it withstands."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Int64
from torch import Tensor

from zeronorm import checks

ABSTAIN = -(2**63)
"""Radius, and prediction, of an example of which nothing is proved: below every radius, not even 0 changes."""
UNBOUNDED = 2**63 - 1
"""Radius of an answer that no number of changes can move."""


# compared by identity: equality of tensors has no single truth value
@dataclass(frozen=True, eq=False)
class Certificate:
    """What is proved of a batch.

    Attributes:
        prediction: the certified class, or `ABSTAIN`.
        radius: the largest number of pixels (or features, as the method counts) that may change to any values
            without changing the prediction; `ABSTAIN` where nothing is proved, `UNBOUNDED` where all may change.
            0 says that the prediction stands if nothing changes, which a vote may fail to say.
        counts: votes for each class, of a method that counts votes.
        selection: the votes that the candidate class was chosen by, where they are others.
        margin: what the radius follows from in a deterministic method, in units of its own.
        passes: of the model, spent on each example, where they are not one.
        failure_probability: the chance, for each example, that its statement is wrong; 0 of a proof without draws.
    """

    prediction: Int64[Tensor, "b"]
    radius: Int64[Tensor, "b"]
    counts: Int64[Tensor, "b j"] | None = None
    selection: Int64[Tensor, "b j"] | None = None
    margin: Int64[Tensor, "b"] | None = None
    passes: Int64[Tensor, "b"] | None = None
    failure_probability: float = 0.0

    def __len__(self) -> int:
        return len(self.radius)

    @property
    def abstained(self) -> Bool[Tensor, "b"]:
        """Where nothing is proved."""
        return self.radius == ABSTAIN

    def holds(self, y: Int64[Tensor, "b"], k: int) -> Bool[Tensor, "b"]:
        """Which examples are certified: predicted as `y` whatever k changes are made."""
        return (self.prediction == y.to(self.prediction.device)) & (self.radius >= checks.integer("k", k, 0))
