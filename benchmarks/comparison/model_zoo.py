"""Networks as ONNX files: classifiers, and what no classifier needs (two inputs, resizing, transposed convolutions)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from comparison.toys import FPNLike
from hwprune import networks
from hwprune.models.model_file import export_onnx

Example = tuple[Tensor, ...]


class TwoInputs(nn.Module):
    """An image and its depth, each with convolutions of its own, joined and classified."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.image, self.depth = nn.Conv2d(3, width, 3, 2, 1), nn.Conv2d(1, width, 3, 2, 1)
        self.body = nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, 1, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.head = nn.Linear(2 * width, 10)

    def forward(self, image: Tensor, depth: Tensor) -> Tensor:
        """Scores of ten classes."""
        joined = torch.cat([F.relu(self.image(image)), F.relu(self.depth(depth))], 1)
        return self.head(self.body(joined).mean((2, 3)))


class Decoder(nn.Module):
    """Halves an image twice and doubles it again by transposed convolutions, as autoencoders do."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU()
        )
        self.up = nn.Sequential(
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(width, 3, 4, 2, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """An image of the same size."""
        return torch.tanh(self.up(self.down(x)))


class Upscaler(nn.Module):
    """Twice as many pixels, by resizing and by a shuffle of channels."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 5, 1, 2), nn.ReLU(), nn.Conv2d(width, 12, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The larger image."""
        wide = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        return wide + F.pixel_shuffle(self.body(x), 2)


def _images(pixels: int, *channels: int) -> Callable[[], Example]:
    return lambda: tuple(torch.rand(1, each, pixels, pixels) for each in channels)


def _named(arch: str) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(arch, weights=None)


#: Name -> what makes the network, and what makes its inputs; the quick ones first.
ZOO: dict[str, tuple[Callable[[], nn.Module], Callable[[], Example]]] = {
    "two-inputs": (TwoInputs, _images(64, 3, 1)),
    "decoder": (Decoder, _images(64, 3)),
    "upscaler": (Upscaler, _images(48, 3)),
    "resnet20": (lambda: networks.build({"name": "resnet_cifar", "depth": 20}, 10, 3), _images(32, 3)),
    "vgg14": (lambda: networks.build({"name": "vgg_cifar", "depth": 14}, 10, 3), _images(32, 3)),
    "fpn": (FPNLike, _images(160, 3)),
    "resnet18": (_named("resnet18"), _images(128, 3)),
    "mobilenet-v2": (_named("mobilenet_v2"), _images(160, 3)),
    "shufflenet-v2": (_named("shufflenet_v2_x1_0"), _images(160, 3)),
    "squeezenet": (_named("squeezenet1_1"), _images(160, 3)),
}
QUICK = 3


def write_zoo(folder: Path, names: list[str]) -> list[Path]:
    """ONNX files of these networks, by torch's own exporter."""
    paths = []
    for name in names:
        torch.manual_seed(0)
        build, example = ZOO[name]
        paths.append(folder / f"{name}.onnx")
        paths[-1].write_bytes(export_onnx(build().eval(), example()))
    return paths
