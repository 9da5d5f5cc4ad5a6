"""Detectors: small heads, trained behind frozen layers, that say what a sub-network's features are worth."""

from __future__ import annotations

import base64
import copy
from collections.abc import Sequence

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from hwprune import training
from hwprune.pruning.segments import Place, Segments
from hwprune.search.compute import Compute
from hwprune.search.network import PrunableNetwork


class Detector(nn.Module):
    """A small head that says what features are worth: convolution, mean, linear layer."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, channels, h, w)`` features to ``(n, num_classes)`` logits."""
        logits: Tensor = self.linear(torch.relu(self.bn(self.conv(x))).mean((2, 3)))
        return logits


class Frozen(nn.Module):
    """A copy of a module that is not trained: its statistics stand still, and its weights take no gradient."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Frozen:
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """What the module gives."""
        outputs: Tensor = self.module(x)
        return outputs


def epoch_compute(network: PrunableNetwork, segments: Segments, ends: Sequence[Place]) -> Compute:
    """Multiply-adds of an epoch of all detectors, most of it in the frozen layers in front of them."""
    dense = segments.macs(network.dense)
    passes = network.task.size("train") / network.val_images
    total = Compute()
    for end in ends:
        head = float(np.prod(end.shape[2:])) * 9 * end.shape[1] ** 2
        total += Compute(segments.macs(network.dense, end=end) / dense * passes)
        total += Compute.training(head / dense * passes)
    return total


def untrained(network: PrunableNetwork, segments: Segments, ends: Sequence[Place]) -> list[Detector]:
    """Detectors of the features at some places."""
    classes = int(segments.places[-1].shape[1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(network.seed)
        return [Detector(end.shape[1], classes) for end in ends]


def trained_states(
    network: PrunableNetwork, segments: Segments, ends: Sequence[Place], epochs: int, lr: float = 0.05
) -> list[str]:
    """Weights of trained detectors, as text for a journal."""
    states = []
    for end, head in zip(ends, untrained(network, segments, ends), strict=True):
        schedule = training.TrainingSettings(
            epochs=epochs, lr=lr, batch_size=min(128, network.task.size("train")), seed=network.seed
        )
        course = nn.Sequential(Frozen(segments.part(segments.places[0], end)), head)
        training.train(course, network.task, schedule)
        states.append(base64.b64encode(safetensors.torch.save(dict(head.state_dict()))).decode())
    return states


def from_states(
    network: PrunableNetwork, segments: Segments, ends: Sequence[Place], states: Sequence[str]
) -> list[nn.Module]:
    """Detectors with weights of :func:`trained_states`."""
    found: list[nn.Module] = []
    for head, state in zip(untrained(network, segments, ends), states, strict=True):
        head.load_state_dict(safetensors.torch.load(base64.b64decode(state)))
        found.append(head.eval())
    return found
