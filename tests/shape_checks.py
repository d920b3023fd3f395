"""How shapes and types are checked at run time in the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from beartype import beartype

T = TypeVar("T", bound=Callable)


def checked(function: T) -> T:
    """The function with its types checked at every call.

    One within another is left as it is: it is made anew at every call of the outer one, and its check with it, which
    took a third of the time of a small run.
    """
    return function if "<locals>" in getattr(function, "__qualname__", "") else beartype(function)
