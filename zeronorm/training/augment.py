"""Random crops and mirror images, on the device of the images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from zeronorm.seeding import Streams, below


def crop_and_flip(
    x: Float[Tensor, "b c h w"], ids: Int[Tensor, "b"], *, crop: int, flip: bool, seed: int, epoch: int
) -> Float[Tensor, "b c h w"]:
    """Pad each image by `crop` black pixels, crop it at a random place, and mirror it half of the time.

    Places follow from (seed, example, epoch), not from the batch or the device.
    """
    if not crop and not flip:
        return x
    _, channels, height, width = x.shape
    bits = Streams(seed, ids, "augmentation").bits(epoch, 3)
    top, left = below(bits[:, :2], 2 * crop + 1).unbind(dim=1)
    mirrored = below(bits[:, 2:], 2 if flip else 1).bool()
    rows = top[:, None] + torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device).expand(len(x), width)
    columns = left[:, None] + torch.where(mirrored, columns.flip(1), columns)
    padded = F.pad(x, (crop, crop, crop, crop))
    return padded[
        torch.arange(len(x), device=x.device)[:, None, None, None],
        torch.arange(channels, device=x.device)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
