"""Residual networks with pre-activation: He, Zhang, Ren & Sun, "Identity mappings in deep residual networks"
(ECCV 2016), in the form for 32x32 images that the robustness literature trains.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zeronorm import checks

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"softplus": F.softplus, "relu": F.relu}


def preact_resnet18(
    in_channels: int = 3,
    image_size: tuple[int, int] = (32, 32),
    classes: int = 10,
    activation: str = "softplus",
) -> nn.Module:
    """PreActResNet-18 with softplus or ReLU; 11,172,170 parameters for 3 channels and 10 classes.

    The network of Zhong, Huang & Liu, "Towards efficient training and evaluation of robust models against
    l0 bounded adversarial perturbations" (ICML 2024), appendix B.  Softplus stands within the blocks; the
    activation after the last batch normalisation is ReLU, and the weights bear the names, of the authors'
    code.  Averages over all positions at the end: takes any image size.
    """
    checks.choice("activation", activation, ACTIVATIONS)
    return PreActResNet((2, 2, 2, 2), in_channels, classes, ACTIVATIONS[activation])


class PreActResNet(nn.Module):
    """3x3 stem of 64 maps, four stages of blocks (64, 128, 256, 512 maps), batch norm, ReLU, mean, linear."""

    def __init__(
        self, blocks: tuple[int, ...], in_channels: int, classes: int, activation: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, kernel_size=3, padding=1, bias=False)
        self.layer1 = _stage(64, 64, blocks[0], 1, activation)
        self.layer2 = _stage(64, 128, blocks[1], 2, activation)
        self.layer3 = _stage(128, 256, blocks[2], 2, activation)
        self.layer4 = _stage(256, 512, blocks[3], 2, activation)
        self.bn = nn.BatchNorm2d(512)
        self.linear = nn.Linear(512, classes)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        return self.linear(F.relu(self.bn(x)).mean(dim=(2, 3)))


class PreActBlock(nn.Module):
    """Norm, activation, convolution, twice; the shortcut of a changed shape starts after the first activation."""

    def __init__(self, maps: int, planes: int, stride: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation
        self.bn1 = nn.BatchNorm2d(maps)
        self.conv1 = nn.Conv2d(maps, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or maps != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(maps, planes, kernel_size=1, stride=stride, bias=False))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        active = self.activation(self.bn1(x))
        skipped = x if self.shortcut is None else self.shortcut(active)
        return self.conv2(self.activation(self.bn2(self.conv1(active)))) + skipped


def _stage(
    maps: int, planes: int, blocks: int, stride: int, activation: Callable[[Tensor], Tensor]
) -> nn.Sequential:
    first = PreActBlock(maps, planes, stride, activation)
    return nn.Sequential(first, *(PreActBlock(planes, planes, 1, activation) for _ in range(blocks - 1)))
