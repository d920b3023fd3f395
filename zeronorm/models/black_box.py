"""Classifiers that can only be called: a plain Python function or a scikit-learn classifier as a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zeronorm import checks
from zeronorm.errors import ArgumentError

_SCORES = ("logits", "probabilities", "sigmoid", "tanh")


class BlackBox:
    """A function from a numpy array to scores, as a model: tensors in, logits out, no gradients.

    **Arguments:**

    - `function`: takes a copy of the inputs as an array of their shape and dtype, `(b, ...)`; returns finite
      scores `(b, classes)`.
    - `scores`: `"logits"` (any scores of which the largest wins); `"probabilities"`, of which the logarithm
      is taken, clipped below at the smallest normal number of their dtype; or what a `"sigmoid"` or `"tanh"` of
      each logit gives, which is undone up to the rounding of their dtype.
    - `channels`: the axis of an input that holds its channels, "first" or "last", where the function tells; the
      evaluation counts pixels accordingly, unless the threat model says otherwise.
    - `batch_size`: the most examples to hand over in one call; None: all.

    Logits have the dtype of the inputs and no gradient: the black-box attacks apply, as the attribute
    `differentiable` says.
    """

    differentiable = False

    def __init__(
        self,
        function: Callable[[Any], Any],
        scores: str = "logits",
        batch_size: int | None = None,
        name: str | None = None,
        channels: str | None = None,
    ) -> None:
        if channels is not None:
            checks.choice("channels", channels, ("first", "last"))
        self.channels = channels
        if not callable(function):
            raise ArgumentError(
                f"function: expected a callable from an array to scores, got {type(function).__name__}"
            )
        self.function = function
        self.scores = checks.choice("scores", scores, _SCORES)
        self.batch_size = None if batch_size is None else checks.integer("batch_size", batch_size, 1)
        self.classes: int | None = None  # known after the first call
        self.digest: str | None = None  # of whatever holds its weights, for the record of a run
        named = function if hasattr(function, "__qualname__") else type(function)
        self.name = name or f"{named.__module__}.{named.__qualname__}"

    def __call__(self, x: Tensor) -> Tensor:
        """Logits `(b, classes)` of the inputs `(b, ...)`, on their device."""
        batches = x.detach().split(self.batch_size or max(1, len(x)))
        return torch.cat([self._logits(batch) for batch in batches])

    def __repr__(self) -> str:
        return f"BlackBox({self.name}, scores={self.scores!r})"

    def _logits(self, x: Tensor) -> Tensor:
        if not len(x) and self.classes is not None:
            return x.new_zeros((0, self.classes))  # most functions cannot handle an empty batch
        # a copy: the function may write into its argument
        scores = np.asarray(self.function(x.cpu().numpy().copy()))
        if (
            scores.ndim != 2
            or scores.shape[0] != len(x)
            or scores.shape[1] < 2
            or scores.dtype.kind not in "fiu"
        ):
            raise ArgumentError(
                f"function: expected scores of shape ({len(x)}, classes) with at least 2 classes, "
                f"got {scores.dtype} of shape {scores.shape}"
            )
        if not np.isfinite(scores).all():
            bad = int((~np.isfinite(scores)).any(1).sum())
            raise ArgumentError(
                f"function: expected finite scores, got NaN or infinity for {bad} of {len(x)} examples"
            )
        if self.scores == "probabilities":
            scores = log_probabilities(scores)
        elif self.scores != "logits":
            scores = _undone(scores, self.scores)
        self.classes = scores.shape[1]
        # a copy in float64: torch takes neither read-only arrays nor every dtype and stride of numpy
        return torch.from_numpy(scores.astype(np.float64)).to(dtype=x.dtype, device=x.device)


def log_probabilities(p: Any) -> Any:
    """Their logarithms, clipped below; `ArgumentError` unless they are probabilities."""
    # a sum off by more than rounding means that these are some other scores
    if (p < 0).any() or (np.abs(p.sum(1) - 1) > 1e-3).any():
        row = int(np.argmax((p < 0).any(1) | (np.abs(p.sum(1) - 1) > 1e-3)))
        seen = ", ".join(f"{value:.3g}" for value in p[row, :4]) + (", ..." if p.shape[1] > 4 else "")
        raise ArgumentError(
            f"function: expected probabilities (0 to 1, summing to 1), got a row [{seen}] that sums to "
            f"{p[row].sum():.4g}; say scores='logits' for other scores"
        )
    p = p.astype(np.result_type(p.dtype, np.float32))
    return np.log(np.maximum(p, np.finfo(p.dtype).tiny))


def _undone(scores: Any, function: str) -> Any:
    """The logits that a sigmoid or tanh of them was taken of."""
    scores = scores.astype(np.result_type(scores.dtype, np.float32))
    if function == "tanh":
        scores = (1 + scores) / 2  # the sigmoid of twice the logit
    if (scores < 0).any() or (scores > 1).any():
        low = -1 if function == "tanh" else 0
        raise ArgumentError(
            f"function: expected a {function}, in [{low}, 1], got others; say scores='logits'"
        )
    least = np.finfo(scores.dtype).epsneg
    p = np.clip(scores.astype(np.float64), least, 1 - least)
    return (np.log(p) - np.log1p(-p)) / (2 if function == "tanh" else 1)
