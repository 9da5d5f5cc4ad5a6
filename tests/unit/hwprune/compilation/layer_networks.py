"""Small networks that between them use every family of kernels, with channel counts that fill no vector."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn


class Concatenated(nn.Module):
    """Branches whose boundaries lie inside of a block of channels."""

    def __init__(self):
        super().__init__()
        self.left = nn.Conv2d(3, 7, 1)
        self.right = nn.Conv2d(3, 10, 1)
        self.head = nn.Conv2d(20, 5, 1)

    def forward(self, x):
        return self.head(torch.cat([self.left(x), x, self.right(x)], 1))


class Elementwise(nn.Module):
    """Residual additions and gates between convolutions, and all that can follow one."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 13, 3, padding=1)
        self.second = nn.Conv2d(13, 13, 3, padding=1)
        self.gate = nn.Conv2d(13, 13, 1)

    def forward(self, x):
        y = F.silu(self.first(x))
        y = F.relu(self.second(y) + y)
        y = y * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(y, 1)))
        return F.hardswish(y) + F.gelu(y) - torch.tanh(y)


class FewChannels(nn.Module):
    """Few channels between convolutions, and in a value that others read, too."""

    def __init__(self):
        super().__init__()
        widths = (3, 5, 20, 3, 9)
        self.convolutions = nn.ModuleList(nn.Conv2d(*pair, 3, 1, 1) for pair in itertools.pairwise(widths))
        self.last = nn.Conv2d(9, 2, 3, 1, 1)

    def forward(self, x):
        for convolution in self.convolutions:
            x = F.relu(convolution(x))
        return self.last(F.max_pool2d(x, 3, 1, 1))


class Resized(nn.Module):
    """Both kinds of interpolation."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 1)

    def forward(self, x):
        y = self.conv(x)
        y = F.interpolate(y, scale_factor=2, mode="nearest")
        return F.interpolate(y, size=(19, 23), mode="bilinear", align_corners=False)


class Classified(nn.Module):
    """Softmax over channels of every position."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 11, 1)

    def forward(self, x):
        return F.softmax(self.conv(x), 1)


def _conv(*arguments, **settings):
    """A convolution behind one that gives it blocked channels, and one behind it."""
    conv = nn.Conv2d(*arguments, **settings)
    return nn.Sequential(
        nn.Conv2d(3, conv.in_channels, 1), nn.ReLU(), conv, nn.ReLU(), nn.Conv2d(conv.out_channels, 5, 1)
    )


def _depthwise(channels, kernel, **settings):
    return _conv(
        channels, channels, kernel, padding=kernel // 2 * settings.get("dilation", 1), groups=channels, **settings
    )


#: By name: makes the network, and the shape of its input.
NETWORKS = {
    "conv_1x1": (lambda: nn.Sequential(_conv(33, 50, 1), nn.Conv2d(5, 3, 1)), (1, 3, 9, 11)),
    "conv_3x3": (lambda: _conv(22, 41, 3, padding=1), (1, 3, 12, 14)),
    "conv_5x5": (lambda: _conv(9, 21, 5, padding=2), (1, 3, 10, 10)),
    "conv_7x7": (lambda: _conv(6, 13, 7, padding=3), (1, 3, 11, 9)),
    "conv_strided": (lambda: _conv(18, 37, 3, stride=2, padding=1), (1, 3, 15, 13)),
    "conv_dilated": (lambda: _conv(10, 17, 3, padding=2, dilation=2), (1, 3, 12, 12)),
    "conv_plain": (lambda: nn.Sequential(nn.Conv2d(3, 19, 7, 2, 3), nn.ReLU(), nn.Conv2d(19, 6, 3)), (1, 3, 21, 17)),
    "conv_batch": (lambda: _conv(14, 19, 3, padding=1), (3, 3, 8, 8)),
    "conv_grouped": (lambda: _conv(24, 36, 3, padding=1, groups=3), (1, 3, 8, 8)),
    "conv_transposed": (
        lambda: nn.Sequential(nn.Conv2d(3, 9, 1), nn.ConvTranspose2d(9, 14, 4, 2, 1), nn.ReLU(), nn.Conv2d(14, 3, 1)),
        (1, 3, 7, 6),
    ),
    "depthwise": (lambda: _depthwise(22, 3), (1, 3, 14, 28)),
    "depthwise_strided": (lambda: _depthwise(19, 5, stride=2), (1, 3, 17, 13)),
    "depthwise_tiny": (lambda: _depthwise(6, 5, stride=2), (1, 3, 2, 3)),
    "depthwise_dilated": (lambda: _depthwise(9, 3, dilation=2), (1, 3, 12, 12)),
    "dense": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(75, 101), nn.ReLU(), nn.Linear(101, 37), nn.Linear(37, 10)),
        (1, 3, 5, 5),
    ),
    "max_pool": (
        lambda: nn.Sequential(nn.Conv2d(3, 13, 1), nn.MaxPool2d(3, 2, 1), nn.Conv2d(13, 5, 1)),
        (1, 3, 13, 15),
    ),
    "avg_pool": (lambda: nn.Sequential(nn.Conv2d(3, 13, 1), nn.AvgPool2d(2), nn.Conv2d(13, 5, 1)), (1, 3, 12, 10)),
    "global_pool": (
        lambda: nn.Sequential(nn.Conv2d(3, 13, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(13, 5)),
        (1, 3, 12, 10),
    ),
    "few_channels": (FewChannels, (1, 3, 10, 30)),
    "resize": (Resized, (1, 3, 6, 7)),
    "softmax": (Classified, (1, 3, 6, 7)),
    "concatenation": (Concatenated, (1, 3, 8, 9)),
    "elementwise": (Elementwise, (1, 3, 9, 9)),
}


def network(name):
    """A network of this module in inference mode, and an input of it."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    return make().eval(), torch.randn(shape)


def half_zero():
    """A convolution most of whose weights are zero, and an input of it."""
    module, x = network("conv_3x3")
    with torch.no_grad():
        for layer in module:
            if isinstance(layer, nn.Conv2d):
                layer.weight[torch.rand_like(layer.weight) < 0.8] = 0.0
    return module, x
