"""What `--model` and `--device` name."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zeronorm import checks, models
from zeronorm import data as data_sets
from zeronorm.attacks.batch_under_attack import Model
from zeronorm.cli.typed import number
from zeronorm.defenses.smoothed import defended
from zeronorm.errors import ArgumentError
from zeronorm.models.input_form import KEYS, formed, input_form, split_form
from zeronorm.models.model_file import FILES
from zeronorm.models.program import load_program, program_kind

_VOTES = 100  # of each answer of a smoothed classifier under attack, unless said
_NEIGHBOUR = "nearest_neighbour"
_LIBRARIES = {"timm": "from_timm", "hf": "from_transformers", "onnx": "load_onnx"}


def resolve_device(name: str) -> torch.device:
    """auto: a GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ArgumentError(f"device: expected auto, cpu or cuda, got {name!r}")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        there = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        why = f"it sees {', '.join(there)}" if there else "it sees no GPU"
        raise ArgumentError(
            f"device: expected a device that torch {torch.__version__} can use, got {name!r}: {why}; choose "
            f"{'one of these' if there else 'cpu, or install torch with CUDA on a machine with a GPU'}"
        )
    return device


def resolve_model(name: str, device: torch.device, *, trust: bool = False, schema: Any = None) -> Model:
    """A built-in name, a checkpoint folder, a Hub id, another library's model, or `package.module:callable`.

    Other libraries' are `timm:NAME`, `hf:OWNER/NAME` and `onnx:FILE`; trees are
    `xgboost:FILE`, `lightgbm:FILE` and, for who trusts the file, `joblib:FILE`, on tables with that schema;
    `nearest_neighbour:DATA` is the nearest of the training images, of the first N of them with `:limit=N` behind it.
    A file `.safetensors`, `.pt` or `.pth` of bare weights is followed by `:architecture=NAME` and its arguments; one of
    torch that holds a whole model is read for who trusts it.  Behind a callable, a file of torch or of ONNX, keys of
    `zeronorm.models.input_form` say how it wants its images.
    The callable is a model, a class of models, or a function: without arguments it returns the model, with one it is
    the model.
    """
    library, colon, called = name.partition(":")
    if colon and library == _NEIGHBOUR and not Path(name).exists():
        model: Any = _nearest_neighbour(called)
    elif colon and library in FILES and not Path(name).exists():
        model = models.from_file(name, schema=schema, trust=trust)
    elif colon and library in _LIBRARIES and not Path(name).exists():
        from zeronorm import integrations

        model = getattr(integrations, _LIBRARIES[library])(called)
    elif name.endswith(".onnx") and os.path.isfile(name):
        raise ArgumentError(f"model: expected onnx:{name} for a file of ONNX, got {name}")
    elif is_code(name):
        code, said = split_form(name)
        model = formed(_imported(code), input_form(said))
    elif (file := Path(split_form(name)[0])).is_file():
        model = _from_file(file, split_form(name)[1], trust)
    else:
        model = models.load(name)
    return model.to(device).eval() if isinstance(model, nn.Module) else model


def _from_file(path: Path, said: dict[str, str], trust: bool) -> Any:
    """The model of a file of torch, or bare weights whose architecture and its arguments are named behind it."""
    form = {key: said.pop(key) for key in KEYS if key in said}
    layers = input_form(form)
    if trust and program_kind(path) is not None and not said:
        return formed(load_program(path), layers)
    arguments: dict[str, Any] = {key: number(value) for key, value in said.items()}
    return formed(models.load(path, **arguments), layers)


def _nearest_neighbour(called: str) -> models.NearestNeighbour:
    """The classifier of the training images of a data set, `DATA` or `DATA:limit=N`."""
    data, marked, limit = called.partition(":limit=")
    if marked and not limit.isdecimal():
        raise ArgumentError(f"model: expected {_NEIGHBOUR}:DATA:limit=N, got {_NEIGHBOUR}:{called}")
    examples = data_sets.load(data, "train", int(limit) if marked else None)
    return models.NearestNeighbour(examples.x, examples.y)


def attacked(
    name: str, device: torch.device, votes: int | None, *, trust: bool = False, schema: Any = None
) -> Model:
    """As `resolve_model`; of a base classifier of randomized ablation the smoothed one, of so many votes an answer."""
    base = resolve_model(name, device, trust=trust, schema=schema)
    model = defended(base, _VOTES if votes is None else checks.integer("votes", votes, 1))
    if votes is not None and model is base:
        raise ArgumentError(f"votes: expected none for {name}, which casts none, got {votes}")
    return model


def as_measured(model: Model, facts: Mapping[str, Any]) -> Model:
    """The model that a run was made on, whose record says what it was: if that votes, the smoothed classifier."""
    arguments = facts.get("arguments")
    if not isinstance(arguments, Mapping) or not {"retained", "votes"} <= set(arguments):
        return model
    return defended(model, checks.integer("votes", arguments["votes"], 1))


def is_code(name: str) -> bool:
    """Whether `name` is a `package.module:callable`, whose code runs when it is resolved."""
    if name.partition(":")[0] in (_NEIGHBOUR, *FILES):
        return False
    code = split_form(name)[0]
    return bool(re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", code)) and not os.path.exists(name)


def imported(name: str, what: str) -> Any:
    """What `package.module:name` names, importable from the current folder as well."""
    module_name, _, path = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # whatever a stranger's module raises
        raise ArgumentError(f"{what}: cannot import {module_name!r}: {_said(error)}") from error
    try:
        for part in path.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise ArgumentError(f"{what}: {module_name!r} has no {path!r}") from error
    return found


def _imported(name: str) -> Any:
    found = imported(name, "model")
    if isinstance(found, nn.Module) or not callable(found):
        model = found
    elif inspect.isclass(found) or not _required(found):
        try:
            model = found()
        except Exception as error:
            raise ArgumentError(f"model: {name}() failed: {_said(error)}") from error
    else:
        model = found
    if not callable(model):
        raise ArgumentError(
            f"model: expected {name!r} to be or to return a callable, got {type(model).__name__}"
        )
    return model


def _required(function: Any) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return ["?"]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind in positional]


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
