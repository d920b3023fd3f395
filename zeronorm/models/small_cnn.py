"""The small CNN of Levine & Feizi, "Robustness certificates for sparse adversarial attacks by randomized
ablation" (AAAI 2020), their base classifier on MNIST.
"""

from __future__ import annotations

from torch import nn

from zeronorm import checks


def small_cnn(
    in_channels: int = 1, image_size: tuple[int, int] = (28, 28), classes: int = 10, width: float = 1.0
) -> nn.Module:
    """Two strided 4x4 convolutions and three linear layers with ReLU; 3,319,898 parameters on MNIST.

    Levine & Feizi 2020, Table 9: 64 and 128 maps, each with stride 2 and padding 1, then 500 and
    100 hidden units.  Each convolution halves the image, so that it takes any of at least 4 by 4 (6,272
    features after the second on 28x28).  Their ablated images have two channels per channel; plain images
    have one.  `width` multiplies the maps and hidden units: 1 is the paper's network.
    """
    height, breadth = (checks.integer("image_size", side, 4) for side in image_size)
    checks.real("width", width, 0.0, open_low=True)
    maps1, maps2, hidden1, hidden2 = (max(1, round(units * width)) for units in (64, 128, 500, 100))
    return nn.Sequential(
        nn.Conv2d(in_channels, maps1, kernel_size=4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(maps1, maps2, kernel_size=4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(maps2 * (height // 4) * (breadth // 4), hidden1),
        nn.ReLU(),
        nn.Linear(hidden1, hidden2),
        nn.ReLU(),
        nn.Linear(hidden2, classes),
    )
