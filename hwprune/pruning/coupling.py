"""Channels that can only go away together.

Every edge of torch-pruning's graph maps single channels: concatenation shifts them, flattening multiplies them. A
union-find over all channels of all layers gives every set of coupled channels in one pass. Put right on the way:

* ``PadShortcut`` shifts its channels by ``front``; torch-pruning maps a padding without its offset.
* Grouped and depthwise convolutions lose whole convolution groups, input and output channels together.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from hwprune.networks.layers import PadShortcut
from hwprune.pruning.graph import ChannelGraph, along, is_residual, obstacles, trace
from hwprune.pruning.layers import Side, channel_axes, has_two_sides, is_producer


@dataclass(frozen=True)
class Unit:
    """Channels that can only go away together.

    Attributes:
        channels: sorted channel indices by layer name and side.
        residual: whether they reach an addition of two activations.
        obstacle: why they cannot be pruned, "" where they can.
    """

    channels: dict[tuple[str, Side], tuple[int, ...]]
    residual: bool
    obstacle: str


def coupled_units(module: nn.Module, example_input: Tensor) -> list[Unit]:
    """All units of a network that hold an output channel of some convolution or linear layer.

    Raises:
        TraceError: the network does not run on the input, or no output depends on it.
    """
    graph = trace(module, example_input)
    nodes = graph.nodes
    components = _couple(graph)
    names = {layer: name for name, layer in module.named_modules()}
    reasons = obstacles(graph, module)
    residual = {number for number, node in enumerate(nodes) if is_residual(node)}
    units = []
    for channels in components.sets():
        touched = {number for number, _, _ in channels}
        if not any(side == "out" and is_producer(nodes[number].module) for number, side, _ in channels):
            continue
        by_side: dict[tuple[str, Side], list[int]] = defaultdict(list)
        for number, side, channel in channels:
            layer = nodes[number].module
            if layer in names and channel_axes(layer) is not None:
                by_side[names[layer], side].append(channel)
        obstacle = min({reasons[number] for number in touched} - {""}, default="")
        ordered = {place: tuple(sorted(indices)) for place, indices in by_side.items()}
        units.append(Unit(ordered, not residual.isdisjoint(touched), obstacle))
    return units


Channel = tuple[int, Side, int]


class _Components:
    """Union-find over channels: (node number, side, index)."""

    def __init__(self) -> None:
        self._parent: dict[Channel, Channel] = {}

    def find(self, channel: Channel) -> Channel:
        parent = self._parent.setdefault(channel, channel)
        while parent != channel:
            grandparent = self._parent[parent]
            self._parent[channel] = grandparent
            channel, parent = parent, grandparent
        return channel

    def join(self, one: Channel, other: Channel) -> None:
        self._parent[self.find(one)] = self.find(other)

    def sets(self) -> list[list[Channel]]:
        members: dict[Channel, list[Channel]] = defaultdict(list)
        for channel in self._parent:
            members[self.find(channel)].append(channel)
        return list(members.values())


def _couple(graph: ChannelGraph) -> _Components:
    """Follow every layer's output channels along the edges and join what they meet."""
    components = _Components()
    nodes, widths = graph.nodes, graph.widths
    numbers = {node: number for number, node in enumerate(nodes)}
    passed: dict[int, set[int]] = defaultdict(set)
    pending: deque[tuple[int, Iterable[int]]] = deque()
    for number, node in enumerate(nodes):
        channels = range(_out_channels(node.module, widths))
        for channel in channels:
            components.find((number, "out", channel))
        for one, other in _inside(node.module, widths):
            components.join((number, *one), (number, *other))
        if channels:
            pending.append((number, channels))
    while pending:
        number, indices = pending.popleft()
        node = nodes[number]
        # A node's dependencies are those on its inputs, then those on its outputs, in order.
        for target, edge in zip(node.outputs, node.dependencies[len(node.inputs) :], strict=True):
            reached = numbers[target]
            side: Side = "in" if has_two_sides(target.module) else "out"
            arrived = []
            try:
                pairs = along(edge, indices)
            except (ArithmeticError, LookupError):  # sizes that torch-pruning guessed wrong
                graph.unmapped.add(node)
                pairs = [(index, index) for index in indices]
            for source, index in pairs:
                components.join((number, "out", source), (reached, side, index))
                arrived.append(index)
            fresh = set(arrived) - passed[reached]
            if side == "out" and fresh:
                passed[reached] |= fresh
                pending.append((reached, sorted(fresh)))
    return components


def _out_channels(layer: nn.Module, widths: Mapping[nn.Module, tuple[int, int]]) -> int:
    """Channels that a layer makes; 0 where they are its inputs'."""
    if layer in widths:
        return widths[layer][1]
    if isinstance(layer, _ConvNd):
        return layer.out_channels
    return layer.out_features if isinstance(layer, nn.Linear) else 0


def _inside(
    layer: nn.Module, widths: Mapping[nn.Module, tuple[int, int]]
) -> Iterator[tuple[tuple[Side, int], tuple[Side, int]]]:
    """Pairs of channels that a layer itself couples."""
    if isinstance(layer, PadShortcut):
        for channel in range(widths[layer][0]):
            yield ("in", channel), ("out", channel + layer.front)
    elif isinstance(layer, _ConvNd) and layer.groups > 1:
        sides: tuple[tuple[Side, int], ...] = (("in", layer.in_channels), ("out", layer.out_channels))
        for side, channels in sides:
            for channel in range(channels):
                convolution_group = channel * layer.groups // channels
                yield (side, channel), ("in", convolution_group * layer.in_channels // layer.groups)
