"""VGG-19 with batch normalisation in the form of Beliaev, Delgosha, Hassani & Pedarsani, "Efficient and robust
classification for sparse attacks" (2022), on the convolutions of Simonyan & Zisserman (2015).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from zeronorm import checks
from zeronorm.layers.truncation import TruncatedInput

_LIKE = (64, 64, 0, 128, 128, 0, *[256] * 3, 0, *[512] * 3, 0, *[512] * 2, 0)  # 0: pool
_MAPS = (64, 64, 0, 128, 128, 0, *[256] * 4, 0, *[512] * 4, 0, *[512] * 4, 0)


def vgg_like(in_channels: int = 3, image_size: tuple[int, int] = (32, 32), classes: int = 10) -> nn.Module:
    """Twelve 3x3 convolutions, then 512-BN-ReLU-classes; 12,631,114 parameters on CIFAR-10.

    Guo et al. 2018, section 4.2: "12 convolutional layers and 2 fully-connected layers" after Neklyudov et al.
    2017, whose network is commonly drawn with 13 (configuration D of Simonyan & Zisserman).  Which one the
    authors left out they do not say; here it is the third of the last block.  Each convolution is followed by batch
    normalisation and ReLU; no dropout.  Takes images of at least 32 by 32.
    """
    height, width = (checks.integer("image_size", side, 32) for side in image_size)
    return _convolutional(_LIKE, in_channels, (height // 32) * (width // 32), classes)


def vgg19(
    in_channels: int = 3, image_size: tuple[int, int] = (32, 32), classes: int = 10, truncation: int = 0
) -> nn.Module:
    """Sixteen 3x3 convolutions, then 512-BN-ReLU-classes; 20,304,202 parameters on CIFAR-10.

    Beliaev et al. 2022, section V (configuration E of Simonyan & Zisserman with batch normalisation).  With
    truncation k the k largest and k smallest values of each channel of the input are set to 0 first.  Takes
    images of at least 32 by 32.
    """
    height, width = (checks.integer("image_size", side, 32) for side in image_size)
    checks.integer("truncation", truncation, 0, height * width // 2)
    first: list[nn.Module] = [TruncatedInput(truncation)] if truncation else []
    return _convolutional(_MAPS, in_channels, (height // 32) * (width // 32), classes, first)


def _convolutional(
    configuration: Sequence[int], in_channels: int, pixels: int, classes: int, first: Sequence[nn.Module] = ()
) -> nn.Module:
    """The convolutions and the head on `pixels` positions that are left after them."""
    layers, channels = [*first], in_channels
    for maps in configuration:
        if maps:
            layers += [nn.Conv2d(channels, maps, 3, padding=1), nn.BatchNorm2d(maps), nn.ReLU()]
            channels = maps
        else:
            layers.append(nn.MaxPool2d(2))
    head = [nn.Linear(channels * pixels, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, classes)]
    return nn.Sequential(*layers, nn.Flatten(), *head)
