"""Networks whose margins no single pixel moves by more than a known amount, whatever it is changed to.

b       examples
s, p    patches that tile the image, and the pixels of each
q       codes above 0 that a pixel can have
h       ordered pairs of classes (y, c), y ≠ c, y first: y's case against c
k, m    units of a pair, and templates that a unit chooses from in every patch
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zeronorm import checks
from zeronorm.errors import ArgumentError

STEP = 126
"""What a table may differ by between two codes of a pixel: one pixel's worth, in the whole numbers of the tables."""


def l0_lipschitz(
    in_channels: int = 1,
    image_size: tuple[int, int] = (28, 28),
    classes: int = 10,
    levels: Sequence[float] = (0.02, 0.6),
    patches: int = 2,
    units: int = 2,
    templates: int = 8,
) -> nn.Module:
    """ℓ0-Lipschitz network: integer tables over quantised pixels, maxima and sums; 2,257,920 entries on MNIST.

    Every pixel is quantised by the thresholds `levels` (of several channels: jointly).  A template is a table entry
    for each pixel of a patch, added up; a unit takes in every patch the largest of its `templates` and adds these up;
    the case of class y against c, h_yc, is the largest of its `units`.  A pixel is in one patch, and its tables
    span at most `STEP`, so that changing it moves every h_yc by at most `STEP`, and the margin g_yc = h_yc - h_cy by at
    most twice that.  The logit of y is its smallest margin, in pixels: g_yc / (2 · `STEP`).

    A network of this library's own; the certificate is `certification.l0_lipschitz`, the training
    `zeronorm train --method l0_lipschitz`.  All arithmetic is on whole numbers that float32 holds exactly.
    `patches` is their number along each side, which it must divide.
    """
    height, width = image_size
    patches = checks.integer("patches", patches, 1, min(height, width))
    if height % patches or width % patches:
        raise ArgumentError(f"patches: expected a divisor of {height} and {width}, got {patches}")
    thresholds = [checks.real("levels", level, 0.0, 1.0, open_low=True) for level in levels]
    if not thresholds or any(a >= b for a, b in pairwise(thresholds)):
        raise ArgumentError(f"levels: expected thresholds in ascending order, got {list(levels)}")
    return L0Lipschitz(
        in_channels,
        (height, width),
        classes,
        thresholds,
        patches,
        checks.integer("units", units, 1),
        checks.integer("templates", templates, 1),
    )


class L0Lipschitz(nn.Module):
    """The network in whole numbers; all 0 until trained."""

    tables: Tensor  # int8 (s, h·k·m, p·q): what a code above 0 adds to a template as against code 0
    offsets: Tensor  # int32 (s, h·k·m): of a template
    thresholds: Tensor
    opposite: Tensor

    def __init__(
        self,
        in_channels: int,
        image_size: tuple[int, int],
        classes: int,
        levels: Sequence[float],
        patches: int,
        units: int,
        templates: int,
    ) -> None:
        super().__init__()
        self.classes, self.patches, self.units, self.templates = classes, patches, units, templates
        self.codes = (len(levels) + 1) ** in_channels
        self.patch = image_size[0] // patches, image_size[1] // patches
        pairs = [(y, c) for y in range(classes) for c in range(classes) if y != c]
        inputs, rows = self.patch[0] * self.patch[1] * (self.codes - 1), len(pairs) * units * templates
        self.register_buffer("tables", torch.zeros(patches**2, rows, inputs, dtype=torch.int8))
        self.register_buffer("offsets", torch.zeros(patches**2, rows, dtype=torch.int32))
        self.register_buffer("thresholds", torch.tensor(levels, dtype=torch.float64), persistent=False)
        place = {pair: i for i, pair in enumerate(pairs)}
        opposite = torch.tensor([place[c, y] for y, c in pairs])
        self.register_buffer("opposite", opposite, persistent=False)

    def forward(self, x: Float[Tensor, "b c i w"]) -> Float[Tensor, "b j"]:
        """Each class's smallest margin over another, in pixels: more than r, and r changes cannot take it below 0.

        **Raises:** `ArgumentError` for inputs that are not finite.
        """
        checks.examples(x)
        return self.margins(x).view(len(x), self.classes, self.classes - 1).amin(2).to(x.dtype) / (2 * STEP)

    def margins(self, x: Float[Tensor, "b c i w"]) -> Int[Tensor, "b h"]:
        """g_yc = h_yc - h_cy of every pair, exactly."""
        return self.margins_of(self.encode(x))

    def margins_of(self, encoded: Float[Tensor, "s b pq"]) -> Int[Tensor, "b h"]:
        """As `margins`, of encoded images."""
        # the largest sum there can be: float32 holds whole numbers up to 2^24, float64 all that these types add up to
        most = 128 * encoded.shape[2] + int(self.offsets.long().abs().max())
        exact = torch.float32 if most < 2**24 else torch.float64
        with torch.autocast(encoded.device.type, enabled=False):
            tables, offsets = self.tables.to(exact), self.offsets.to(exact)
            z = torch.baddbmm(offsets[:, None], encoded.to(exact), tables.transpose(1, 2))
        best = z.unflatten(2, (-1, self.units, self.templates)).amax(4).long().sum(0)
        case = best.amax(2)
        return case - case[:, self.opposite]

    def encode(self, x: Float[Tensor, "b c i w"]) -> Float[Tensor, "s b pq"]:
        """Patch by patch, a one for each pixel's code above 0."""
        code = self.code(x)
        b, (height, width) = len(x), self.patch
        grid = code.view(b, self.patches, height, self.patches, width).permute(1, 3, 0, 2, 4)
        grid = grid.reshape(self.patches**2, b, height * width)
        return (grid[..., None] == torch.arange(1, self.codes, device=x.device)).flatten(2).float()

    def code(self, x: Float[Tensor, "b c i w"]) -> Int[Tensor, "b i w"]:
        """Each pixel's code: how many thresholds every channel reaches, as the digits of one number."""
        level = torch.bucketize(x.double().contiguous(), self.thresholds, right=True)
        digits = (len(self.thresholds) + 1) ** torch.arange(x.shape[1], device=x.device)
        return (level * digits[:, None, None]).sum(1)

    def span(self) -> int:
        """The most that a change of one pixel moves a template: read from the tables, not taken on trust."""
        entries = self.tables.unflatten(2, (-1, self.codes - 1)).int()
        return int((entries.amax(3).clamp_min(0) - entries.amin(3).clamp_max(0)).max())
