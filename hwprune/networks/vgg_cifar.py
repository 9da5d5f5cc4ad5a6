"""VGG for 32x32 images, after Simonyan, Zisserman: Very deep convolutional networks (ICLR 2015), with BatchNorm.

::

    network: {name: vgg_cifar, depth: 14}   # 13 convolutions and 1 linear layer
    network: {name: vgg_cifar, depth: 16}   # 13 convolutions and 3 linear layers

Five blocks, each ending in a 2x2 max pooling, so images need 32 pixels a side or more. Depth counts the layers with
weights; the hidden linear layers of depth 16 have 512 units.
"""

from collections.abc import Iterator

from torch import Tensor, nn

from hwprune.errors import ConfigError

BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
HIDDEN = 512


class VGGCifar(nn.Module):
    """Thirteen 3x3 convolutions in five pooled blocks, global mean, one linear layer or three."""

    def __init__(self, hidden_layers: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*_features(in_channels))
        last = nn.Linear(HIDDEN, num_classes)
        hidden = [layer for _ in range(hidden_layers) for layer in (nn.Linear(HIDDEN, HIDDEN), nn.ReLU())]
        self.classifier = nn.Sequential(*hidden, last) if hidden else last
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` images to ``(n, num_classes)`` logits."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


def build(depth: int, num_classes: int, in_channels: int = 3) -> nn.Module:
    """VGG of ``depth`` layers, untrained.

    Raises:
        ConfigError: ``depth`` is neither 14 nor 16.
    """
    if depth not in (14, 16):
        raise ConfigError(f"vgg_cifar has no depth {depth!r}: take 14 or 16")
    return VGGCifar(depth - 14, num_classes, in_channels)


def _features(in_channels: int) -> Iterator[nn.Module]:
    for block in BLOCKS:
        for width in block:
            yield nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
            yield nn.BatchNorm2d(width)
            yield nn.ReLU()
            in_channels = width
        yield nn.MaxPool2d(2)
