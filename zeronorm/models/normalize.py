"""Normalisation as a model's first layer, so that every model takes inputs in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zeronorm import checks


class Normalize(nn.Module):
    """`(x - mean) / std`, channel by channel: `(b, c, h, w)` to the same shape.

    The constants are arguments of the model rather than trained weights: they are kept out of its
    `state_dict`, so that weights published without them fit.

    With `saturates`, a result that overflows is the largest number there is, and inputs that are not finite are
    refused: as layers need it whose proofs hold for every finite input.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], *, saturates: bool = False) -> None:
        super().__init__()
        self.saturates = saturates
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        if not self.saturates:
            return (x - self.mean) / self.std
        checks.examples(x)
        largest = torch.finfo(x.dtype).max
        return ((x - self.mean) / self.std).clamp(-largest, largest)

    def extra_repr(self) -> str:
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"
