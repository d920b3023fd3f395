"""Is a model the program that a proof is about?  What could make it behave otherwise is refused by name.

For models of our own, whose modules are known one by one; `network_graph` reads any others.
"""

from __future__ import annotations

import itertools
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from zeronorm.certification.network_graph import _GLOBAL_HOOKS, _HOOKS
from zeronorm.errors import ArgumentError
from zeronorm.models.classifier import Classifier
from zeronorm.models.normalize import Normalize

N = TypeVar("N", bound=nn.Module)


def network_of(
    model: Any, x: Tensor, kind: type[N], called: str, parts: tuple[type[nn.Module], ...] = ()
) -> tuple[nn.Module | None, N]:
    """The normalisation, or None, and the network of exactly this class that a model consists of.

    `parts` are the classes of modules within the network, none of which behaves otherwise in training mode.

    **Raises:** `ArgumentError` for another kind of model, for more than normalisation before the network, for what
    `check_known` refuses, and for inputs that do not fit.
    """
    network = getattr(model, "network", model) if type(model) is Classifier else model
    if type(network) is not kind:
        found = type(model).__name__ + (f" with {type(network).__name__}" if network is not model else "")
        raise ArgumentError(f"model: expected {called} network, got {found}")
    if network is not model and type(model.normalize) not in (Normalize, nn.Identity):
        raise ArgumentError(
            f"model: expected nothing but normalisation before {called} network, got "
            f"{type(model.normalize).__name__}: what spreads the change of one pixel over many leaves nothing to prove"
        )
    check_known(model, (Classifier, Normalize, nn.Identity, kind, *parts))
    if network is model:
        return None, network
    model(x[:1])  # complains of inputs that do not fit
    return model.normalize, network


def check_known(model: nn.Module, known: tuple[type[nn.Module], ...]) -> None:
    """`ArgumentError` for what could make a model behave otherwise than its classes say.

    That is modules of other classes, hooks, parametrizations, methods replaced on an object; also weights that are not
    finite.
    """
    for hooks in _GLOBAL_HOOKS:
        if getattr(nn.modules.module, hooks):
            raise ArgumentError("model: expected no hooks, got some registered for all of torch's modules")
    for name, module in model.named_modules():
        where = f"{name or 'model'} ({type(module).__name__})"
        if is_parametrized(module):
            raise ArgumentError(f"model: expected plain weights, got a parametrization of {where}")
        if type(module) not in known:
            raise ArgumentError(f"model: expected modules of known classes, got {where}")
        if any(getattr(module, hooks, None) for hooks in _HOOKS):
            raise ArgumentError(f"model: expected modules without hooks, got one of {where}")
        for attribute in vars(module):
            if callable(getattr(type(module), attribute, None)):
                raise ArgumentError(
                    f"model: expected modules with the methods of their class, got another {attribute} on {where}"
                )
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ArgumentError(f"model: expected finite weights, got NaN or infinity in {name}")
