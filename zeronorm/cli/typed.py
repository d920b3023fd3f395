"""What was typed, as a value."""

from __future__ import annotations


def number(text: str) -> int | float | str:
    """The number that was typed; the text itself where it is none."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
