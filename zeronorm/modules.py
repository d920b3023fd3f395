"""The networks that a model is made of, and the modes of their layers.

A model is any callable: a network, or a function, method or object that refers to one.  Its layers are measured in
the modes their owner gave them; only a network that as a whole is in training mode is switched, while it is attacked.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

_DEEPEST = 4  # functions that refer to functions


def networks(model: Any) -> list[nn.Module]:
    """The networks of a model: itself, or those that it refers to by name, as far as that can be seen."""
    found: dict[int, nn.Module] = {}
    seen: set[int] = set()

    def look(at: Any, depth: int) -> None:
        if depth > _DEEPEST or id(at) in seen:
            return
        seen.add(id(at))
        if isinstance(at, nn.Module):
            found[id(at)] = at
        elif isinstance(at, partial):
            for part in (at.func, *at.args, *at.keywords.values()):
                look(part, depth + 1)
        elif inspect.ismethod(at):
            look(at.__self__, depth + 1)
        elif inspect.isfunction(at):
            names = at.__code__.co_names
            cells = [cell.cell_contents for cell in at.__closure__ or () if _filled(cell)]
            for part in (*cells, *(at.__globals__[name] for name in names if name in at.__globals__)):
                if callable(part) and not inspect.isclass(part):
                    look(part, depth + 1)
        elif callable(at) and not inspect.isbuiltin(at) and not inspect.isclass(at):
            for part in list(getattr(at, "__dict__", {}).values()):
                if isinstance(part, nn.Module) or (callable(part) and not inspect.isclass(part)):
                    look(part, depth + 1)

    look(model, 0)
    return list(found.values())


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
