"""Channels that can only go away together, read from torch-pruning's dependency graph.

The graph knows which layer's channels feed which; every edge maps single channels (concatenation shifts them,
flattening multiplies them). A union-find over all channels of all layers then gives every set of coupled channels in
one pass. Put right on the way:

* ``PadShortcut`` is a leaf whose channels are shifted by ``front``; torch-pruning maps a padding without its offset.
* Grouped and depthwise convolutions lose whole convolution groups, input and output channels together.
* The network's input and outputs are nodes of their own, so that channels which reach them are recognised.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch_pruning import ops
from torch_pruning.dependency import index_mapping

from hwprune.errors import TraceError
from hwprune.networks.layers import PadShortcut
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
    graph = _trace(module, example_input)
    nodes = graph.nodes
    components = _couple(graph)
    names = {layer: name for name, layer in module.named_modules()}
    tied = _tied_layers(module)
    obstacles = {
        number: "its channels are rearranged" if node in graph.unmapped else _obstacle(node, names, tied)
        for number, node in enumerate(nodes)
    }
    residual = {number for number, node in enumerate(nodes) if _is_residual(node)}
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
        obstacle = min({obstacles[number] for number in touched} - {""}, default="")
        ordered = {place: tuple(sorted(indices)) for place, indices in by_side.items()}
        units.append(Unit(ordered, not residual.isdisjoint(touched), obstacle))
    return units


def tensors(outputs: object) -> list[Tensor]:
    """Tensors of a network's outputs, whatever mappings and sequences hold them."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, Mapping):
        return [tensor for value in outputs.values() for tensor in tensors(value)]
    if isinstance(outputs, list | tuple):
        return [tensor for value in outputs for tensor in tensors(value)]
    return []


class _Entry(nn.Module):
    """The network's input as a node of the graph; without it a concatenation with the input has wrong offsets."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1


class _Enclosed(nn.Module):
    """The network between its entry and one operation behind every output, which makes both ends nodes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.entry = _Entry()
        self.network = network

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = [output * 1 for output in tensors(self.network(self.entry(x))) if output.requires_grad]
        if not outputs:
            raise ValueError("no output depends on the input by differentiable operations")
        return outputs


class _Leaf:
    """What torch-pruning asks of a layer it does not know: the numbers of channels seen while tracing."""

    def __init__(self, widths: Mapping[nn.Module, tuple[int, int]]) -> None:
        self.widths = widths

    def prune_in_channels(self, layer: nn.Module, indices: Any) -> nn.Module:
        """Only named by the graph's edges, never called."""
        return layer

    def prune_out_channels(self, layer: nn.Module, indices: Any) -> nn.Module:
        """Only named by the graph's edges, never called."""
        return layer

    def get_in_channels(self, layer: nn.Module) -> int:
        """Channels of its input."""
        return self.widths[layer][0]

    def get_out_channels(self, layer: nn.Module) -> int:
        """Channels of its output."""
        return self.widths[layer][1]


#: How torch-pruning maps channels across the kinds of nodes that move them.
_UPDATES = {
    ops.OPTYPE.CONCAT: index_mapping.update_concat_index_mapping,
    ops.OPTYPE.SPLIT: index_mapping.update_split_index_mapping,
    ops.OPTYPE.RESHAPE: index_mapping.update_reshape_index_mapping,
    ops.OPTYPE.UNBIND: index_mapping.update_unbind_index_mapping,
    ops.OPTYPE.EXPAND: index_mapping.update_expand_index_mapping,
    ops.OPTYPE.SLICE: index_mapping.update_slice_index_mapping,
}


@dataclass(frozen=True)
class _Graph:
    """What tracing yields.

    Attributes:
        nodes: torch-pruning's nodes.
        widths: channels in and out of the leaves, as seen while tracing.
        unmapped: nodes across which torch-pruning cannot follow channels.
    """

    nodes: list[Any]
    widths: dict[nn.Module, tuple[int, int]]
    unmapped: set[Any]


