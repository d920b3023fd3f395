"""Libraries that an adapter needs and an extra installs."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from zeronorm.errors import ArgumentError


def require(module: str, extra: str) -> Any:
    """The module, or an `ArgumentError` that says how to install it, or what stops it where it is installed."""
    try:
        return import_module(module)
    except (ImportError, RuntimeError) as error:  # the latter where it was built for another torch
        wanted = "work" if find_spec(module.partition(".")[0]) else "be installed"
        help_ = f"pip install 'zeronorm[{extra}]'"
        if "torchvision" in str(error):
            help_ = "torchvision has to be of the same build as torch: install both from one index"
        raise ArgumentError(f"{module}: expected it to {wanted} ({help_}), got: {error}") from None
