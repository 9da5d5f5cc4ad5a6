"""Residual networks for small images, after He, Zhang, Ren, Sun: Deep residual learning (CVPR 2016), section 4.2.

::

    network: {name: resnet_cifar, depth: 56}                         # 20, 32, 44, 56, 110: any 6 n + 2
    network: {name: resnet_cifar, depth: 20, shortcut: projection}   # 1x1 convolutions instead of zero channels

Three stages of equal length; each after the first halves the image and doubles the channels. ``shortcut: pad`` (the
paper's option A) has no parameters: every second pixel, a quarter of the new width in zero channels on each side.
"""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from hwprune.errors import ConfigError
from hwprune.networks.layers import PadShortcut

Shortcut = Literal["pad", "projection"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` to ``(n, out_channels, ceil(h / stride), ceil(w / stride))``."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNetCifar(nn.Module):
    """3x3 stem, three stages of basic blocks, global mean, one linear layer."""

    def __init__(
        self, blocks: int, widths: Sequence[int], num_classes: int, in_channels: int, shortcut: Shortcut
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(widths[0], widths[0], blocks, 1, shortcut)
        self.layer2 = _stage(widths[0], widths[1], blocks, 2, shortcut)
        self.layer3 = _stage(widths[1], widths[2], blocks, 2, shortcut)
        self.linear = nn.Linear(widths[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` images to ``(n, num_classes)`` logits."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def build(
    depth: int,
    num_classes: int,
    in_channels: int = 3,
    shortcut: Shortcut = "pad",
    widths: Sequence[int] = (16, 32, 64),
) -> nn.Module:
    """ResNet of ``depth`` layers, untrained.

    Raises:
        ConfigError: ``depth`` is not 6 n + 2, or ``shortcut`` or ``widths`` cannot be used.
    """
    if not isinstance(depth, int) or depth < 8 or depth % 6 != 2:
        raise ConfigError(f"resnet_cifar has no depth {depth!r}: take 20, 32, 44, 56, 110 or another 6 n + 2")
    if shortcut not in ("pad", "projection"):
        raise ConfigError(f"resnet_cifar has no shortcut {shortcut!r}: take 'pad' or 'projection'")
    if len(widths) != 3 or not 1 <= widths[0] <= widths[1] <= widths[2]:
        raise ConfigError(
            f"resnet_cifar cannot have widths {list(widths)}: give three that do not fall, as [16, 32, 64]"
        )
    return ResNetCifar((depth - 2) // 6, widths, num_classes, in_channels, shortcut)


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int, shortcut: Shortcut) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1, shortcut) for _ in range(blocks - 1)))


def _shortcut(in_channels: int, out_channels: int, stride: int, shortcut: Shortcut) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if shortcut == "pad":
        front = (out_channels - in_channels) // 2  # a quarter of the new width where the width doubles
        return PadShortcut(stride, front, out_channels - in_channels - front)
    projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(projection, nn.BatchNorm2d(out_channels))
