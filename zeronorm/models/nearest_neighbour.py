"""The nearest neighbour by quantised pixels: a classifier without training, and a yardstick for what is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zeronorm import checks
from zeronorm.errors import ArgumentError

_EXACT = 1 << 24  # whole numbers up to here are exact in float32
_TOGETHER = 250  # images compared at a time


class NearestNeighbour(nn.Module):
    """Class of the nearest labelled example, by how many quantised pixels differ.

    The logit of a class is minus the distance to its nearest example, a whole number; of equal ones the first class
    wins.  It has no gradient.

    **Arguments:**

    - `examples`, `labels`: images (n, c, h, w) to compare with, and their classes; of a class without examples the
      logit is -infinity.
    - `levels`: thresholds, in ascending order; pixels differ if a channel reaches another number of them.

    **Raises:** `ArgumentError` for images without height and width, and levels out of order.
    """

    differentiable = False

    codes: Tensor  # uint8 (n, pixels): how many levels each channel reaches, as the digits of one number
    classes_of: Tensor
    levels: Tensor

    def __init__(
        self,
        examples: Float[Tensor, "n c h w"],
        labels: Int[Tensor, "n"],
        levels: Sequence[float] = (0.5,),
    ) -> None:
        super().__init__()
        checks.examples(examples, "examples")
        if examples.dim() != 4:
            raise ArgumentError(
                f"examples: expected images (n, channel, height, width), got {tuple(examples.shape)}"
            )
        y = checks.labels(labels, examples, "labels")
        thresholds = torch.tensor(
            [checks.real("levels", level, -torch.inf, open_low=True) for level in levels], dtype=torch.float64
        )
        if (thresholds.diff() <= 0).any() or not len(thresholds):
            raise ArgumentError(f"levels: expected thresholds in ascending order, got {list(levels)}")
        base, channels = len(thresholds) + 1, examples.shape[1]
        self.shape, self.count = tuple(examples.shape[1:]), base**channels
        if self.count > 256 or examples[0].numel() >= _EXACT:
            raise ArgumentError(
                f"levels: expected at most 256 codes of a pixel, got {base}^{channels} of {channels} channels"
                if self.count > 256
                else f"examples: expected fewer than {_EXACT} pixels, got {examples[0].numel()}"
            )
        self.register_buffer("levels", thresholds)
        order = y.argsort(stable=True)
        self.classes = int(y.max()) + 1
        self.register_buffer("classes_of", y[order])
        self.register_buffer("codes", self.code(examples[order]).to(torch.uint8))
        self._one_hot: Tensor | None = None
        self.eval()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b j"]:
        return -self.distances(x).to(x.dtype)

    def distances(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b j"]:
        """In how many quantised pixels each image differs from the nearest example of every class; infinite of none."""
        checks.examples(x)
        if tuple(x.shape[1:]) != self.shape:
            raise ArgumentError(
                f"x: expected images of {self.shape}, as the examples, got {tuple(x.shape[1:])}"
            )
        if self._one_hot is None or self._one_hot.device != self.codes.device:
            self._one_hot = self._encoded(self.codes.long())
        sizes = self.classes_of.bincount(minlength=self.classes).tolist()
        found = []
        with torch.autocast(x.device.type, enabled=False):
            for part in self.code(x).split(_TOGETHER):
                # whole numbers below 2^24: exact in any order
                distance = self.codes.shape[1] - self._encoded(part) @ self._one_hot.T
                columns = [
                    of.amin(1) if of.shape[1] else of.new_full((len(of),), torch.inf)
                    for of in distance.split(sizes, dim=1)
                ]
                found.append(torch.stack(columns, dim=1))
        return torch.cat(found) if found else x.new_zeros(0, self.classes)

    def code(self, x: Float[Tensor, "b c h w"]) -> Int[Tensor, "b p"]:
        """Each pixel's code."""
        level = torch.bucketize(x.contiguous(), self.levels.to(x.dtype), right=True).flatten(2)
        digits = (len(self.levels) + 1) ** torch.arange(x.shape[1], device=x.device)
        return (level * digits[:, None]).sum(1)

    def _encoded(self, codes: Int[Tensor, "b p"]) -> Float[Tensor, "b q"]:
        """For each pixel, a one at its code: two images' product counts the pixels that agree."""
        return torch.nn.functional.one_hot(codes, self.count).flatten(1).float()
