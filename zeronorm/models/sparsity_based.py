"""The MNIST networks of Gopalakrishnan, Marzi, Cekic, Madhow & Pedarsani, "Robust adversarial learning via
sparsifying front ends" (2020), section VI-B.
"""

from __future__ import annotations

from torch import nn

from zeronorm import checks


def two_layer(
    in_channels: int = 1, image_size: tuple[int, int] = (28, 28), classes: int = 2, hidden: int = 10
) -> nn.Module:
    """One hidden layer of 10 with ReLU, for two classes; 7,872 parameters on two digits of MNIST.

    Two logits, of which the paper has the difference.
    """
    checks.integer("hidden", hidden, 1)
    height, width = image_size
    return nn.Sequential(
        nn.Flatten(), nn.Linear(in_channels * height * width, hidden), nn.ReLU(), nn.Linear(hidden, classes)
    )


def four_layer_cnn(
    in_channels: int = 1, image_size: tuple[int, int] = (28, 28), classes: int = 10, dropout: float = 0.5
) -> nn.Module:
    """Two 5x5 convolutions (20 and 40 maps) and two layers of 1000; 2,032,570 parameters on MNIST.

    After Nielsen, "Neural networks and deep learning" (2015), chapter 6.  The first convolution is padded and the
    second is not; 2x2 max pooling follows each, and dropout both hidden layers (the authors' code drops logits
    too while it trains).  Takes images of at least 12 by 12.
    """
    height, width = (checks.integer("image_size", side, 12) for side in image_size)
    checks.real("dropout", dropout, 0.0, 1.0)
    features = 40 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, 20, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 40, kernel_size=5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(features, 1000),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(1000, 1000),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(1000, classes),
    )
