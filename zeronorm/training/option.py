"""An option of a training: its help, range, choices and default, stated once, on the field of the plan.

The plan's checks, the command line and the documentation read them here.  Nothing here needs torch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Option:
    """What a field of a plan says about itself."""

    help: str
    default: Any = None
    by_method: Mapping[str, Any] = field(default_factory=dict)
    """Defaults of the methods for which it differs."""
    late: bool = False
    """Leave None as it is: the default is looked up when it is used, and records say None."""
    default_help: str = ""
    """Says what None stands for, where that is a formula."""
    methods: tuple[str, ...] = ()
    """The methods that take the option; empty: all."""
    needed: tuple[str, ...] = ()
    """The methods that cannot do without."""
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
        """The default of a method; a copy."""
        return copy.deepcopy(self.by_method.get(method, self.default))

    def words(self) -> tuple[str, ...]:
        """The words allowed; empty: any."""
        return tuple(self.choices() if callable(self.choices) else self.choices)

    def check(self, name: str, value: Any, method: str, kind: type) -> Any:
        """The value as Python's own type, of a field of type `kind`; as it is for a method that takes no such option.

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
        # `budget` counts whole coordinates for one method, and weighs a loss for others
        if kind is int or type(self.default_of(method)) is int:
            return checks.integer(name, value, int(self.low), None if self.high is None else int(self.high))
        high = float("inf") if self.high is None else self.high
        return checks.real(name, value, self.low, high, open_low=self.open_low, open_high=self.open_high)

    def sentence(self, everyone: tuple[str, ...] = ()) -> str:
        """Methods, help, choices, range and default in a line; `everyone`: methods that need no mention together."""
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
    """A dataclass field with an `Option`; without a default it must be given."""
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
