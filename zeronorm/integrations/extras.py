"""Libraries that an adapter needs and an extra installs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from zeronorm.errors import ArgumentError


def require(module: str, extra: str) -> Any:
    """The module, or an `ArgumentError` that says how to install it."""
    try:
        return import_module(module)
    except (ImportError, RuntimeError) as error:  # the latter where it was built for another torch
        raise ArgumentError(
            f"{module}: expected it to be installed (pip install 'zeronorm[{extra}]'), got: {error}"
        ) from None
