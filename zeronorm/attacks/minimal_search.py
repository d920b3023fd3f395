"""What minimal-distance attacks share: a batch under attack, and the closest adversarial of each example.

Closest is with the fewest changes in ℓ0, and by Euclidean length in ℓ2.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zeronorm import checks, distances
from zeronorm.attacks.batch_under_attack import BatchUnderAttack, Model, attacking
from zeronorm.errors import ArgumentError
from zeronorm.threat_model import L0, L2


@contextmanager
def searching_minimal(
    name: str,
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: L0,
    *,
    targeted: Tensor | None,
    seed: int,
    ids: Tensor | None,
) -> Iterator[MinimalSearch]:
    """`attacking` for an attack that looks for the fewest changes: at most `threat.k`, any number if that is None."""
    bounded = threat
    if isinstance(threat, L0) and threat.k is None:
        bounded = threat.with_k(threat.available(x))
    with attacking(name, model, x, y, bounded, targeted=targeted, seed=seed, ids=ids) as batch:
        yield MinimalSearch(batch)


@contextmanager
def searching_shortest(
    name: str,
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: L2,
    *,
    targeted: Tensor | None,
    seed: int,
    ids: Tensor | None,
) -> Iterator[ShortestSearch]:
    """`attacking` for an attack that looks for the shortest change: at most `threat.epsilon`, any if that is None."""
    if not isinstance(threat, L2):
        raise ArgumentError(f"threat: {name} works on an L2 threat model, got {type(threat).__name__}")
    free = threat.as_l0(checks.examples(x))
    with attacking(name, model, x, y, free, targeted=targeted, seed=seed, ids=ids) as batch:
        yield ShortestSearch(batch, threat.epsilon)


class MinimalSearch:
    """Keeps, for every example, the adversarial with the fewest changed positions found so far.

    `batch` has the model's passes, the box and the random streams; its examples stay until `leave` drops them.
    """

    def __init__(self, batch: BatchUnderAttack) -> None:
        self.batch = batch
        self._found = batch.x.clone()  # by the rows at the start; clean until something is found
        self._start = batch.rows
        self._limit: float = batch.k
        self._fewest = torch.full_like(batch.rows, torch.iinfo(torch.int64).max)
        self._at = torch.arange(len(batch.rows), device=batch.rows.device)  # the active rows among those

    @property
    def fewest(self) -> Int[Tensor, "a"] | Float[Tensor, "a"]:
        """How many positions the sparsest adversarial of each example under attack changes; a huge number if none."""
        return self._fewest[self._at]

    @property
    def sparsest(self) -> Float[Tensor, "a g p"]:
        """The sparsest adversarial of each example under attack; its clean input if there is none."""
        return self._found[self._at]

    def distance(self, inputs: Float[Tensor, "a g p"]) -> Tensor:
        """How many positions are changed."""
        return (inputs != self.batch.x).any(1).sum(1)

    def note(self, reached: Bool[Tensor, "a"], inputs: Float[Tensor, "a g p"]) -> Bool[Tensor, "a"]:
        """Keep the inputs that reached the goal with fewer changes than before; returns which they are."""
        count = self.distance(inputs)
        better = self.batch.confirmed(reached & (count < self.fewest), inputs)
        at = self._at[better]
        self._found[at] = inputs[better]
        self._fewest[at] = count[better]
        return better

    def leave(self, done: Bool[Tensor, "a"]) -> Int[Tensor, "c"] | None:
        """Drop examples that need no further search; returns the rows that stay, or None if all do."""
        self._tell(done)
        keep = self.batch.drop(done)
        if keep is not None:
            self._at = self._at[keep]
        return keep

    def finished(self) -> Tensor:
        """The result: the sparsest adversarials within the budget, clean inputs where there is none."""
        self._tell(torch.ones_like(self.batch.rows, dtype=torch.bool))
        within = self._fewest <= self._limit
        result, grid = self.batch.result, self.batch.clean
        grid[self._start[within]] = self._found[within]
        return result

    def _tell(self, done: Bool[Tensor, "a"]) -> None:
        """Tell a model that watches the search which of these examples are broken, and by what."""
        found = done & (self.fewest <= self._limit)
        if found.any() and (tell := getattr(self.batch.model, "broken", None)) is not None:
            tell(self.batch.rows[found], self.batch.shaped(self.sparsest[found]))


class ShortestSearch(MinimalSearch):
    """Keeps, for every example, the adversarial found at the least Euclidean distance; `fewest` is that distance."""

    def __init__(self, batch: BatchUnderAttack, limit: float | None) -> None:
        super().__init__(batch)
        self._limit = sys.float_info.max if limit is None else limit
        self._fewest = torch.full_like(self._fewest, torch.inf, dtype=torch.float64)

    def distance(self, inputs: Float[Tensor, "a g p"]) -> Tensor:
        """Euclidean length of the change, in float64."""
        return distances.l2(self.batch.x.double(), inputs.double())
