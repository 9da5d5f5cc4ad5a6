"""What users bring as ``user_code:NAME``: data, networks and tasks of their own, good ones and broken ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprune.datasets.data import Data, ImageSplit, Normalization, assemble
from hwprune.tasks.base import BaseTask, Batch, Metric

PIXELS = 16


def squares(images: int = 48, classes: int = 2, broken: bool = False) -> Data:
    """Noisy images with one bright 6x6 square each; targets are its row and column, divided by the image's side."""

    def split(seed: int, pixels: int) -> ImageSplit:
        generator = torch.Generator().manual_seed(seed)
        corners = torch.randint(pixels - 6, (images, 2), generator=generator)
        pictures = torch.randint(60, (images, 3, pixels, pixels), generator=generator, dtype=torch.uint8)
        for picture, (row, column) in zip(pictures, corners.tolist(), strict=True):
            picture[:, row : row + 6, column : column + 6] += 180
        return ImageSplit(pictures, corners / pixels, Normalization((0.5,) * 3, (0.25,) * 3))

    splits = [split(seed, PIXELS) for seed in range(3)]
    data = assemble(*splits, num_classes=classes)
    if broken:  # tells another shape than its batches have
        return Data(split(0, 2 * PIXELS), *splits[1:], data.num_classes, data.input_shape, data.digest)
    return data


class Segmenter(nn.Module):
    """Two scales, joined by bilinear enlarging and concatenation; with an operator that has no kernel, a cosine."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.fine = nn.Conv2d(channels, 8, 3, 1, 1)
        self.coarse = nn.Conv2d(8, 16, 3, 2, 1)
        self.head = nn.Conv2d(24, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = F.relu(self.fine(x))
        coarse = torch.cos(self.coarse(fine))
        coarse = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
        return self.head(torch.cat([fine, coarse], 1))


class Detector(nn.Module):
    """A backbone with two heads: whether there is something at each cell, and where the corner is."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()
        )
        self.cells = nn.Conv2d(16, 1, 1)
        self.corner = nn.Linear(16 * (PIXELS // 4) ** 2, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x)
        return self.cells(features), torch.sigmoid(self.corner(features.flatten(1)))


class Segmentation(BaseTask):
    """Square or background of each pixel, by mean intersection over union."""

    metric = Metric("mean_iou", higher_is_better=True)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        return F.cross_entropy(outputs, _inside(batch[1], PIXELS))

    def score(self, results: Iterable[tuple[Any, Batch]]) -> float:
        joint, union = torch.zeros(2), torch.zeros(2)
        for outputs, (_, corners) in results:
            found, true = outputs.argmax(1), _inside(corners, PIXELS)
            for label in range(2):
                joint[label] += ((found == label) & (true == label)).sum()
                union[label] += ((found == label) | (true == label)).sum()
        return float((joint / union).mean())


class Detection(BaseTask):
    """The square's corner, by its mean distance in pixels."""

    metric = Metric("distance", higher_is_better=False, unit="px")

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        cells, corner = outputs
        there = _inside(batch[1], PIXELS)[:, None].float()
        return F.binary_cross_entropy_with_logits(cells, F.avg_pool2d(there, 4)) + F.mse_loss(corner, batch[1])

    def score(self, results: Iterable[tuple[Any, Batch]]) -> float:
        distances = [(corner - corners).norm(dim=1) * PIXELS for (_, corner), (_, corners) in results]
        return float(torch.cat(distances).mean())


class Branching(nn.Module):
    """Computes one thing or another, as the image tells: no graph of it can be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.linear = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).mean((2, 3))
        return self.linear(y) if y.sum() > 0 else self.linear(-y)


def segmenter(num_classes: int, in_channels: int) -> nn.Module:
    return Segmenter(num_classes, in_channels)


def detector(in_channels: int) -> nn.Module:
    return Detector(in_channels)


def branching() -> nn.Module:
    return Branching()


def segmentation(data: Data) -> Segmentation:
    return Segmentation(data)


def detection(data: Data) -> Detection:
    return Detection(data)


def _inside(corners: Tensor, pixels: int) -> Tensor:
    """``(n, pixels, pixels)`` masks of the squares of ``(n, 2)`` corners."""
    steps = torch.arange(pixels)
    row, column = (corners * pixels).round().long().T[..., None]
    in_rows, in_columns = ((steps >= first) & (steps < first + 6) for first in (row, column))
    return (in_rows[:, :, None] & in_columns[:, None, :]).long()
