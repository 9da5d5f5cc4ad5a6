"""One ATen call of a traced graph, with its arguments by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from hwprune.compilation.layers import Layer


class OperatorView:
    """One ATen call with its arguments by name and the dense shapes of its tensors.

    Attributes:
        node: the call.
        tensors: name of a node that holds a parameter -> its name in the module.
        name: of the operator; in-place operators are named as the others.
        arguments: by name, defaults included.
    """

    def __init__(self, node: Node, tensors: Mapping[str, str]) -> None:
        self.node = node
        self.tensors = tensors
        schema = node.target._schema  # type: ignore[union-attr]
        # In-place operators read as the others: later uses of the changed value name the operator's result.
        self.name = schema.name.removeprefix("aten::").removesuffix("_")
        self.arguments: dict[str, Any] = {
            argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()
        }
        self.arguments.update(zip((argument.name for argument in schema.arguments), node.args, strict=False))
        self.arguments.update(node.kwargs)

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def pair(self, name: str) -> tuple[int, int]:
        """An argument of one or two integers as height and width."""
        value = self.arguments[name]
        values = [value] if isinstance(value, int) else list(value)
        return (values[0], values[-1])

    def is_value(self, argument: Any) -> bool:
        """Whether an argument is an activation (and not a parameter or number)."""
        return isinstance(argument, Node) and argument.name not in self.tensors

    def is_parameter(self, argument: Any) -> bool:
        """Whether an argument is a tensor of the module."""
        return isinstance(argument, Node) and argument.name in self.tensors

    def parameters(self, **roles: str) -> dict[str, str]:
        """Role -> name in the module, of the arguments that are parameters."""
        found = {role: self.arguments[name] for role, name in roles.items()}
        return {
            role: self.tensors[node.name]
            for role, node in found.items()
            if node is not None and node.name in self.tensors
        }

    def layer(self, op: str, *inputs: Any, parameters: Mapping[str, str] | None = None, **settings: Any) -> Layer:
        """A layer that reads ``inputs``."""
        names = tuple(value.name for value in inputs)
        return Layer(op, module_of(self.node), names, (self.node.name,), parameters or {}, settings)


def module_of(node: Node) -> str:
    """Submodule that a node comes from."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""


def is_shortcut(node: Node) -> bool:
    """Whether a node belongs to a zero-padding shortcut, whose channels in front and behind follow the pruning."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return bool(stack) and str(stack[-1][1]).endswith(".PadShortcut")


def shape_of(value: Any) -> tuple[int, ...]:
    """Dense shape of a tensor; () for others."""
    tensor = value.meta.get("val") if isinstance(value, Node) else None
    return tuple(int(size) for size in tensor.shape) if isinstance(tensor, Tensor) else ()


def is_float(value: Any) -> bool:
    """Whether a node's result is a float32 tensor, or several of them."""
    result = value.meta.get("val") if isinstance(value, Node) else None
    results = result if isinstance(result, list | tuple) else [result]
    return all(isinstance(tensor, Tensor) and tensor.dtype == torch.float32 for tensor in results)


def are_channels_last(value: Any) -> bool:
    """Whether a value's channels are its last dimension: rows of features, and images after a permutation.

    Images are marked in the trace where they are permuted, and wherever a layer of ours keeps that order.
    """
    return len(shape_of(value)) == 3 or bool(value.meta.get(CHANNELS_LAST))


#: Key in a node's ``meta``: its four-dimensional result has its channels last.
CHANNELS_LAST = "hwprune_channels_last"
