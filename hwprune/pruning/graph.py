"""How channels run through a network: torch-pruning's dependency graph, and what its nodes mean for pruning.

Tracing encloses the network between an entry and one operation behind every output, so that channels which are the
network's own input or output are recognised as such.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch_pruning import ops
from torch_pruning.dependency import index_mapping

from hwprune.errors import TraceError
from hwprune.networks.layers import PadShortcut
from hwprune.pruning.layers import channel_axes, is_producer


@dataclass(frozen=True)
class ChannelGraph:
    """What tracing yields.

    Attributes:
        nodes: torch-pruning's nodes.
        widths: channels in and out of the leaves, as seen while tracing.
        unmapped: nodes across which torch-pruning cannot follow channels.
    """

    nodes: list[Any]
    widths: dict[nn.Module, tuple[int, int]]
    unmapped: set[Any]


def trace(module: nn.Module, example_input: Tensor) -> ChannelGraph:
    """torch-pruning's graph of the enclosed network.

    Raises:
        TraceError: the network does not run on the input, or no output depends on it.
    """
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
        if not _has_edges(graph):
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
    return ChannelGraph(list(graph.module2node.values()), widths, unmapped)


def _has_edges(graph: Any) -> bool:
    """Whether torch-pruning came as far as the edges between all nodes."""
    nodes = getattr(graph, "module2node", {}).values()
    return bool(nodes) and all(len(node.dependencies) == len(node.inputs) + len(node.outputs) for node in nodes)


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


def along(edge: Any, indices: Iterable[int]) -> list[tuple[int, int]]:
    """Pairs of a channel before and behind an edge."""
    hybrids = [torch_pruning._helpers._HybridIndex(idx=index, root_idx=index) for index in indices]
    for mapping in edge.index_mapping:
        hybrids = mapping(hybrids) if mapping is not None else hybrids
    return [(hybrid.root_idx, hybrid.idx) for hybrid in hybrids]


def is_residual(node: Any) -> bool:
    """Whether a node adds (or subtracts) two different activations."""
    adds = isinstance(node.module, ops._ElementWiseOp) and _operation(node).startswith(("AddBackward", "SubBackward"))
    return adds and len({source for source in node.inputs if source.type != ops.OPTYPE.PARAMETER}) > 1


def _operation(node: Any) -> str:
    return str(node.grad_fn.name()) if hasattr(node.grad_fn, "name") else ""


def obstacles(graph: ChannelGraph, module: nn.Module) -> list[str]:
    """Why no channel that passes a node can be pruned, or "", by node."""
    names = {layer: name for name, layer in module.named_modules()}
    tied = _tied_layers(module)
    return [
        "its channels are rearranged" if node in graph.unmapped else _obstacle(node, names, tied)
        for node in graph.nodes
    ]


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
