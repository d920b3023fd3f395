"""One sitting of a run: how far it is, for whoever watches, and what it took, for the record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from zeronorm.evaluation.in_process import Spent
from zeronorm.records.folders import RunFolder

DOUBTS = ("unconfirmed", "outside", "undefined", "asked_again", "changed")

_SHOW_SECONDS = 0.2


@dataclass(frozen=True)
class Progress:
    """Where a run is: for whoever shows it."""

    stage: str
    k: int | None
    done: int  # examples this stage is finished with
    todo: int  # examples this stage was given
    robust: int  # examples not broken at this budget so far, of `n`
    n: int
    passes: int  # model passes over one example so far, in this session
    seconds: float
    workers: int = 1


class Session:
    """The clock and the counters of one sitting, from start or resume to the end or an interruption.

    Attributes:
        rows: how many were written.
        passes: of the model over one example.
        doubts: results an attack called adversarial that did not hold ("unconfirmed"), or that were "outside"
            the threat model; shards in whose search the model answered NaN or infinity ("undefined"); clean inputs
            asked again after the search ("asked_again"), and those whose answers had "changed".
        faults: work that had to be done again, and why.
    """

    def __init__(self, n: int, on_progress: Callable[[Progress], None] | None, workers: int = 1) -> None:
        self.rows, self.passes = 0, 0
        self.doubts = dict.fromkeys(DOUBTS, 0)
        self.faults: list[str] = []
        self._n, self._on_progress, self._workers = n, on_progress, workers
        self._started, self._stamp = time.perf_counter(), datetime.now(UTC)
        self._shown = 0.0
        self._spent: dict[str, Spent] = {}

    @property
    def is_watched(self) -> bool:
        """Whether anybody wants to know how far it is."""
        return self._on_progress is not None

    def is_due(self) -> bool:
        """Whether it is time to show where the run is."""
        return self.is_watched and time.perf_counter() - self._shown > _SHOW_SECONDS

    def show(self, stage: str, k: int | None, done: int, todo: int, robust: int) -> None:
        """Tell whoever watches."""
        if self._on_progress is not None:
            now = self._shown = time.perf_counter()
            seconds = now - self._started
            state = Progress(stage, k, done, todo, robust, self._n, self.passes, seconds, self._workers)
            self._on_progress(state)

    def spent(self, stage: str, more: Spent) -> None:
        """Note what a stage has taken since the last time; the seconds of several workers add up."""
        self._spent[stage] = self._spent.get(stage, Spent()) + more

    def record(self) -> dict[str, Any]:
        """What this sitting has done so far, as run.json keeps it."""
        return {
            "started": self._stamp.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - self._started, 3),
            "rows": self.rows,
            "stages": {
                stage: asdict(spent) | {"seconds": round(spent.seconds, 3)}
                for stage, spent in self._spent.items()
            },
            **self.doubts,
            **({"faults": self.faults} if self.faults else {}),
        }


@contextmanager
def noted(session: Session, folder: RunFolder, run: dict[str, Any]) -> Iterator[Callable[[], None]]:
    """Within, the session is in run.json; the function that is given brings it up to date.

    To be called with the rows, not at the end: a kill leaves no time to say what was spent.
    """
    earlier = run["sessions"]

    def note() -> None:
        run["sessions"] = [*earlier, session.record()]
        folder.write(run)

    note()
    try:
        yield note
    finally:
        note()
