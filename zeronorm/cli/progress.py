"""What a person sees while an evaluation runs."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from zeronorm.evaluation.session import Progress as State

_COUNTED = {"certificates": "proved"}  # of a stage without a budget, what is counted
_PLAIN_SECONDS = 30.0  # between lines where the output is no terminal


class Display:
    """A line on standard error: the stage, how far it is, who is left, passes per second, time left.

    Where standard error is no terminal, a plain line for each stage, and every half minute.
    """

    def __init__(self, epsilon: float | None = None) -> None:
        self._epsilon = epsilon  # of an ℓ∞ ball, where a number of changes is no budget
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            # without a bar, a run of 10,000 images fits on a line of 80 characters, time left and all
            *([BarColumn(bar_width=24)] if self._console.width > 100 else []),
            TextColumn("{task.percentage:.0f}%"),
            TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=1, detail="")
        self._stage: str | None = None
        self._run = ""
        self._printed = 0.0

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()  # where it never started this would print an empty line

    def show_titled(self, run: str, state: State) -> None:
        """Show where one of several runs is."""
        self._run = f"{run}  "
        self.show(state)

    def show(self, state: State) -> None:
        """Show where the run is."""
        budget = f"k={state.k}" if self._epsilon is None else f"ε={self._epsilon:g}"
        title = self._run + (state.stage if state.k is None else f"{budget}  {state.stage}")
        rate = state.passes / state.seconds if state.seconds > 0 else 0.0
        detail = (
            f"robust {state.robust}/{state.n}"
            if state.k is not None
            else f"{_COUNTED.get(state.stage, 'correct')} {state.robust}"
        )
        if rate:
            detail += f"  {rate:,.0f} passes/s" + (f" by {state.workers}" if state.workers > 1 else "")
        started = title != self._stage
        if self._console.is_terminal:
            if started:
                self._bar.reset(self._task, total=state.todo, description=title)
            self._bar.update(self._task, completed=state.done, total=state.todo, detail=detail)
        elif state.done == state.todo or time.monotonic() - self._printed > _PLAIN_SECONDS:
            self._printed = time.monotonic()
            line = f"{title}: {state.done}/{state.todo} done, {detail}"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        self._stage = title
