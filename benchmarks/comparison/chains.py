"""Sixteen equal layers as one network, in torch and in ONNX: what calling costs weighs nothing beside them.

Layers whose output has their input's shape follow one another. Where channels or size change they cannot, so all of
them read the same activation, and each adds its result to the one before: ``y = relu(conv(x) + y)``. Both runtimes fuse
that.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

LAYERS = 16

#: A network's input has so many channels at most; layers that have it as theirs read it as it comes.
IMAGE_CHANNELS = 3


@dataclass(frozen=True)
class Case:
    """One layer shape.

    Attributes:
        op: what it is.
        in_channels: channels it reads.
        out_channels: channels it writes.
        size: rows and columns of its input; 1 for vectors.
        kernel: rows and columns of its window.
        stride: its step.
    """

    op: Literal["conv", "depthwise", "dense"]
    in_channels: int
    out_channels: int
    size: int = 1
    kernel: int = 1
    stride: int = 1

    @property
    def name(self) -> str:
        """``64@32``, ``64-128@56/2``, ..."""
        width = (
            str(self.in_channels)
            if self.in_channels == self.out_channels
            else f"{self.in_channels}-{self.out_channels}"
        )
        return width + f"@{self.size}" * (self.op != "dense") + f"/{self.stride}" * (self.stride > 1)

    @property
    def is_chained(self) -> bool:
        """Whether layers follow one another."""
        return self.in_channels == self.out_channels and self.stride == 1

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the network's input."""
        return (1, self.in_channels) if self.op == "dense" else (1, self.in_channels, self.size, self.size)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the network's output."""
        size = -(-self.size // self.stride)
        return (1, self.out_channels) if self.op == "dense" else (1, self.out_channels, size, size)

    @property
    def activates_input(self) -> bool:
        """Whether a ReLU comes first, so that layers share an activation as inside a network, not a network's input."""
        return not self.is_chained and self.in_channels > IMAGE_CHANNELS

    @property
    def template(self) -> Case:
        """A small case with the same graph."""
        in_channels = min(self.in_channels, IMAGE_CHANNELS) if not (self.is_chained or self.activates_input) else 8
        out_channels = in_channels if self.is_chained or self.op == "depthwise" else 12
        return replace(self, in_channels=in_channels, out_channels=out_channels, size=min(self.size, 8))

    def layer(self) -> nn.Linear | nn.Conv2d:
        """One layer without its activation, its values not yet set."""
        if self.op == "dense":
            return nn.Linear(self.in_channels, self.out_channels, device="meta").to_empty(device="cpu")
        sizes = self.in_channels, self.out_channels, self.kernel, self.stride, self.kernel // 2
        groups = self.in_channels if self.op == "depthwise" else 1
        return nn.Conv2d(*sizes, groups=groups, device="meta").to_empty(device="cpu")


class Chain(nn.Module):
    """The network of a case, with weights that keep values about as large as they are from layer to layer."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        layers = [case.layer() for _ in range(LAYERS)]
        self.layers = nn.ModuleList(layers)
        self.activation = nn.ReLU6() if case.op == "depthwise" else nn.ReLU()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for layer in layers:
                bound = (6 / layer.weight[0].numel()) ** 0.5
                layer.weight.uniform_(-bound, bound, generator=generator)
                # Positive: a narrow network of random signs would soon hold nothing but zeros.
                nn.init.uniform_(layer.get_parameter("bias"), 0.05, 0.5, generator)

    def forward(self, x: Tensor) -> Tensor:
        """``case.input_shape`` to ``case.output_shape``."""
        first, *others = self.layers
        if self.case.activates_input:
            x = torch.relu(x)
        y: Tensor = self.activation(first(x))
        for layer in others:
            y = self.activation(layer(y)) if self.case.is_chained else self.activation(layer(x) + y)
        return y


def random_input(case: Case) -> Tensor:
    """An input of a case, the same in every run."""
    return torch.rand(case.input_shape, generator=torch.Generator().manual_seed(1))


def onnx_model(chain: Chain) -> bytes:
    """The network as an ONNX file's content, with the same weights; torch's exporter would take seconds."""
    case = chain.case
    nodes = list(_nodes(case))
    arrays = {
        f"{role}{index}": getattr(layer, role)
        for index, layer in enumerate(chain.layers)
        for role in ("weight", "bias")
    }
    initializers = [numpy_helper.from_array(array.detach().numpy(), name) for name, array in arrays.items()]
    limits = {"low": 0.0, "high": 6.0} if case.op == "depthwise" else {}
    initializers += [helper.make_tensor(name, TensorProto.FLOAT, (), [value]) for name, value in limits.items()]
    value = functools.partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT)
    inputs, outputs = [value("input", shape=case.input_shape)], [value(nodes[-1].output[0], shape=case.output_shape)]
    graph = helper.make_graph(nodes, "chain", inputs, outputs, initializers)
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def _nodes(case: Case) -> Iterator[NodeProto]:
    """Operators in order."""
    shared = "input"
    if case.activates_input:
        yield helper.make_node("Relu", ["input"], ["shared"])
        shared = "shared"
    value = shared
    for index in range(LAYERS):
        source = value if case.is_chained else shared
        yield _layer_node(case, index, source)
        result = f"layer{index}"
        if index and not case.is_chained:
            yield helper.make_node("Add", [result, value], [f"sum{index}"])
            result = f"sum{index}"
        value = f"value{index}"
        if case.op == "depthwise":
            yield helper.make_node("Clip", [result, "low", "high"], [value])
        else:
            yield helper.make_node("Relu", [result], [value])


def _layer_node(case: Case, index: int, source: str) -> NodeProto:
    """One layer without its activation."""
    names = [source, f"weight{index}", f"bias{index}"]
    if case.op == "dense":
        return helper.make_node("Gemm", names, [f"layer{index}"], transB=1)
    return helper.make_node(
        "Conv",
        names,
        [f"layer{index}"],
        kernel_shape=[case.kernel] * 2,
        strides=[case.stride] * 2,
        pads=[case.kernel // 2] * 4,
        group=case.in_channels if case.op == "depthwise" else 1,
    )
