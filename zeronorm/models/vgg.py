"""VGG-19 with batch normalisation in the form of Beliaev, Delgosha, Hassani & Pedarsani, "Efficient and robust
classification for sparse attacks" (2022), on the convolutions of Simonyan & Zisserman (2015).
"""

from __future__ import annotations

from torch import nn

from zeronorm import checks

_MAPS = (64, 64, 0, 128, 128, 0, *[256] * 4, 0, *[512] * 4, 0, *[512] * 4, 0)  # 0: pool


def vgg19(
    in_channels: int = 3, image_size: tuple[int, int] = (32, 32), classes: int = 10, truncation: int = 0
) -> nn.Module:
    """Sixteen 3x3 convolutions, then 512-BN-ReLU-classes; 20,304,202 parameters on CIFAR-10.

    Beliaev et al. 2022, section V (configuration E of Simonyan & Zisserman with batch normalisation).  With
    truncation k the k largest and k smallest values of each channel of the input are set to 0 first.  Takes
    images of at least 32 by 32.
    """
    # here, since defences import models
    from zeronorm.defenses.truncation import TruncatedInput

    height, width = (checks.integer("image_size", side, 32) for side in image_size)
    checks.integer("truncation", truncation, 0, height * width // 2)
    layers: list[nn.Module] = [TruncatedInput(truncation)] if truncation else []
    channels = in_channels
    for maps in _MAPS:
        if maps:
            layers += [nn.Conv2d(channels, maps, 3, padding=1), nn.BatchNorm2d(maps), nn.ReLU()]
            channels = maps
        else:
            layers.append(nn.MaxPool2d(2))
    features = channels * (height // 32) * (width // 32)
    head = [nn.Linear(features, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, classes)]
    return nn.Sequential(*layers, nn.Flatten(), *head)
