"""torch.export -> layers: what each ATen operator is in our terms, and what is fused with what."""

from __future__ import annotations

import copy
import math
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from hwprune.compilation.fusion import fuse, join_fallbacks
from hwprune.compilation.layers import Layer
from hwprune.errors import TraceError

ACTIVATIONS = {name: name for name in ("relu", "relu6", "silu", "sigmoid", "hardswish", "hardsigmoid")}
IDENTITIES = {"dropout", "feature_dropout", "contiguous", "clone", "detach", "alias", "lift_fresh_copy", "lift_fresh"}


def read(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[Layer, ...]]:
    """Names of inputs and outputs, and the fused layers, of a module in inference mode.

    Raises:
        TraceError: torch.export refuses the module, or it has inputs or outputs that are not float32 tensors.
    """
    program = _export(module, inputs)
    signature = program.graph_signature
    _check_types(program)
    tensors = {
        **dict(signature.inputs_to_parameters),
        **dict(signature.inputs_to_buffers),
        **dict(signature.inputs_to_lifted_tensor_constants),
    }
    lifted = signature.inputs_to_lifted_tensor_constants
    constants = {name: program.constants[constant] for name, constant in lifted.items()}
    operations = [node for node in program.graph.nodes if node.op == "call_function"]
    layers = [_layer(group, tensors) for group in _grouped(operations)]
    layers = fuse(layers, signature.user_outputs)
    layers = join_fallbacks(layers, signature.user_outputs, tensors, constants)
    return tuple(signature.user_inputs), tuple(signature.user_outputs), tuple(layers)


def _check_types(program: ExportedProgram) -> None:
    """Inputs and outputs are float32 tensors of one batch size.

    Raises:
        TraceError: one is not.
    """
    wanted = {*program.graph_signature.user_inputs, *program.graph_signature.user_outputs}
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.name in wanted}
    for name in wanted:
        value = values.get(str(name))
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            raise TraceError(f"input or output {name!r} of the network is no float32 tensor: wrap it so that it is")


