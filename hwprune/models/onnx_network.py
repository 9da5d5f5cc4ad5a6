"""An ONNX graph as a torch module: its operators one after the other, by torch's functions of the same meaning.

What is known before anything runs (shapes, weights and what is computed from them alone) is computed by ONNX's own
reference implementation, so that a trace of the module holds tensors and constants and no arithmetic on shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch.nn.functional as F
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from hwprune.errors import TraceError
from hwprune.models import onnx_arithmetic, onnx_layers, onnx_moving
from hwprune.models.onnx_node import OnnxNode, Operand, as_tensor

#: Readings by operator.
READERS: dict[str, Any] = {**onnx_layers.READERS, **onnx_arithmetic.READERS, **onnx_moving.READERS}

#: Names of ONNX's own operators' domain.
DOMAINS = ("", "ai.onnx")

#: A gate and the activation that is a value times its gate.
GATED = {"Sigmoid": F.silu, "HardSigmoid": F.hardswish}


class OnnxNetwork(nn.Module):
    """A network in inference mode; its parameters appear when it first runs.

    Args:
        model: the graph, with its weights.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        graph = model.graph
        self._opset = next((each.version for each in model.opset_import if each.domain in DOMAINS), 1)
        self._nodes = list(graph.node)
        self._attributes = [_attributes(node) for node in self._nodes]
        self._weights = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        self._inputs = [each.name for each in graph.input if each.name not in self._weights]
        self._outputs = [each.name for each in graph.output]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The graph's outputs.

        Raises:
            UnreadableError: it has an operator without a reading.
        """
        values: dict[str, Operand] = {**self._weights, **dict(zip(self._inputs, inputs, strict=True))}
        makers: dict[str, int] = {}
        for number, node in enumerate(self._nodes):
            operands = [values[name] if name else None for name in node.input]
            for name, result in zip(node.output, self._results(number, operands, makers), strict=False):
                if name:
                    values[name] = result
                    makers[name] = number
        return tuple(self._output(name, values[name]) for name in self._outputs)

    def _results(self, number: int, operands: Sequence[Operand | None], makers: Mapping[str, int]) -> Sequence[Operand]:
        """What a node computes, or what is known of it."""
        proto = self._nodes[number]
        first = operands[0] if operands else None
        if proto.op_type in ("Shape", "Size") and isinstance(first, Tensor):
            start, end = (self._attributes[number].get(name) for name in ("start", "end"))
            shape = np.array(first.shape[start or 0 : end], np.int64)
            return [shape if proto.op_type == "Shape" else np.array(first.numel(), np.int64)]
        if not any(isinstance(operand, Tensor) for operand in operands):
            return self._known(number, operands)
        gated = self._gated(proto, makers)
        if gated is not None:
            value, run = gated
            return [run(next(each for name, each in zip(proto.input, operands, strict=True) if name == value))]
        node = self._view(number, operands)
        if proto.domain not in DOMAINS or proto.op_type not in READERS:
            raise node.unreadable(f"of domain {proto.domain}" if proto.domain not in DOMAINS else "and its kind")
        try:
            results = READERS[proto.op_type](node)
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            raise node.unreadable(f"as it is here ({_first_line(error)})") from error
        return results if isinstance(results, tuple) else [results]

    def _gated(self, proto: onnx.NodeProto, makers: Mapping[str, int]) -> tuple[str, Any] | None:
        """The value and the activation, where a product is that of a value and its own gate."""
        if proto.op_type != "Mul":
            return None
        for value, gate in (tuple(proto.input), tuple(reversed(proto.input))):
            maker = self._nodes[makers[gate]] if gate in makers else None
            if maker is None or maker.op_type not in GATED or maker.input[0] != value:
                continue
            attributes = self._attributes[makers[gate]]
            if maker.op_type == "Sigmoid" or abs(attributes.get("alpha", 0.2) - 1 / 6) < 1e-6:
                return value, GATED[maker.op_type]
        return None

    def _known(self, number: int, operands: Sequence[Operand | None]) -> list[npt.NDArray[Any]]:
        """What a node computes from what is known, by ONNX's reference implementation."""
        proto = self._nodes[number]
        names = [name for name in proto.input if name]
        graph = onnx.GraphProto(node=[proto], name="known")
        graph.input.extend(onnx.ValueInfoProto(name=name) for name in names)
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in proto.output if name)
        feeds = {name: np.asarray(each) for name, each in zip(proto.input, operands, strict=True) if name}
        try:
            found = iter(ReferenceEvaluator(graph, opsets={"": self._opset}).run(None, feeds))
        except Exception as error:  # it raises whatever numpy does, and errors of its own
            raise self._view(number, operands).unreadable(f"of known values ({_first_line(error)})") from error
        return [np.asarray(next(found)) if name else np.empty(0) for name in proto.output]

    def _view(self, number: int, operands: Sequence[Operand | None]) -> OnnxNode:
        proto = self._nodes[number]
        label = re.sub(r"\W+", "_", proto.name or proto.op_type).strip("_")

        def keep(role: str, array: npt.NDArray[Any]) -> Tensor:
            return self._keep(f"node{number}_{label}_{role}", array)

        return OnnxNode(
            proto.op_type, proto.name, self._opset, self._attributes[number], operands, tuple(proto.output), keep
        )

    def _keep(self, name: str, array: npt.NDArray[Any]) -> Tensor:
        if name not in self._buffers:
            self.register_buffer(name, as_tensor(array))
        kept: Tensor = getattr(self, name)
        return kept

    def _output(self, name: str, value: Operand) -> Tensor:
        if not isinstance(value, Tensor):
            raise TraceError(f"output {name!r} of the network does not depend on its input: remove it")
        return value


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes by name, texts decoded."""
    found = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        elif isinstance(value, onnx.TensorProto):
            value = numpy_helper.to_array(value)
        elif not isinstance(value, int | float | str):
            value = list(value)
        found[attribute.name] = value
    return found
