"""`ArgumentError`, notes on errors of a user's model, and other people's text made safe to print.

Apart from `checks`, so that reading records needs no torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

BY_MODEL = "raised by the model"


class ArgumentError(ValueError):
    """Input from outside that cannot be used: an argument, a file, a model, a data set.

    The message is one line: what was expected, what came.  The command line prints it and exits with status 2.
    """


@contextmanager
def blaming_model() -> Iterator[None]:
    """Context manager for a call of the model: adds a note to what it raises, that the error is the model's."""
    try:
        yield
    except ArgumentError:
        raise
    except Exception as error:
        error.add_note(BY_MODEL)
        raise


@contextmanager
def reading(place: object) -> Iterator[None]:
    """Context manager for reading records of unknown origin: contradictions in them become one `ArgumentError`.

    Their readers check what they can name; a file has more ways to be wrong than that.
    """
    try:
        yield
    except (ArgumentError, OSError, MemoryError):
        raise
    except Exception as error:
        if BY_MODEL in getattr(error, "__notes__", ()):
            raise
        said = f"{type(error).__name__}: {one_line(error)}"
        raise ArgumentError(f"run: the records in {place} contradict each other ({said})") from error


def reads_records(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator: run a function of a folder of records within `reading`."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        with reading(args[0] if args else next(iter(kwargs.values()), None)):
            return function(*args, **kwargs)

    return guarded


def one_line(error: BaseException) -> str:
    """The message of another library's error, on one short line, to end a message of ours."""
    said = " ".join(str(error).split())
    return (said if isinstance(error, ArgumentError) else said[:200].rstrip(".")) or type(error).__name__


def printable(lines: Sequence[str]) -> str:
    """Join lines into one text without control characters, which names from files may hold."""
    return "\n".join(
        "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line) for line in lines
    )
