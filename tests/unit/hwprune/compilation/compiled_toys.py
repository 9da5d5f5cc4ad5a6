"""Small networks to compile: width arguments make pruned versions of them."""

import torch
import torch.nn.functional as F
from torch import nn

from hwprune.networks.layers import PadShortcut


class Block(nn.Module):
    def __init__(self, inputs, inner, outputs, stride, projection):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        front = (outputs - inputs) // 2
        if stride == 1:
            self.shortcut = nn.Identity()
        elif projection:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        else:
            self.shortcut = PadShortcut(stride, front, outputs - inputs - front)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """CIFAR-style residual network."""

    def __init__(self, inner=(16, 32, 64), stages=(16, 32, 64), blocks=1, projection=False):
        super().__init__()
        self.conv1 = nn.Conv2d(3, stages[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stages[0])
        layers, inputs = [], stages[0]
        for stage, outputs in enumerate(stages):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                layers.append(Block(inputs, inner[stage], outputs, stride, projection))
                inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(inputs, 10)

    def forward(self, x):
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class Segmenter(nn.Module):
    """Has an operator without a kernel of ours, a cosine."""

    def __init__(self, width=16):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.head = nn.Conv2d(3 * width, 5, 1)

    def forward(self, x):
        fine = F.relu(self.conv1(x))
        coarse = torch.cos(self.conv2(fine))
        coarse = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
        return self.head(torch.cat([fine, coarse], 1))


class Detector(nn.Module):
    """Class logits of every position, and boxes."""

    def __init__(self, width=16):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU()
        )
        self.classes = nn.Conv2d(2 * width, 4, 1)
        self.boxes = nn.Conv2d(2 * width, 4, 3, 1, 1)

    def forward(self, x):
        y = self.body(x)
        return self.classes(y).flatten(2), torch.sigmoid(self.boxes(y))


class Shuffler(nn.Module):
    """A channel shuffle computes with its channel count, so an exported graph holds the dense one."""

    def __init__(self, width=16):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 2, 1)
        self.conv2 = nn.Conv2d(width, 6, 1)

    def forward(self, x):
        y = F.relu(self.conv1(x))
        n, c, h, w = y.shape
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.conv2(y).mean((2, 3))


def settled(module):
    """The module in inference mode, with BatchNorm statistics as training leaves them."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.1)
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return module.eval()
