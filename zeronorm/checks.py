"""Argument checks.  Every message names the argument, what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

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


def real(name: str, value: Any, low: float, high: float = math.inf, *, open_low: bool = False) -> float:
    """`value` as a finite float within [low, high], or (low, high] with `open_low`."""
    left = "(" if open_low else "["
    right = "inf)" if high == math.inf else f"{high:g}]"
    allowed = f"a number in {left}{low:g}, {right}"
    try:
        if isinstance(value, str):  # which float() would read
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise ArgumentError(f"{name}: expected {allowed}, got {value!r}") from None
    too_low = number <= low if open_low else number < low
    if not math.isfinite(number) or too_low or number > high:
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
    if not x.is_floating_point():
        raise ArgumentError(
            f"{name}: expected a floating point tensor, got {x.dtype}; scale 8-bit images by 1/255 first"
        )
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
        hint = "" if isinstance(z, Tensor) else "; zeronorm.models.BlackBox wraps a function of numpy arrays"
        raise ArgumentError(f"model: expected a floating point tensor of logits, got {what}{hint}")
    if z.dim() != 2 or z.shape[0] != batch or z.shape[1] < 2:
        raise ArgumentError(
            f"model: expected logits of shape ({batch}, classes) with at least 2 classes, got {tuple(z.shape)}"
        )
    if highest_label >= z.shape[1]:
        raise ArgumentError(
            f"model: expected a logit for every label up to {highest_label}, got {z.shape[1]} classes"
        )
    return z


def model(candidate: Any) -> Callable[[Tensor], Tensor]:
    """`candidate` if it can be called, else `ArgumentError`."""
    if not callable(candidate):
        hint = "; zeronorm.models.from_sklearn wraps it" if hasattr(candidate, "predict_proba") else ""
        raise ArgumentError(
            f"model: expected a callable from inputs to logits, got {type(candidate).__name__}{hint}"
        )
    return candidate


def evaluation_mode(model: Any) -> None:
    """Refuse a module in training mode with an `ArgumentError`."""
    if isinstance(model, nn.Module) and model.training:
        raise ArgumentError(
            "model: expected a model in evaluation mode, got one in training mode; call model.eval()"
        )
