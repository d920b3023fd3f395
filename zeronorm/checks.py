"""Argument checks.  Every message names the argument, what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from zeronorm import modules
from zeronorm.errors import ArgumentError

T = TypeVar("T")


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """`value` as an int within [low, high], else `ArgumentError`."""
    allowed = f"an integer of at least {low}" if high is None else f"an integer between {low} and {high}"
    # bool is an int to Python, but never what a caller meant here
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ArgumentError(f"{name}: expected {allowed}, got {value!r}")
    number = int(value.__index__())
    if number < low or (high is not None and number > high):
        raise ArgumentError(f"{name}: expected {allowed}, got {number}")
    return number


def real(
    name: str,
    value: Any,
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """`value` as a finite float within [low, high], without its ends where they are open."""
    left = "(" if open_low else "["
    right = "inf)" if high == math.inf else f"{high:g}{')' if open_high else ']'}"
    allowed = f"a number in {left}{low:g}, {right}"
    try:
        if isinstance(value, str):  # which float() would read
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise ArgumentError(f"{name}: expected {allowed}, got {value!r}") from None
    outside = number < low or number > high or (open_low and number == low) or (open_high and number == high)
    if not math.isfinite(number) or outside:
        raise ArgumentError(f"{name}: expected {allowed}, got {value!r}")
    return number


def choice(name: str, value: T, allowed: Collection[T]) -> T:
    """`value` if it is one of `allowed`, else `ArgumentError` listing them."""
    if value not in allowed:
        raise ArgumentError(f"{name}: expected one of {', '.join(map(str, allowed))}, got {value!r}")
    return value


def examples(x: Any, name: str = "x") -> Tensor:
    """`x` if it is a batch of inputs: floating point, finite, `(batch, ...)` with at least one feature each."""
    if not isinstance(x, Tensor):
        raise ArgumentError(f"{name}: expected a torch tensor, got {type(x).__name__}")
    if x.layout != torch.strided:
        raise ArgumentError(f"{name}: expected a dense tensor, got one of layout {x.layout}")
    if x.is_meta:
        raise ArgumentError(f"{name}: expected values, got a tensor of the meta device, which has none")
    if not x.is_floating_point():
        hint = (
            "scale 8-bit images by 1/255 first"
            if x.dtype == torch.uint8
            else "of tokens, which are names and no values, give the embeddings and a model that takes these"
        )
        raise ArgumentError(f"{name}: expected a floating point tensor, got {x.dtype}; {hint}")
    if x.dim() < 2:
        raise ArgumentError(
            f"{name}: expected shape (batch, feature) or (batch, channel, height, width), "
            f"got {tuple(x.shape)}"
        )
    if x[:1].numel() == 0 and len(x) > 0:
        raise ArgumentError(f"{name}: expected at least one feature per example, got shape {tuple(x.shape)}")
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).flatten(1).any(1).sum())
        raise ArgumentError(
            f"{name}: expected finite values, got NaN or infinity in {bad} of {len(x)} examples"
        )
    return x


def labels(y: Any, x: Tensor, name: str = "y") -> Tensor:
    """Labels of the batch `x`: integers of shape `(batch,)`, none negative; returned as int64."""
    if not isinstance(y, Tensor):
        raise ArgumentError(f"{name}: expected a torch tensor, got {type(y).__name__}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ArgumentError(f"{name}: expected integer class indices, got {y.dtype}")
    if y.shape != x.shape[:1]:
        raise ArgumentError(
            f"{name}: expected shape ({len(x)},), one label per example, got {tuple(y.shape)}"
        )
    if len(y) and int(y.min()) < 0:
        raise ArgumentError(f"{name}: expected class indices of at least 0, got {int(y.min())}")
    return y.to(device=x.device, dtype=torch.int64)


def identifiers(ids: Any, x: Tensor, name: str = "ids") -> Tensor:
    """The examples' ids as int64 `(batch,)`; their positions when `ids` is None."""
    if ids is None:
        return torch.arange(len(x), device=x.device)
    expected = f"{name}: expected {len(x)} integers, one per example"
    try:
        names = torch.as_tensor(ids, device=x.device)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ArgumentError(f"{expected}, got {type(ids).__name__} ({error})") from None
    if names.is_floating_point() or names.dtype == torch.bool or names.shape != x.shape[:1]:
        raise ArgumentError(f"{expected}, got {names.dtype} of shape {tuple(names.shape)}")
    return names.to(torch.int64)


