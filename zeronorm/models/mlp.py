"""The fully connected network of Beliaev, Delgosha, Hassani & Pedarsani, "Efficient and robust classification
for sparse attacks" (2022), plain or with a truncated first layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from zeronorm import checks
from zeronorm.layers.truncation import TruncatedLinear


def mlp(
    in_channels: int = 1,
    image_size: tuple[int, int] = (28, 28),
    classes: int = 10,
    widths: Sequence[int] = (1568, 3136, 500, 100),
    truncation: int = 0,
) -> nn.Module:
    """Linear layers with ReLU; F^(k) of Beliaev et al. with truncation k; 7,770,874 parameters on MNIST.

    Beliaev et al. 2022, section V: 784-1568-3136-500-100-10, each neuron of the first layer without its k
    largest and k smallest products.  `widths` are the hidden layers, at least one.  Biases throughout, the
    first outside the truncated sum.
    """
    height, width = image_size
    checks.integer("widths", len(widths), 1)
    features = in_channels * height * width
    sizes = [features, *(checks.integer("widths", size, 1) for size in widths)]
    first = (
        TruncatedLinear(features, sizes[1], truncation, bias=True)
        if checks.integer("truncation", truncation, 0)
        else nn.Linear(features, sizes[1])
    )
    layers: list[nn.Module] = [nn.Flatten(), first, nn.ReLU()]
    for before, after in pairwise(sizes[1:]):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))
