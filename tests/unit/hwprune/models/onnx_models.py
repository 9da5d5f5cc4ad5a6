"""Small ONNX models, written down operator by operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 18

Array = np.ndarray[Any, np.dtype[Any]]


def numbers(*shape: int, seed: int = 0, positive: bool = False) -> Array:
    """Normal random numbers, or ones between 0.5 and 1.5."""
    generator = np.random.default_rng(seed)
    values = generator.uniform(0.5, 1.5, shape) if positive else generator.normal(size=shape)
    return values.astype(np.float32)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """``node("Add", "x b", "y")``; a dot stands for an input that is left out."""
    names = ["" if name == "." else name for name in inputs.split()]
    results = outputs.split()
    return helper.make_node(op, names, results, name=f"{op.lower()}_of_{results[0]}", **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str | None]],
    outputs: Sequence[str] = ("y",),
    weights: Mapping[str, Array] | None = None,
    opset: int = OPSET,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model of float32 inputs; sizes that are texts or None are free."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def two_inputs() -> onnx.ModelProto:
    """Two images of different channels, one resized, one by a transposed convolution, joined and classified."""
    weights = {
        "w1": numbers(16, 3, 3, 3) / 5,
        "w2": numbers(4, 8, 2, 2, seed=1) / 2,
        "b2": numbers(8, seed=2),
        "w3": numbers(24, 5, seed=3) / 5,
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    nodes = [
        node("Conv", "image w1", "a", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", "a", "b"),
        node("Resize", "b . scales", "c", mode="linear", coordinate_transformation_mode="half_pixel"),
        node("ConvTranspose", "depth w2 b2", "d", strides=[2, 2]),
        node("Concat", "c d", "e", axis=1),
        node("GlobalAveragePool", "e", "f"),
        node("Flatten", "f", "g"),
        node("Gemm", "g w3", "y"),
    ]
    return model(nodes, {"image": (1, 3, 16, 16), "depth": (1, 4, 8, 8)}, weights=weights)


def save(content: onnx.ModelProto, path: Path) -> Path:
    """Write a model to a file."""
    onnx.save(content, path)
    return path
