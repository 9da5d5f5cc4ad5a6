"""Two small networks with the operators of dense prediction: dilated windows, image pyramids, upsampling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 21


def _block(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class DeepLabLike(nn.Module):
    """Dilated backbone, five parallel views of the image joined, bilinear upsampling; after Chen et al., 2017."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            _block(3, width, stride=2),
            _block(width, 2 * width, stride=2),
            _block(2 * width, 4 * width, stride=2),
            _block(4 * width, 4 * width, dilation=2),
            _block(4 * width, 4 * width, dilation=4),
        )
        views = [_block(4 * width, 2 * width, 1)]
        views += [_block(4 * width, 2 * width, dilation=rate) for rate in (3, 6, 9)]
        self.views = nn.ModuleList(views)
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), _block(4 * width, 2 * width, 1))
        self.project = _block(10 * width, 4 * width, 1)
        self.classify = nn.Conv2d(4 * width, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, 3, h, w)`` images to ``(n, CLASSES, h, w)`` logits."""
        features = self.backbone(x)
        size = features.shape[2:]
        whole = F.interpolate(self.whole(features), size=size, mode="bilinear", align_corners=False)
        joined = self.project(torch.cat([*(view(features) for view in self.views), whole], 1))
        return F.interpolate(self.classify(joined), size=x.shape[2:], mode="bilinear", align_corners=False)


class FPNLike(nn.Module):
    """Four levels of a backbone, each with the enlarged coarser one added, one head for all; after Lin et al., 2017."""

    def __init__(self, width: int = 32, pyramid: int = 64) -> None:
        super().__init__()
        widths = [width << level for level in range(4)]
        self.stem = _block(3, width, stride=2)
        inputs = [width, *widths[:-1]]
        self.levels = nn.ModuleList(
            nn.Sequential(_block(before, after, stride=2), _block(after, after))
            for before, after in zip(inputs, widths, strict=True)
        )
        self.laterals = nn.ModuleList(nn.Conv2d(channels, pyramid, 1) for channels in widths)
        self.smooth = nn.ModuleList(nn.Conv2d(pyramid, pyramid, 3, padding=1) for _ in widths)
        self.head = nn.Sequential(_block(pyramid, pyramid), nn.Conv2d(pyramid, CLASSES, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``(n, 3, h, w)`` images to ``(n, CLASSES, boxes)`` logits, the finest level's first."""
        x = self.stem(x)
        maps = []
        for level, lateral in zip(self.levels, self.laterals, strict=True):
            x = level(x)
            maps.append(lateral(x))
        for finer in range(len(maps) - 2, -1, -1):
            maps[finer] = maps[finer] + F.interpolate(maps[finer + 1], scale_factor=2.0, mode="nearest")
        logits = [self.head(smooth(level)) for smooth, level in zip(self.smooth, maps, strict=True)]
        return torch.cat([level.flatten(2) for level in logits], 2)
