"""Layers that pruning slices: which axis of which tensor each side's channels lie along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from hwprune.networks.layers import PadShortcut

#: A layer's input or output channels; layers that treat every channel alone have an ``out`` side only.
Side = Literal["in", "out"]


@dataclass(frozen=True)
class ChannelAxes:
    """How one layer's parameters and attributes follow from its channels.

    Attributes:
        tensors: parameters and buffers by name, each with the side that runs along an axis.
        counts: the attribute that states a side's number of channels.
    """

    tensors: dict[str, dict[int, Side]]
    counts: dict[Side, str]


_PER_CHANNEL: dict[str, dict[int, Side]] = {
    name: {0: "out"} for name in ("weight", "bias", "running_mean", "running_var")
}


def channel_axes(module: nn.Module) -> ChannelAxes | None:
    """Axes of a layer that can be sliced, or None for any other module."""
    if isinstance(module, _ConvNd):
        return ChannelAxes(_convolution_tensors(module), {"in": "in_channels", "out": "out_channels"})
    if isinstance(module, nn.Linear):
        return ChannelAxes(
            {"weight": {0: "out", 1: "in"}, "bias": {0: "out"}}, {"in": "in_features", "out": "out_features"}
        )
    if isinstance(module, _BatchNorm | _InstanceNorm):
        return ChannelAxes(_PER_CHANNEL, {"out": "num_features"})
    if isinstance(module, nn.PReLU) and module.num_parameters > 1:
        return ChannelAxes({"weight": {0: "out"}}, {"out": "num_parameters"})
    if isinstance(module, PadShortcut):
        return ChannelAxes({}, {})
    return None


def _convolution_tensors(module: _ConvNd) -> dict[str, dict[int, Side]]:
    across, along = (1, 0) if module.transposed else (0, 1)
    weight: dict[int, Side] = {across: "out", along: "in"}
    if module.groups > 1:  # whole convolution groups go, so channels inside one group never change
        weight = {0: "in" if module.transposed else "out"}
    return {"weight": weight, "bias": {0: "out"}}


def has_two_sides(module: nn.Module) -> bool:
    """Whether a layer's output channels are others than its input channels."""
    return isinstance(module, _ConvNd | nn.Linear | PadShortcut)


def is_producer(module: nn.Module) -> bool:
    """Whether a layer makes new channels with weights of its own."""
    return isinstance(module, _ConvNd | nn.Linear)
