"""MobileNet for 32x32 images, after Howard and others: MobileNets (2017, https://arxiv.org/abs/1704.04861).

::

    network: {name: mobilenet_cifar, width: 0.5}
    network: {name: mobilenet_cifar}

Thirteen depthwise separable blocks; the first convolution does not halve the image, which is small enough. Fourteen
groups of channels can be pruned: a depthwise layer goes with the layer that feeds it.
"""

from collections.abc import Iterator

from torch import Tensor, nn

from hwprune.errors import ConfigError

#: Channels of the first convolution; channels and stride of every block.
STEM = 32
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
#: Fewest channels of a layer of a thin network.
CHANNELS_MIN = 8


class MobileNetCifar(nn.Module):
    """A convolution, thirteen depthwise separable blocks, global mean, one linear layer."""

    def __init__(self, width: float, num_classes: int, in_channels: int) -> None:
        super().__init__()
        widths = [max(CHANNELS_MIN, round(width * channels)) for channels, _ in BLOCKS]
        stem = max(CHANNELS_MIN, round(width * STEM))
        self.features = nn.Sequential(*_unit(in_channels, stem), *_blocks(stem, widths))
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` images to ``(n, num_classes)`` logits."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


def build(num_classes: int, in_channels: int = 3, width: float = 1.0) -> nn.Module:
    """MobileNet whose channels are multiplied by ``width``, untrained.

    Raises:
        ConfigError: ``width`` is not above 0.
    """
    if not width > 0:
        raise ConfigError(f"mobilenet_cifar cannot have a width of {width}: take a number above 0")
    return MobileNetCifar(width, num_classes, in_channels)


def _blocks(in_channels: int, widths: list[int]) -> Iterator[nn.Module]:
    for width, (_, stride) in zip(widths, BLOCKS, strict=True):
        yield from _unit(in_channels, in_channels, stride=stride, groups=in_channels)
        yield from _unit(in_channels, width, kernel=1)
        in_channels = width


def _unit(
    in_channels: int, out_channels: int, *, kernel: int = 3, stride: int = 1, groups: int = 1
) -> Iterator[nn.Module]:
    padding = kernel // 2
    yield nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
    yield nn.BatchNorm2d(out_channels)
    yield nn.ReLU()
