"""Work on shards of examples, in this process: what work is, and what it tells while it goes on.

Work is a function of (model, shard, events) and its result.  The process that started the run hands out shards and is
the only one to write: whatever work finds goes to the run's `Events`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from zeronorm.records.folders import Row

Underway = Callable[[], float]  # how many examples the work at hand amounts to: asked for when somebody looks


@dataclass(frozen=True)
class Spent:
    """What some work took.

    Attributes:
        forwards, backwards: passes over one example.
        idle: examples that an attack returned without having asked the model anything.
    """

    seconds: float = 0.0
    forwards: int = 0
    backwards: int = 0
    idle: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Spent) -> Spent:
        return Spent(*(mine - theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


class Shard(Protocol):
    """Some examples to work on."""

    def __len__(self) -> int: ...

    def halves(self) -> tuple[Any, Any]:
        """Two shards of the same work, for when there is not enough memory for one."""


@runtime_checkable  # the tests check types as they run
class Events(Protocol):
    """What happens to a shard between the model's first pass and the rows on disk."""

    def passed(self, passes: int, underway: Underway) -> None:
        """The model made so many passes over one example."""

    def finished(self, shard: Any, rows: list[Row], spent: Spent) -> None:
        """These rows are ready to be written; `spent` is what was spent since the last time."""

    def fault(self, what: str) -> None:
        """A shard is done again, and why."""


Work = Callable[[Any, Any, Events], Any]


class InProcess:
    """This process: one shard after the other."""

    count = 1

    def load(self, model: Any, device: torch.device) -> None:
        """Take the model that the work is about, which is on that device."""
        self._model = model

    def map(self, work: Work, shards: Iterable[Any], events: Events) -> Iterator[tuple[Any, Any]]:
        """Each shard and the result of its work, when it is done."""
        for shard in shards:
            yield shard, work(self._model, shard, events)
