"""torch.export -> layers: what each ATen operator is in our terms, and what is fused with what."""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from hwprune.compilation import readers, view_readers
from hwprune.compilation.fusion import fuse, join_fallbacks
from hwprune.compilation.layers import Layer
from hwprune.compilation.operator_view import CHANNELS_LAST, OperatorView, is_float, is_shortcut, module_of, shape_of
from hwprune.errors import TraceError

#: By ATen's names; those of rows also read images whose channels come last.
READERS = {**readers.READERS, **view_readers.READERS}
READERS_OF_ROWS = {**readers.READERS_OF_ROWS, **view_readers.READERS_OF_ROWS}


def read(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[Layer, ...]]:
    """Names of inputs and outputs, and the fused layers, of a module in inference mode.

    Raises:
        TraceError: torch.export refuses the module, or it has inputs or outputs that are not float32 tensors.
    """
    return read_program(_export(module, inputs))


def read_program(program: ExportedProgram) -> tuple[tuple[str, ...], tuple[str, ...], tuple[Layer, ...]]:
    """The same of a program that was exported before.

    Raises:
        TraceError: it has inputs or outputs that are not float32 tensors, or control flow.
    """
    signature = program.graph_signature
    batch = _check_types(program)
    tensors = {
        **dict(signature.inputs_to_parameters),
        **dict(signature.inputs_to_buffers),
        **dict(signature.inputs_to_lifted_tensor_constants),
    }
    lifted = signature.inputs_to_lifted_tensor_constants
    constants = {name: program.constants[constant] for name, constant in lifted.items()}
    operations = [node for node in program.graph.nodes if node.op == "call_function"]
    layers = [layer for group in _grouped(operations) for layer in _layers(group, tensors, batch)]
    layers = fuse(layers, signature.user_outputs)
    layers = join_fallbacks(layers, signature.user_outputs, tensors, constants)
    return tuple(signature.user_inputs), tuple(signature.user_outputs), tuple(layers)


def _check_types(program: ExportedProgram) -> int:
    """Batch size of the first input, of inputs and outputs that are float32 tensors.

    Raises:
        TraceError: one is not.
    """
    wanted = {*program.graph_signature.user_inputs, *program.graph_signature.user_outputs}
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.name in wanted}
    for name in wanted:
        value = values.get(str(name))
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            raise TraceError(f"input or output {name!r} of the network is no float32 tensor: wrap it so that it is")
    shapes = [tuple(values[str(name)].shape) for name in program.graph_signature.user_inputs]
    return int(shapes[0][0]) if shapes and shapes[0] else 1


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


def _layers(group: Sequence[Node], tensors: Mapping[str, str], batch: int) -> Sequence[Layer]:
    """The layers of one operator or shortcut; one ``fallback`` where no kernel of ours does the same."""
    first, last = group[0], group[-1]
    if is_shortcut(first):
        return [Layer("pad_shortcut", module_of(first), (first.all_input_nodes[0].name,), (last.name,))]
    if not isinstance(first.target, torch._ops.OpOverload):
        raise TraceError(
            f"{first.target} in {module_of(first)!r} is no ATen operator: remove control flow from the network"
        )
    return _read(group, OperatorView(first, tensors), batch) or [_fallback(group, tensors)]


def _read(group: Sequence[Node], op: OperatorView, batch: int) -> Sequence[Layer]:
    """The layers of one operator; none where no kernel of ours does the same."""
    node, picks = group[0], group[1:]
    values = [value for value in node.all_input_nodes if op.is_value(value)]
    if not all(map(is_float, (node, *values))):
        return []
    if any(shape_of(value)[:1] != (batch,) for value in (*values, *(picks or [node]))):
        return []  # kernels run once an image
    if picks:
        return view_readers.read_parts(op, picks) or []
    of_rows = any(value.meta.get(CHANNELS_LAST) for value in values)
    reader = (READERS_OF_ROWS if of_rows else READERS).get(op.name)
    layers = reader(op) if reader else None
    if not layers:
        return []
    layers = layers if isinstance(layers, list) else [layers]
    if of_rows and len(shape_of(node)) == 4 and layers[-1].op != "to_images":
        node.meta[CHANNELS_LAST] = True
    return layers


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