def logits(z: Any, batch: int, highest_label: int = 0) -> Tensor:
    """`z` if it is the logits of a model: floating point `(batch, classes)`, with a class for each label."""
    if not isinstance(z, Tensor) or not z.is_floating_point():
        what = str(z.dtype) if isinstance(z, Tensor) else type(z).__name__
        raise ArgumentError(f"model: expected a floating point tensor of logits, got {what}{_within(z)}")
    if z.dim() != 2 or z.shape[0] != batch or z.shape[1] < 2:
        hint = ""
        if z.shape in ((batch,), (batch, 1)) and batch:
            inner = "model(x)" if z.dim() == 2 else "model(x)[:, None]"
            hint = f"; of a single logit give lambda x: torch.cat([-{inner}, {inner}], 1)"
        elif batch == 1 and z.dim() == 1:
            hint = "; it squeezes the batch away where that is 1: say which axis to squeeze, or flatten(1)"
        raise ArgumentError(
            f"model: expected logits of shape ({batch}, classes) with at least 2 classes, got {tuple(z.shape)}{hint}"
        )
    if highest_label >= z.shape[1]:
        raise ArgumentError(
            f"model: expected a logit for every label up to {highest_label}, got {z.shape[1]} classes"
        )
    return z


def _within(z: Any) -> str:
    """Where the logits are in what a model returned, if that can be told."""
    if isinstance(z, Mapping):
        name = "logits" if "logits" in z else next((str(name) for name in z), "logits")
        return f"; its logits may be lambda x: model(x)[{name!r}]"
    if hasattr(z, "logits"):
        return "; its logits are lambda x: model(x).logits"
    if isinstance(z, tuple | list):
        return f" of {len(z)}; its logits may be lambda x: model(x)[0]"
    return "" if isinstance(z, Tensor) else "; zeronorm.models.BlackBox wraps a function of numpy arrays"


def model(candidate: Any) -> Callable[[Tensor], Tensor]:
    """`candidate` if it can be called, else `ArgumentError`."""
    if not callable(candidate):
        hint = "; zeronorm.models.from_sklearn wraps it" if hasattr(candidate, "predict_proba") else ""
        raise ArgumentError(
            f"model: expected a callable from inputs to logits, got {type(candidate).__name__}{hint}"
        )
    for network in modules.networks(candidate):
        if any(is_lazy(tensor) for tensor in (*network.parameters(), *network.buffers())):
            raise ArgumentError(
                f"model: expected weights, got a {type(network).__name__} with layers that have none before their "
                "first input; hand it a batch, and then load them"
            )
        if any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
            raise ArgumentError(
                f"model: expected weights, got a {type(network).__name__} with some on the meta device, which have no "
                "values; load them first"
            )
    return candidate


def evaluation_mode(model: Any) -> None:
    """`ArgumentError` for a network in training mode, or with a layer in it whose statistics come from the batch."""
    if isinstance(model, nn.Module) and modules.is_training(model):
        raise ArgumentError(
            "model: expected a model in evaluation mode, got one in training mode; call model.eval()"
        )
    for name, layer in modules.layers_in_training(model):
        if modules.takes_batch_statistics(layer):
            raise ArgumentError(
                f"model: expected layers whose answers do not depend on the batch, got {name} "
                f"({type(layer).__name__}) in training mode; call its eval()"
            )
