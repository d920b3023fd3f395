"""The LeNets of LeCun, Bottou, Bengio & Haffner, "Gradient-based learning applied to document recognition"
(Proc. IEEE 1998), in the forms the robustness literature uses today.
"""

from __future__ import annotations

from torch import nn

from zeronorm import checks


def lenet_300_100(
    in_channels: int = 1, image_size: tuple[int, int] = (28, 28), classes: int = 10
) -> nn.Module:
    """LeNet-300-100: two fully connected hidden layers with ReLU; 266,610 parameters on MNIST.

    LeCun et al. 1998, section III-C.5 ("28x28-300-100-10"), with ReLU for the scaled tanh.
    """
    height, width = image_size
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(in_channels * height * width, 300),
        nn.ReLU(),
        nn.Linear(300, 100),
        nn.ReLU(),
        nn.Linear(100, classes),
    )


def lenet5_caffe(
    in_channels: int = 1, image_size: tuple[int, int] = (28, 28), classes: int = 10
) -> nn.Module:
    """LeNet-5 of Caffe's example: no ReLU after the convolutions; 431,080 parameters on MNIST.

    Jia et al., "Caffe" (2014), examples/mnist, and Guo et al. 2018, section 4.2.  Otherwise as `lenet5`.
    """
    layers = list(lenet5(in_channels, image_size, classes).children())
    return nn.Sequential(*(layer for place, layer in enumerate(layers) if place not in (1, 4)))


def lenet5(in_channels: int = 1, image_size: tuple[int, int] = (28, 28), classes: int = 10) -> nn.Module:
    """LeNet-5 in Caffe's 20-50-500 form, with ReLU throughout; 431,080 parameters on MNIST.

    Two 5x5 convolutions without padding (20 and 50 maps), each followed by ReLU and 2x2 max pooling, then a
    hidden layer of 500.  Not to be confused with the 1998 original (6 and 16 maps, 120 and 84 hidden units,
    60 thousand parameters), nor with Caffe's example, which has this shape and these weights but no ReLU
    after the convolutions.  Takes images of at least 16 by 16.
    """
    height, width = (checks.integer("image_size", side, 16) for side in image_size)
    pooled = [((side - 4) // 2 - 4) // 2 for side in (height, width)]
    return nn.Sequential(
        nn.Conv2d(in_channels, 20, kernel_size=5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, kernel_size=5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(50 * pooled[0] * pooled[1], 500),
        nn.ReLU(),
        nn.Linear(500, classes),
    )
