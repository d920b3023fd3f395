"""One sitting of a run: how far it is, for whoever watches, and what it took, for the record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from zeronorm.evaluation.records import RunFolder

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


class Session:
    """The clock and the counters of one sitting, from start or resume to the end or an interruption.

    Attributes:
        rows: how many were written.
        passes: of the model over one example.
        doubts: results an attack called adversarial that did not hold ("unconfirmed"), or that were "outside"
            the threat model.
    """

    def __init__(self, n: int, on_progress: Callable[[Progress], None] | None) -> None:
        self.rows, self.passes = 0, 0
        self.doubts = {"unconfirmed": 0, "outside": 0}
        self._n, self._on_progress = n, on_progress
        self._started, self._stamp = time.perf_counter(), datetime.now(UTC)
        self._shown = 0.0
        self._effort: dict[str, dict[str, float]] = {}
        self._before: dict[str, dict[str, float]] = {}  # what a stage had taken before the batch it is at

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
            self._on_progress(Progress(stage, k, done, todo, robust, self._n, self.passes, seconds))

    def begins(self, stage: str) -> None:
        """A stage is given a batch."""
        self._before[stage] = self._effort.get(stage, {"seconds": 0.0, "forwards": 0, "backwards": 0})

    def spent(self, stage: str, seconds: float, forwards: int, backwards: int) -> None:
        """Note what a stage has taken for its batch so far."""
        before = self._before[stage]
        self._effort[stage] = {
            "seconds": round(before["seconds"] + seconds, 3),
            "forwards": before["forwards"] + forwards,
            "backwards": before["backwards"] + backwards,
        }

    def record(self) -> dict[str, Any]:
        """What this sitting has done so far, as run.json keeps it."""
        return {
            "started": self._stamp.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - self._started, 3),
            "rows": self.rows,
            "stages": self._effort,
            **self.doubts,
        }


@contextmanager
def noted(session: Session, folder: RunFolder, run: dict[str, Any]) -> Iterator[Callable[[], None]]:
    """Within, the session is in run.json; the function that is given brings it up to date.

    To be called with the rows, not at the end: a kill leaves no time to say what was spent.
    """
    earlier = run["sessions"]

    def note() -> None:
        run["sessions"] = [*earlier, session.record()]
        folder.write_run(run)

    note()
    try:
        yield note
    finally:
        note()
