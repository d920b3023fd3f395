"""Residual networks: He, Zhang, Ren & Sun, "Deep residual learning for image recognition" (CVPR 2016)."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def resnet20(in_channels: int = 3, image_size: tuple[int, int] = (32, 32), classes: int = 10) -> nn.Module:
    """ResNet-20 for CIFAR; 269,722 parameters (0.27 million) for 3 channels and 10 classes.

    He et al. 2016, section 4.2 with n = 3: 16, 32 and 64 maps, and shortcuts without parameters (option A:
    every second position, zeros for the new maps).  Not to be confused with the ImageNet networks, which are
    wider and start with a 7x7 convolution.  Averages over all positions at the end: takes any image size.
    """
    return CifarResNet(3, in_channels, classes)


def resnet32(in_channels: int = 3, image_size: tuple[int, int] = (32, 32), classes: int = 10) -> nn.Module:
    """ResNet-32 for CIFAR; 464,154 parameters (0.46 million) for 3 channels and 10 classes.

    As `resnet20`, with n = 5.
    """
    return CifarResNet(5, in_channels, classes)


def resnet34(
    in_channels: int = 3, image_size: tuple[int, int] = (224, 224), classes: int = 1000
) -> nn.Module:
    """ResNet-34 for ImageNet; 21,797,672 parameters (21.8 million) for 3 channels and 1000 classes.

    He et al. 2016, table 1: a 7x7 convolution of stride 2, pooling, four stages of basic blocks (3, 4, 6, 3), and
    1x1 convolutions where the shape changes (option B).  Weights go by torchvision's names, so that its published
    ones can be loaded.  Averages over all positions at the end: takes any image size.
    """
    return ImageNetResNet((3, 4, 6, 3), 1, in_channels, classes)


def resnet50(
    in_channels: int = 3, image_size: tuple[int, int] = (224, 224), classes: int = 1000
) -> nn.Module:
    """ResNet-50 for ImageNet; 25,557,032 parameters (25.6 million) for 3 channels and 1000 classes.

    As `resnet34`, with bottleneck blocks.  The stride is in the 3x3 convolution, as in the published weights of
    torchvision and others, rather than in the first 1x1 as in the paper.
    """
    return ImageNetResNet((3, 4, 6, 3), 4, in_channels, classes)


class ImageNetResNet(nn.Module):
    """Table 1 of the paper: a 7x7 stem, four stages, mean, linear.  `expansion` 1: basic blocks, 4: bottlenecks."""

    def __init__(self, blocks: tuple[int, ...], expansion: int, in_channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        block = ProjectedBasicBlock if expansion == 1 else Bottleneck
        stages, maps = [], 64
        for stage, count in enumerate(blocks):
            planes = 64 * 2**stage
            out = planes * expansion
            layers = [block(maps, planes, out, stride=1 if stage == 0 else 2)]
            layers += [block(out, planes, out, stride=1) for _ in range(count - 1)]
            stages.append(nn.Sequential(*layers))
            maps = out
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(maps, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), kernel_size=3, stride=2, padding=1)
        return self.fc(self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean(dim=(2, 3)))


class ProjectedBasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to the input (option B where the shape changes)."""

    def __init__(self, maps: int, planes: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(maps, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, out, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = _projection(maps, out, stride)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution with batch norm, added to the input (option B where the shape changes)."""

    def __init__(self, maps: int, planes: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(maps, planes, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, out, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample = _projection(maps, out, stride)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def _projection(maps: int, out: int, stride: int) -> nn.Sequential:
    """Nothing where the shape stays."""
    if stride == 1 and maps == out:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(maps, out, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(out))


class CifarResNet(nn.Module):
    """The 6n + 2 layers of section 4.2: a 3x3 stem, three stages of n blocks, mean, linear."""

    def __init__(self, n: int, in_channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, n, stride=1)
        self.layer2 = _stage(16, 32, n, stride=2)
        self.layer3 = _stage(32, 64, n, stride=2)
        self.linear = nn.Linear(64, classes)
        for layer in self.modules():  # the paper's initialisation (He et al. 2015)
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean(dim=(2, 3)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to the input (option A where the shape changes)."""

    def __init__(self, maps: int, planes: int, stride: int) -> None:
        super().__init__()
        self.stride, self.new_maps = stride, planes - maps
        self.conv1 = nn.Conv2d(maps, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        skipped = x
        if self.new_maps:
            half = self.new_maps // 2
            skipped = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.new_maps - half))
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + skipped)


def _stage(maps: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(maps, planes, stride)
    return nn.Sequential(first, *(BasicBlock(planes, planes, 1) for _ in range(blocks - 1)))