def _trace(module: nn.Module, example_input: Tensor) -> _Graph:
    """torch-pruning's graph of the enclosed network."""
    enclosed = _Enclosed(module)
    widths: dict[nn.Module, tuple[int, int]] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        widths[layer] = inputs[0].shape[1], output.shape[1]

    leaves = [layer for layer in enclosed.modules() if isinstance(layer, _Entry | PadShortcut)]
    hooks = [leaf.register_forward_hook(note) for leaf in leaves]
    training = {layer: layer.training for layer in module.modules()}
    leaf = _Leaf(widths)
    graph = torch_pruning.DependencyGraph()
    unmapped: set[Any] = set()
    try:
        with torch.enable_grad():
            graph.build_dependency(
                enclosed,
                example_input.detach().clone().requires_grad_(),
                forward_fn=lambda network, x: network(x),
                customized_pruners={_Entry: leaf, PadShortcut: leaf},
                verbose=False,
            )
    except Exception as error:  # the user's forward and torch-pruning may raise anything
        if not hasattr(graph, "module2node"):
            cause = (str(error).splitlines() or [type(error).__name__])[0]
            raise TraceError(
                f"the network cannot be traced with an input of shape {tuple(example_input.shape)} ({cause}): "
                "its forward must take one float tensor and reach every output by torch operations"
            ) from error
        unmapped = {node for node in graph.module2node.values() if not _maps_channels(graph, node)}
    finally:
        for hook in hooks:
            hook.remove()
        for layer, mode in training.items():
            layer.training = mode
    return _Graph(list(graph.module2node.values()), widths, unmapped)


def _maps_channels(graph: Any, node: Any) -> bool:
    """Let torch-pruning work out how one node maps channels; False where it fails (it divides by guessed sizes)."""
    update = _UPDATES.get(node.type)
    if update is None:
        return True
    try:
        update(graph, node)
    except (ArithmeticError, LookupError, TypeError, AttributeError):
        return False
    return True


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


def _couple(graph: _Graph) -> _Components:
    """Follow every layer's output channels along the edges and join what they meet."""
    components = _Components()
    nodes, widths = graph.nodes, graph.widths
    numbers: dict[Hashable, int] = {node: number for number, node in enumerate(nodes)}
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
                pairs = _along(edge, indices)
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
                first = channel * layer.groups // channels * layer.in_channels // layer.groups
                yield (side, channel), ("in", first)


def _along(edge: Any, indices: Iterable[int]) -> list[tuple[int, int]]:
    """Pairs of a channel before and behind an edge."""
    hybrids = [torch_pruning._helpers._HybridIndex(idx=index, root_idx=index) for index in indices]
    for mapping in edge.index_mapping:
        hybrids = mapping(hybrids) if mapping is not None else hybrids
    return [(hybrid.root_idx, hybrid.idx) for hybrid in hybrids]


def _is_residual(node: Any) -> bool:
    """Whether a node adds (or subtracts) two different activations."""
    if not isinstance(node.module, ops._ElementWiseOp) or not _operation(node).startswith(
        ("AddBackward", "SubBackward")
    ):
        return False
    return len({source for source in node.inputs if source.type != ops.OPTYPE.PARAMETER}) > 1


def _operation(node: Any) -> str:
    return str(node.grad_fn.name()) if hasattr(node.grad_fn, "name") else ""


def _tied_layers(module: nn.Module) -> set[nn.Module]:
    """Layers that share a parameter with another layer."""
    owners: dict[nn.Parameter, list[nn.Module]] = defaultdict(list)
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False):
            owners[parameter].append(layer)
    return {layer for layers in owners.values() if len(layers) > 1 for layer in layers}


def _obstacle(node: Any, names: Mapping[nn.Module, str], tied: Collection[nn.Module]) -> str:
    """Why no channel that passes this node can be pruned, or ""."""
    layer = node.module
    if isinstance(layer, _Entry):
        return "joined with the network's input"
    if isinstance(layer, ops._OutputOp):
        return "an output of the network"
    if any(source.type == ops.OPTYPE.PARAMETER for source in node.inputs):
        return "combined with a parameter that belongs to no layer"
    if isinstance(layer, nn.LayerNorm | nn.GroupNorm):
        return f"{names[layer]} ({type(layer).__name__}) normalises over channels, so each depends on the others"
    if isinstance(layer, ops._SplitOp):
        return "split into parts of a fixed number of channels"
    if isinstance(layer, ops._SliceOp) and any(edge.index_mapping[0] is not None for edge in node.dependencies):
        return "cut out by fixed channel numbers"
    if _operation(node).startswith("ConstantPadNd") and not isinstance(layer, PadShortcut) and _pads_channels(node):
        return "padded with channels by a function (use hwprune.networks.layers.PadShortcut)"
    if layer in names and channel_axes(layer) is None and any(layer.parameters()):
        return f"{names[layer]} ({type(layer).__name__}) is a kind of layer that is not sliced"
    if layer in tied:
        return f"{names[layer]} shares a parameter with another layer"
    if is_producer(layer) and "weight" not in layer._parameters:
        return f"{names[layer]} computes its weight"
    return ""


def _pads_channels(node: Any) -> bool:
    """Whether a padding touches the channel axis of an image (counted from behind: columns, rows, channels)."""
    padding = getattr(node.grad_fn, "_saved_pad", ())
    return len(padding) > 4 and any(padding[4:6])
