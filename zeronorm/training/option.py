"""An option of a training plan: its help, range, choices and default, declared once on the field.

The plan's checks, the command line and the documentation read them here.  Nothing here needs torch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Option:
    """Everything that is declared about one field of a plan."""

    help: str
    default: Any = None
    by_method: Mapping[str, Any] = field(default_factory=dict)
    """Defaults of the methods for which it differs."""
    late: bool = False
    """Keep None in the field and in records, and look the default up where it is used."""
    default_help: str = ""
    """What None stands for, in words."""
    methods: tuple[str, ...] = ()
    """The methods that take the option; empty: all."""
    needed: tuple[str, ...] = ()
    """The methods that require it."""
    low: int | float | None = None
    """Smallest number allowed; None: not a number."""
    high: int | float | None = None
    open_low: bool = False
    open_high: bool = False
    choices: Mapping[str, str] | Collection[str] | Callable[[], Collection[str]] = ()
    """The words allowed, perhaps each with its meaning; a function where they are costly to import."""
    group: str = ""
    metavar: str = ""
    recorded: Literal["always", "changed", "attacked", "never"] = "always"
    """When a checkpoint keeps the value: always, unless it is the default, if held-out examples are attacked, never."""

    def takes(self, method: str) -> bool:
        """Whether the option belongs to a method."""
        return not self.methods or method in self.methods

    def default_of(self, method: str) -> Any:
        """A copy of the default for a method."""
        return copy.deepcopy(self.by_method.get(method, self.default))

    def words(self) -> tuple[str, ...]:
        """The words allowed; empty if any word is."""
        return tuple(self.choices() if callable(self.choices) else self.choices)

    def check(self, name: str, value: Any, method: str, kind: type) -> Any:
        """Check a value for a field of type `kind`, and return it as a Python number, word or tuple.

        The value of an option that the method does not take is returned unchecked, for the plan to refuse.

        **Raises:** `ArgumentError` for a value that is not one of the choices, or out of range.
        """
        from zeronorm import checks  # needs torch

        if not self.takes(method):
            return value
        if kind is tuple:
            parts = (value,) if isinstance(value, str) else tuple(value)
            return tuple(checks.choice(name, part, self.words()) for part in parts) if self.choices else parts
        if self.choices:
            words = self.words()
            if isinstance(value, str) and value not in words:
                value = value.replace("-", "_")
            return checks.choice(name, value, words)
        if self.low is None:
            return value
        # `budget` is a count for one method and a real number for others
        if kind is int or type(self.default_of(method)) is int:
            return checks.integer(name, value, int(self.low), None if self.high is None else int(self.high))
        high = float("inf") if self.high is None else self.high
        return checks.real(name, value, self.low, high, open_low=self.open_low, open_high=self.open_high)

    def sentence(self, everyone: tuple[str, ...] = ()) -> str:
        """One line with methods, help, choices, range and default; an option of all of `everyone` names no methods."""
        said = self.help
        if isinstance(self.choices, Mapping):
            said += " " + "; ".join(f"{word}: {what}" for word, what in self.choices.items()) + "."
        elif self.choices and not callable(self.choices):
            said += f" One of {', '.join(self.choices)}."
        if not set(everyone) <= set(self.methods or everyone):
            said = f"Of {', '.join(self.methods)}: {said[0].lower()}{said[1:]}"
        default = self._default()
        details = [text for text in (self._range(), f"default: {default}" if default else "") if text]
        return f"{said[:-1]} ({'; '.join(details)})." if details else said

    def _default(self) -> str:
        if self.default_help:
            return self.default_help
        named = [f"{method}: {_shown(value)}" for method, value in self.by_method.items()]
        return ", ".join([text for text in [_shown(self.default)] if text] + named)

    def _range(self) -> str:
        if self.low is None:
            return ""
        if self.high is not None and self.high < 2**31:
            return f"{self.low:g} to {'below ' if self.open_high else ''}{self.high:g}"
        return f"above {self.low:g}" if self.open_low else f"at least {self.low:g}"


def option(help: str, default: Any = MISSING, **facts: Any) -> Any:
    """A dataclass field described by an `Option`; it is required if no default is given."""
    said = Option(help=help, default=None if default is MISSING else default, **facts)
    metadata = {"option": said}
    if default is MISSING:
        return field(metadata=metadata)
    if isinstance(default, dict) and not said.by_method:
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=None if said.by_method else default, metadata=metadata)


def typed(attacks: Mapping[str, Mapping[str, Any]]) -> str:
    """Attacks as they are typed: name:option=value, with commas between them."""
    return ",".join(
        ":".join([attack, *(f"{name}={value}" for name, value in options.items())])
        for attack, options in attacks.items()
    )


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return typed(value)
    if isinstance(value, tuple):
        return ",".join(value)
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
