"""The networks that a model is made of, and the modes of their layers.

A model is any callable: a network, or a function, method or object that refers to one.  Its layers are measured in
the modes their owner gave them; only a network that as a whole is in training mode is switched, while it is attacked.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dis import get_instructions
from functools import lru_cache, partial
from itertools import islice
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

_DEEPEST = 4  # functions that refer to functions
_MOST, _FAR = 64, 512  # values of a container, and objects in all, that are looked at
_PLAIN = (type, ModuleType, Tensor, str, bytes, int, float, type(None))


def networks(model: Any) -> list[nn.Module]:
    """The networks of a model: itself, or those that it refers to, as far as that can be seen.

    That is in closures, globals, default arguments, partials, attributes and the containers they hold.
    """
    found: dict[int, nn.Module] = {}
    seen: set[int] = set()

    def look(at: Any, depth: int) -> None:
        if depth > _DEEPEST or id(at) in seen or len(seen) > _FAR or isinstance(at, _PLAIN):
            return
        seen.add(id(at))
        if isinstance(at, nn.Module):
            found[id(at)] = at
        for part in _parts(at):
            look(part, depth + 1)

    look(model, 0)
    return list(found.values())


def _parts(at: Any) -> list[Any]:
    """What a function, an object or a container refers to, where networks may be."""
    if isinstance(at, partial):
        return [at.func, *at.args, *at.keywords.values()]
    if inspect.ismethod(at):
        return [at.__self__, at.__func__]
    if inspect.isfunction(at):
        cells = [cell.cell_contents for cell in at.__closure__ or () if _filled(cell)]
        kept = [*cells, *(at.__defaults__ or ()), *(at.__kwdefaults__ or {}).values()]
        return kept + _globals(at)
    if isinstance(at, Mapping):
        return list(islice(at.values(), _MOST))
    if isinstance(at, list | tuple | set | frozenset):
        return list(islice(at, _MOST))
    if isinstance(at, nn.Module):  # what it holds without having registered it
        return [part for name, part in vars(at).items() if not name.startswith("_")]
    if inspect.isbuiltin(at):
        return []
    own = getattr(at, "__dict__", None)
    slots = [getattr(at, name) for name in getattr(type(at), "__slots__", ()) if hasattr(at, name)]
    of_class = [part for part in vars(type(at)).values() if isinstance(part, nn.Module)]
    return [*(list(own.values()) if isinstance(own, dict) else []), *slots, *of_class]


def _globals(function: FunctionType) -> list[Any]:
    """The globals that a function reads; of a module its networks of the names that are read."""
    parts: list[Any] = []
    loaded, named = _names(function.__code__)
    for name in loaded:
        part = function.__globals__.get(name)
        if isinstance(part, ModuleType):
            parts += [own for own in (vars(part).get(attribute) for attribute in named) if _is_network(own)]
        elif part is not None:
            parts.append(part)
    return parts


def _is_network(at: Any) -> bool:
    return isinstance(at, nn.Module)


@lru_cache(maxsize=1024)
def _names(code: CodeType) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The globals that code and what is defined in it load, and all names that it uses."""
    loaded = {step.argval for step in get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    named = set(code.co_names)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            more, others = _names(inner)
            loaded |= set(more)
            named |= set(others)
    return tuple(sorted(loaded)), tuple(sorted(named))


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:  # of a name that has no value yet
        return False
    return True


def has_modes(network: nn.Module) -> bool:
    """Whether a network can be in training mode at all: exported and frozen ones are what they are."""
    return isinstance(getattr(network, "training", None), bool) and "eval" not in vars(network)


def is_training(network: nn.Module) -> bool:
    """Whether a network as a whole is in training mode."""
    return has_modes(network) and bool(network.training)


def layers_in_training(model: Any) -> list[tuple[str, nn.Module]]:
    """The layers in training mode, by name, of a model that as a whole is not."""
    found: list[tuple[str, nn.Module]] = []

    def look(network: nn.Module, name: str) -> None:
        if not has_modes(network):
            return
        children = list(network.named_children())
        if name and is_training(network) and not children:
            found.append((name, network))
        for child, layer in children:
            look(layer, f"{name}.{child}" if name else child)

    for network in networks(model):
        if not is_training(network):
            look(network, "")
    return found


def takes_batch_statistics(layer: nn.Module) -> bool:
    """Whether a layer in training mode computes with statistics of the batch, or keeps some of it."""
    return isinstance(layer, _NormBase) and (isinstance(layer, _BatchNorm) or layer.track_running_stats)


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """A network that as a whole is in training mode, in evaluation mode; every layer's own is restored on the way out.

    Of another the layers stay as they are: where some are in training mode, their owner has put them there.
    """
    found = networks(model)
    layers = [layer for network in found if has_modes(network) for layer in network.modules()]
    modes = [(layer, layer.training) for layer in layers if has_modes(layer)]
    try:
        for network in found:
            if is_training(network):
                for layer in network.modules():
                    if is_training(layer):
                        layer.training = False
        yield
    finally:
        for layer, training in modes:  # whoever was called within may have changed some
            if layer.training != training:
                layer.training = training


def device_of(model: Any) -> torch.device:
    """Where the weights of a model are; the CPU for one without any that can be seen."""
    for network in networks(model):
        for tensor in (*network.parameters(), *network.buffers()):
            return tensor.device
    return torch.device("cpu")
