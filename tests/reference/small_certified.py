"""For every deterministic certificate a small model in float32 whose images can be changed in all ways.

A new row of the catalogue gets a function here; `tests/contracts/test_every_certificate.py` does the rest.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

import zeronorm as zn
from zeronorm.layers.truncation import TruncatedConv2d, TruncatedLinear
from zeronorm.models import Normalize

SIDE = 4


class Small(NamedTuple):
    """A model, images of it, and what the adversary may write into a pixel (one value for all channels)."""

    model: nn.Module
    x: Tensor
    values: tuple[float, ...]


# at, between and beyond the corners of the box, and the ends of float32
ANY = (0.0, 0.5, 1.0, -1.0, 3.0, -1e3, 1e-40, 1e38, -3.4028234e38, 3.4028234e38)


def _images(n: int, seed: int, channels: int = 1) -> Tensor:
    return torch.rand(n, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def _random(model: nn.Module, seed: int, scale: float = 1.0) -> nn.Module:
    """With weights of its own seed; float32, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def l0_lipschitz(seed: int) -> Small:
    model = zn.models.build("l0_lipschitz", image_size=SIDE, classes=3, templates=2, units=1).eval()
    network, generator = model.network, torch.Generator().manual_seed(seed)
    network.tables.random_(-60, 64, generator=generator)
    network.offsets.random_(-300, 300, generator=generator)
    return Small(model, _images(40, seed), ANY)


def feature_partition(seed: int) -> Small:
    kinds = (
        {"partition": (((2, 0), (0, 4)),), "mirrored": False},
        {"partition": (((2, 0), (0, 4)),), "mirrored": True},
        {"partition": (((2, 0), (0, 4)), ((4, 0), (0, 2))), "mirrored": False},
        {"partition": "random", "groups": 8, "shared": False, "votes": "hard"},
    )
    shape = {"in_channels": 1, "image_size": SIDE, "classes": 3, "widths": [6]}
    model = _random(zn.models.build("feature_partition", **(shape | kinds[seed % 4])), seed, 1.5)
    with torch.no_grad():
        model.network.rest[0].bias[:, 1] += 9.0  # for one class, so that radii are not all 0
    return Small(model, _images(40, seed), ANY)


def truncation_window(seed: int) -> Small:
    torch.manual_seed(seed)
    kind = seed % 4
    if kind == 0:
        first = [nn.Flatten(), TruncatedLinear(16, 12, 5, True), nn.ReLU()]
    elif kind == 1:  # each edge pixel stands in its patches more than once
        first = [
            TruncatedConv2d(1, 4, 3, 4, True, padding=1, padding_mode="replicate"), nn.ReLU(), nn.Flatten(),
        ]  # fmt: skip
    elif kind == 2:
        first = [
            TruncatedConv2d(1, 4, 3, 4, True, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        ]
    else:
        first = [nn.Flatten(), TruncatedLinear(16, 12, 7), nn.ReLU(), nn.Linear(12, 8), nn.ReLU()]
    features = {0: 12, 1: 64, 2: 16, 3: 8}[kind]
    last = nn.Linear(features, 3)
    model = _random(nn.Sequential(Normalize([0.4], [0.1], saturates=True), *first, last), seed)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.uniform_(-1, 1)
                part.running_var.uniform_(0.5, 2)
        # near to the boundary of two classes, and far from it, over the images
        spread = model(_images(200, seed)).std(0).mean()
        last.bias[0] += (1 + 2 * (seed % 3)) * spread
    return Small(model, _images(40, seed), ANY)


def nearest_neighbour(seed: int) -> Small:
    examples = _images(9, seed + 1000)
    near = examples.repeat(5, 1, 1, 1)[:40]  # of which few pixels differ
    noise = _images(40, seed)
    x = torch.where(noise < 0.85, near, noise)
    return Small(zn.models.NearestNeighbour(examples, torch.arange(9) % 3), x, ANY)


SMALL: dict[str, Callable[[int], Small]] = {
    name: made
    for name, made in list(globals().items())
    if inspect.isfunction(made) and made.__module__ == __name__ and name[0] != "_"
}
