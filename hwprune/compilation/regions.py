"""Operators without a kernel of ours: cut out of the traced graph, run at the pruned shapes."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node

Shape = tuple[int, ...]

#: Operators whose integer arguments may stem from the dense network's channel counts.
SIZED = {
    *("view", "reshape", "_unsafe_view", "expand", "unflatten", "slice", "narrow", "split", "split_with_sizes"),
    *("repeat", "arange", "full", "zeros", "ones", "empty", "new_full", "new_zeros", "new_ones", "new_empty"),
}


class BakedSizesError(Exception):
    """A region holds sizes of the dense network and cannot say what they are at other widths."""


@dataclass(frozen=True, eq=False)
class Region:
    """Operators that run as one call.

    Attributes:
        nodes: of the traced graph, in order.
        inputs: values it reads.
        outputs: values that others read.
        parameters: argument -> name in the module.
        constants: argument -> tensor that the trace found in the code.
        programs: what it was lowered to, by target and shapes.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: Mapping[str, str]
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    programs: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def operators(self) -> list[str]:
        """Names of the operators, sorted."""
        return sorted({operator_name(node) for node in self.nodes if node.target is not operator.getitem})

    def output_shapes(self, inputs: Sequence[Shape], tensors: Sequence[Tensor]) -> list[Shape]:
        """Shapes of the outputs for these inputs and these tensors: the module's parameters, then the constants.

        Raises:
            BakedSizesError: they differ from the dense network's, and so would integers inside the region.
        """
        with FakeTensorMode() as mode:
            values: dict[str, Any] = {name: torch.empty(shape) for name, shape in zip(self.inputs, inputs, strict=True)}
            names = (*self.parameters, *self.constants)
            values |= {name: mode.from_tensor(tensor) for name, tensor in zip(names, tensors, strict=True)}
            is_dense = all(dense_shape(node) == tuple(values[node.name].shape) for node in self._arguments())
            for node in self.nodes:
                if not is_dense and _is_sized(node):
                    raise BakedSizesError(operator_name(node))
                args = torch.fx.map_arg(node.args, lambda argument: values[argument.name])
                kwargs = torch.fx.map_arg(node.kwargs, lambda argument: values[argument.name])
                values[node.name] = node.target(*args, **kwargs)  # type: ignore[operator]
        return [tuple(values[name].shape) for name in self.outputs]

    def export(self, inputs: Sequence[Shape], tensors: Sequence[Tensor]) -> ExportedProgram:
        """The region as a program of its own: inputs, then parameters, then constants are its arguments."""
        graph, copies = Graph(), dict[str, Node]()
        for name in (*self.inputs, *self.parameters, *self.constants):
            copies[name] = graph.placeholder(name)
        for node in self.nodes:
            copies[node.name] = graph.node_copy(node, lambda argument: copies[argument.name])
        graph.output(tuple(copies[name] for name in self.outputs))
        arguments = (*map(torch.zeros, inputs), *(tensor.detach() for tensor in tensors))
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about torch's own internals
            return torch.export.export(GraphModule(nn.Module(), graph), arguments)

    def _arguments(self) -> list[Node]:
        """Nodes outside of the region that it reads."""
        names = {*self.inputs, *self.parameters}
        return [argument for node in self.nodes for argument in node.all_input_nodes if argument.name in names]


def operator_name(node: Node) -> str:
    """``aten.conv2d.default`` -> ``conv2d``; in-place operators as the others."""
    schema = getattr(node.target, "_schema", None)
    name = schema.name if schema else getattr(node.target, "__name__", str(node.target))
    return str(name).split("::")[-1].removesuffix("_")


def dense_shape(node: Node) -> Shape:
    """Shape of a tensor in the traced network; () for what is none."""
    value = node.meta.get("val")
    return tuple(int(size) for size in value.shape) if isinstance(value, Tensor) else ()


def _is_sized(node: Node) -> bool:
    """Whether a node's integers may be channel counts; slices of rows and columns are not."""
    name = operator_name(node)
    if name in ("slice", "narrow"):
        source = node.args[0]
        dim = node.args[1] if len(node.args) > 1 else 0
        rank = len(dense_shape(source)) if isinstance(source, Node) else 0
        return not (rank == 4 and isinstance(dim, int) and dim % rank >= 2)
    return name in SIZED
