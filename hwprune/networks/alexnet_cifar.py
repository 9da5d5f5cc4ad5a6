"""AlexNet for 32x32 images, after Krizhevsky, Sutskever, Hinton: ImageNet classification (NIPS 2012), with BatchNorm.

::

    network: {name: alexnet_cifar, hidden: 1024}
    network: {name: alexnet_cifar}                 # hidden layers of 4,096 units, as published

Five convolutions of 64, 192, 384, 256 and 256 channels, the widths of Krizhevsky's one-column network (2014), all 3x3
on small images; three are followed by 2x2 max pooling, so images need 8 pixels a side or more. A global mean stands in
for the flattened image, so that any size will do. Seven groups of channels can be pruned.
"""

from collections.abc import Iterator

from torch import Tensor, nn

from hwprune.errors import ConfigError

#: Channels of the convolutions, and whether pooling follows.
CONVOLUTIONS = ((64, True), (192, True), (384, False), (256, False), (256, True))


class AlexNetCifar(nn.Module):
    """Five convolutions and three linear layers."""

    def __init__(self, hidden: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*_features(in_channels))
        self.classifier = nn.Sequential(
            nn.Linear(CONVOLUTIONS[-1][0], hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, h, w)`` images to ``(n, num_classes)`` logits."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


def build(num_classes: int, in_channels: int = 3, hidden: int = 4096) -> nn.Module:
    """AlexNet, untrained.

    Raises:
        ConfigError: the hidden layers have no units.
    """
    if hidden < 1:
        raise ConfigError(f"alexnet_cifar cannot have {hidden} hidden units: take 1 or more")
    return AlexNetCifar(hidden, num_classes, in_channels)


def _features(in_channels: int) -> Iterator[nn.Module]:
    for width, is_pooled in CONVOLUTIONS:
        yield nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        yield nn.BatchNorm2d(width)
        yield nn.ReLU()
        if is_pooled:
            yield nn.MaxPool2d(2)
        in_channels = width