def _export(module: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """Exported copy of the module in inference mode."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about torch's own internals
            program = torch.export.export(copy.deepcopy(module).eval(), inputs)
    except Exception as error:  # torch.export raises whatever the module or its tracer raised
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise TraceError(
            f"{type(module).__name__} cannot be traced by torch.export ({line}): remove data-dependent control flow"
        ) from error
    return program


def _grouped(nodes: Sequence[Node]) -> list[list[Node]]:
    """Single operators, but all operators of one zero-padding shortcut together."""
    groups: list[list[Node]] = []
    for node in nodes:
        if node.target is operator.getitem:  # stands beside the operator whose results it picks from
            next(group for group in groups if group[0] is node.args[0]).append(node)
        elif groups and is_shortcut(node) and module_of(node) == module_of(groups[-1][-1]):
            groups[-1].append(node)
        else:
            groups.append([node])
    return groups


def _layer(group: Sequence[Node], tensors: Mapping[str, str]) -> Layer:
    """The layer of one operator or shortcut; ``fallback`` where no kernel of ours does the same."""
    first, last = group[0], group[-1]
    if is_shortcut(first):
        return Layer("pad_shortcut", module_of(first), (first.all_input_nodes[0].name,), (last.name,))
    if not isinstance(first.target, torch._ops.OpOverload):
        raise TraceError(
            f"{first.target} in {module_of(first)!r} is no ATen operator: remove control flow from the network"
        )
    view = OperatorView(first, tensors)
    reader = READERS.get(view.name) if len(group) == 1 else None
    layer = reader(view) if reader else None
    return layer or _fallback(group, tensors)


def _fallback(group: Sequence[Node], tensors: Mapping[str, str]) -> Layer:
    """A layer without a kernel of ours; every node's result may be read."""
    names = {node.name for node in group}
    inputs = dict.fromkeys(
        value.name
        for node in group
        for value in node.all_input_nodes
        if value.name not in names and value.name not in tensors
    )
    outputs = tuple(node.name for node in (group[1:] or group))
    return Layer("fallback", module_of(group[0]), tuple(inputs), outputs, settings={"nodes": tuple(group)})


class OperatorView:
    """One ATen call with its arguments by name and the dense shapes of its tensors."""

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


def _conv2d(op: OperatorView) -> Layer | None:
    weight = shape_of(op["weight"])
    parameters = op.parameters(weight="weight", bias="bias")
    padding = _conv_padding(op, weight)
    if "weight" not in parameters or padding is None:
        return None
    settings = {"stride": op.pair("stride"), "padding": padding, "dilation": op.pair("dilation")}
    channels = shape_of(op["input"])[1]
    if op["groups"] == 1:
        return op.layer("conv2d", op["input"], parameters=parameters, **settings)
    if op["groups"] == channels == weight[0]:
        return op.layer("depthwise", op["input"], parameters=parameters, **settings)
    return None


def _conv_padding(op: OperatorView, weight: Sequence[int]) -> tuple[int, int] | None:
    """Padding of a convolution on each side; None where the sides differ."""
    if not isinstance(op["padding"], str):
        return op.pair("padding")
    if op["padding"] == "valid":
        return 0, 0
    reach = [dilation * (taps - 1) for dilation, taps in zip(op.pair("dilation"), weight[2:], strict=True)]
    return None if any(taps % 2 for taps in reach) else (reach[0] // 2, reach[1] // 2)


def _linear(op: OperatorView) -> Layer | None:
    parameters = op.parameters(weight="weight", bias="bias")
    if len(shape_of(op["input"])) != 2 or "weight" not in parameters:
        return None
    return op.layer("dense", op["input"], parameters=parameters)


def _batch_norm(op: OperatorView) -> Layer | None:
    roles = {"bn_weight": "weight", "bn_bias": "bias", "bn_mean": "running_mean", "bn_var": "running_var"}
    parameters = op.parameters(**roles)
    if len(shape_of(op["input"])) not in (2, 4) or not {"bn_mean", "bn_var"} <= parameters.keys() or op["training"]:
        return None
    return op.layer("batch_norm", op["input"], parameters=parameters, epsilon=float(op["eps"]))


def _activation(op: OperatorView) -> Layer | None:
    if len(shape_of(op["self"])) not in (2, 4):
        return None
    return _with_activation(op.layer("activation", op["self"]), ACTIVATIONS[op.name])


def _hardtanh(op: OperatorView) -> Layer | None:
    if (op["min_val"], op["max_val"]) != (0, 6) or len(shape_of(op["self"])) not in (2, 4):
        return None
    return _with_activation(op.layer("activation", op["self"]), "relu6")


def _with_activation(layer: Layer, activation: str) -> Layer:
    return replace(layer, activation=activation)


def _add(op: OperatorView) -> Layer | None:
    left, right = op["self"], op["other"]
    both = op.is_value(left) and op.is_value(right)
    if not both or shape_of(left) != shape_of(right) or len(shape_of(left)) not in (2, 4) or op["alpha"] != 1:
        return None
    return op.layer("add", left, right)


def _mul(op: OperatorView) -> Layer | None:
    left, right = op["self"], op["other"]
    if not (op.is_value(left) and op.is_value(right)):
        return None
    a, b = shape_of(left), shape_of(right)
    if len(a) != 4 or len(b) != 4 or a[:2] != b[:2]:
        return op.layer("mul", left, right) if a == b and len(a) == 2 else None
    if a == b:
        return op.layer("mul", left, right)
    if b[2:] == (1, 1):
        return op.layer("scale", left, right)
    return op.layer("scale", right, left) if a[2:] == (1, 1) else None


def _concat(op: OperatorView) -> Layer | None:
    tensors = op["tensors"]
    ranks = {len(shape_of(value)) for value in tensors}
    if ranks not in ({4}, {2}) or op["dim"] not in (1, 1 - next(iter(ranks))) or not all(map(op.is_value, tensors)):
        return None
    return op.layer("concat", *tensors)


def _mean(op: OperatorView) -> Layer | None:
    dims = sorted(dim % 4 for dim in op["dim"] or ())
    if len(shape_of(op["self"])) != 4 or dims != [2, 3] or op["dtype"] is not None:
        return None
    return op.layer("global_pool", op["self"], kept=2 if op["keepdim"] else 0)


def _adaptive_avg_pool2d(op: OperatorView) -> Layer | None:
    shape, out = shape_of(op["self"]), shape_of(op.node)[-2:]
    if len(shape) != 4:
        return None
    if out == (1, 1):
        return op.layer("global_pool", op["self"], kept=2)
    if out == shape[2:]:
        return op.layer("identity", op["self"])
    if any(size % wanted for size, wanted in zip(shape[2:], out, strict=True)):
        return None
    step = (shape[2] // out[0], shape[3] // out[1])
    return op.layer("avg_pool", op["self"], kernel=step, stride=step, padding=(0, 0), dilation=(1, 1))


def _pool(op: OperatorView) -> Layer | None:
    shape, out = shape_of(op["self"]), shape_of(op.node)
    if len(shape) != 4:
        return None
    kernel, padding = op.pair("kernel_size"), op.pair("padding")
    stride = op.pair("stride") if op["stride"] else kernel
    dilation = op.pair("dilation") if op.name == "max_pool2d" else (1, 1)
    if op.name == "avg_pool2d" and (op["divisor_override"] or (any(padding) and not op["count_include_pad"])):
        return None
    whole = tuple(
        (shape[axis + 2] + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1
        for axis in (0, 1)
    )
    if whole != out[2:]:  # the last window hangs over (ceil_mode)
        return None
    name = op.name.removesuffix("2d")
    return op.layer(name, op["self"], kernel=kernel, stride=stride, padding=padding, dilation=dilation)


def _reshape(op: OperatorView) -> Layer | None:
    """Views that join dimensions; others may hold channel counts and are left to the fallback."""
    source = op.node.args[0]
    shape, out = shape_of(source), shape_of(op.node)
    if not op.is_value(source):
        return None
    if shape == out:
        return op.layer("identity", source)
    if len(shape) == 2 and out == (*shape, 1, 1):
        return op.layer("flatten", source, first=1, last=1, kept=2)
    for first in range(1, len(shape)):
        for last in range(first + 1, len(shape)):
            joined = (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])
            if out == joined:
                return op.layer("flatten", source, first=first, last=last, kept=0)
    return None


def _identity(op: OperatorView) -> Layer | None:
    source = op.node.args[0]
    return op.layer("identity", source) if op.is_value(source) else None


READERS: dict[str, Callable[[OperatorView], Layer | None]] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "batch_norm": _batch_norm,
    **dict.fromkeys(ACTIVATIONS, _activation),
    "hardtanh": _hardtanh,
    "add": _add,
    "mul": _mul,
    "cat": _concat,
    "mean": _mean,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "max_pool2d": _pool,
    "avg_pool2d": _pool,
    **dict.fromkeys(("flatten", "view", "reshape", "squeeze", "unsqueeze"), _reshape),
    **dict.fromkeys(IDENTITIES, _identity),
}
