"""An attack of one's own, with what tells it from another of the same name: its source and its options.

zn.evaluate(model, data, zn.L0(5), attack=zn.attacks.custom(mine, kind="minimal", options={"steps": 50}))
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
import types
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from torch import Tensor

from zeronorm.attacks.catalogue import catalogue
from zeronorm.checks import choice
from zeronorm.errors import ArgumentError

Kind = Literal["budget", "minimal"]
Knowledge = Literal["white", "black", "decision"]

# what the evaluation says to who asks for it, each by this name
TOLD = ("seed", "ids", "start")
LENGTHS = ("steps", "queries")

_PLAIN = (bool, int, float, str, type(None))


class CustomAttack:
    """A function `(model, x, y, threat, **options) -> x_adv` as an attack; see `custom`.

    Attributes:
        options: those given, and the defaults of the others.
        chosen: names of those given.
        shown: its name for people, which says that it is none of the catalogue.
        costs: those of "steps" and "queries" that the function takes.
        identity: module, name and source digest of the function, for the record of a run.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        name: str,
        kind: Kind,
        knowledge: Knowledge | None,
        options: Mapping[str, Any],
        identity: Mapping[str, str],
        chosen: frozenset[str] = frozenset(),
    ) -> None:
        self.function, self.name, self.kind, self.knowledge = function, name, kind, knowledge
        self.options, self.identity = dict(options), dict(identity)
        self.chosen, self.__name__ = chosen, name
        self.shown = name if "library" in self.identity else f"custom {name}"

    @property
    def costs(self) -> tuple[str, ...]:
        """The lengths that it takes."""
        taken = _parameters(self.function)
        return tuple(length for length in LENGTHS if length in taken or length in self.options)

    def __call__(self, model: Any, x: Tensor, y: Tensor, threat: Any, **told: Any) -> Any:
        """Inputs of the shape of x; `told` is what the evaluation knows, and options of this call."""
        return self.function(model, x, y, threat, **(self.options | told))

    def takes(self, name: str) -> bool:
        """Whether the function has a parameter of that name, or takes any."""
        parameters = _signature(self.function)
        return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def __repr__(self) -> str:
        return f"custom({self.name}, {self.options})"


def custom(
    function: Callable[..., Tensor],
    name: str | None = None,
    kind: Kind = "budget",
    knowledge: Knowledge | None = None,
    options: Mapping[str, Any] | None = None,
) -> CustomAttack:
    """An attack of your own, for `evaluate`, `compare` and `matrix`.

    Its record holds module, name and options, and a digest of its source with that of what it refers to in its own
    module: a run of another version of it is not continued.  It is shown as "custom" everywhere.

    Args:
        function: `(model, x, y, threat, ...) -> x_adv`.  Those of `seed`, `ids`, `steps` and `queries` that it has as
            arguments are passed; with `start`, the adversarial of a larger budget as well.
        name: what to call it; by default as the function is called.
        kind: "budget" searches within `threat.k`; "minimal" for the fewest changes up to it, once for all budgets.
        knowledge: "white" needs gradients, "black" only scores, "decision" only labels; None: not said.
        options: arguments of the function beyond these; plain numbers and words.

    Raises:
        ArgumentError: for a name of the catalogue, options that the function does not take or that are not plain.
    """
    if isinstance(function, CustomAttack):
        raise ArgumentError(
            f"function: expected a function, got {function!r:.80}, which is an attack already"
        )
    if not callable(function):
        raise ArgumentError(f"function: expected a callable, got {type(function).__name__}")
    given = dict(options or {})
    while isinstance(function, partial):
        if function.args:
            raise ArgumentError(
                "function: expected a partial of keywords only, got one of values whose names are not known"
            )
        given = {**function.keywords, **given}
        function = function.func
    called = name if name is not None else getattr(function, "__name__", type(function).__name__)
    if (
        not isinstance(called, str)
        or not re.fullmatch(r"[^\s,:].{0,199}", called)
        or not called.isprintable()
    ):
        raise ArgumentError(f"name: expected a word or a few, without a colon, got {called!r:.80}")
    if called.replace("-", "_") in catalogue:
        raise ArgumentError(
            f"attack: {called} is an attack of the catalogue, and this function is not: give it another name, "
            "zeronorm.attacks.custom(function, name=...)"
        )
    choice("kind", kind, ("budget", "minimal"))
    if knowledge is not None:
        choice("knowledge", knowledge, ("white", "black", "decision"))
    parameters = _signature(function)
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for option, value in given.items():
        if option in TOLD:
            raise ArgumentError(f"options: {option} is the evaluation's to say, got {value!r:.40}")
        if option not in parameters and not anything:
            raise ArgumentError(
                f"{option}: {called} has no such option; it has {', '.join(_parameters(function))}"
            )
        if not _is_plain(value):
            raise ArgumentError(
                f"{option}: expected plain numbers and words, for the record, got {type(value).__name__}"
            )
    told = getattr(function, "identity", None)  # of an adapter, who knows what it adapts
    identity = told if isinstance(told, Mapping) else {
        "module": str(getattr(function, "__module__", type(function).__module__)),
        "function": str(getattr(function, "__qualname__", type(function).__qualname__)),
        "source": source_digest(function),
    }  # fmt: skip
    return CustomAttack(
        function, called, kind, knowledge, _defaults(function) | given, identity, frozenset(given)
    )


