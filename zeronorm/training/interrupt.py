"""SIGTERM and Ctrl-C, acted on between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(KeyboardInterrupt):
    """A training ended by a signal, after it wrote its checkpoint."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


@contextmanager
def heeded() -> Iterator[Callable[[], int | None]]:
    """Delay the first SIGTERM or SIGINT: the function returned says which came; a second signal acts at once.

    Outside the main thread Python allows no handlers, and signals act at once.
    """
    caught: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        caught.append(number)
        restore()

    def restore() -> None:
        while before:
            signal.signal(*before.popitem())

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, note)
    try:
        yield lambda: caught[0] if caught else None
    finally:
        restore()