def source_digest(*parts: Any) -> str:
    """SHA-256 of the source of functions and classes, and of what they refer to within their own modules."""
    sha, seen = hashlib.sha256(), set[int]()

    def add(word: str) -> None:
        sha.update(f"{len(word)} {word}\n".encode(errors="backslashreplace"))

    def look(at: Any, module: str | None) -> None:
        if _is_plain(at):
            add(repr(at))
            return
        if id(at) in seen:
            return
        seen.add(id(at))
        home = getattr(at, "__module__", None) if callable(at) else None
        if isinstance(at, partial):
            look(at.func, module)
            look(at.keywords, module)
        elif isinstance(at, Mapping):
            for key in sorted(at, key=str):
                add(str(key))
                look(at[key], module)
        elif isinstance(at, types.MethodType):
            look(at.__func__, module)
            look(at.__self__, module)
        elif isinstance(at, types.FunctionType):
            at = inspect.unwrap(at)
            if module is not None and home != module:
                add(f"{home}.{at.__qualname__}")  # of another module, whose version its own release has
                return
            add(_source(at))
            look(list(at.__defaults__ or ()), module)
            look(at.__kwdefaults__ or {}, module)
            for name, cell in zip(at.__code__.co_freevars, at.__closure__ or (), strict=True):
                add(name)
                try:
                    look(cell.cell_contents, at.__module__)
                except ValueError:  # of a name that has no value yet
                    add("nothing")
            for name in sorted(_names(at.__code__) & at.__globals__.keys()):
                add(name)
                look(at.__globals__[name], at.__module__)
        elif isinstance(at, type):
            if module is None or at.__module__ == module:
                add(_source(at))
                for base in at.__bases__:
                    look(base, at.__module__)
            else:
                add(f"{at.__module__}.{at.__qualname__}")
        elif isinstance(at, list | tuple | set | frozenset):
            for part in at:
                look(part, module)
        elif isinstance(at, Tensor):
            add(f"{at.dtype} {tuple(at.shape)}")
            sha.update(at.detach().cpu().contiguous().double().numpy().tobytes())
        elif isinstance(at, types.ModuleType):
            add(at.__name__)
        else:
            look(type(at), module)
            if callable(at):
                look(
                    {name: value for name, value in vars(at).items()} if hasattr(at, "__dict__") else {},
                    module,
                )

    for part in parts:
        look(part, None)
    return f"sha256:{sha.hexdigest()}"


def _source(at: Any) -> str:
    """The text of a function or class; of one that was typed in and is kept nowhere, of a function its code."""
    try:
        text = inspect.getsource(at)
    except (OSError, TypeError):
        text = at.__qualname__
    code = getattr(at, "__code__", None)
    # a function may have been made again since its file was read; what runs is its code
    if code is not None and (text == at.__qualname__ or "lambda" in text):
        text += "".join(map(repr, _code(code)))
    return text


def _code(code: types.CodeType) -> list[Any]:
    inner = [_code(part) if isinstance(part, types.CodeType) else repr(part) for part in code.co_consts]
    return [code.co_code, inner, code.co_names, code.co_varnames, sys.version_info[:2]]


def _names(code: types.CodeType) -> set[str]:
    """The names that code and what is defined in it look up."""
    inner = (part for part in code.co_consts if isinstance(part, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(part) for key, part in value.items())
    return isinstance(value, _PLAIN)


def _signature(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # it does not say what it takes
        return {}


def _parameters(function: Callable[..., Any]) -> list[str]:
    """The options that a function has by name."""
    found = [p for p in _signature(function).values() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    # the first four are the model, the inputs, the labels and the threat model
    positional = [p.name for p in found if p.kind is p.POSITIONAL_OR_KEYWORD][:4]
    return [p.name for p in found if p.name not in (*positional, *TOLD)]


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    signature = _signature(function)
    return {
        name: signature[name].default
        for name in _parameters(function)
        if signature[name].default is not inspect.Parameter.empty and _is_plain(signature[name].default)
    }
