"""An ONNX file: its inputs at fixed shapes, and its network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError

from hwprune.errors import ConfigError
from hwprune.models.inputs import ModelInput, Shape, fixed_shape

#: Names of ONNX's types of numbers, as torch has them.
_TYPES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.DOUBLE: "float64",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.BOOL: "bool",
}


def load(path: Path) -> onnx.ModelProto:
    """The model, with weights that lie in files beside it, and without functions of its own.

    Raises:
        ConfigError: it is no ONNX file, or its weights are missing.
    """
    try:
        model = onnx.load(path)
        if not model.graph.node:
            raise ConfigError(f"{path} is an ONNX file without operators: name another one")
        return onnx.inliner.inline_local_functions(model) if model.functions else model
    except (DecodeError, onnx.checker.ValidationError, FileNotFoundError, ValueError) as error:
        line = " ".join(str(error).split())
        raise ConfigError(f"{path} cannot be read as ONNX ({line}): export it again") from error


def inputs_of(model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> tuple[ModelInput, ...]:
    """What the network takes, at the shapes of the file or those that are given.

    Args:
        model: the file's.
        shapes: of inputs, by name; for other inputs those of the file.

    Raises:
        ConfigError: a shape is not known, or does not fit.
    """
    known = {each.name for each in model.graph.initializer}
    found = []
    for each in model.graph.input:
        if each.name in known:
            continue
        if not each.type.HasField("tensor_type"):
            raise ConfigError(f"input {each.name!r} is no tensor: wrap the network so that it is")
        tensor = each.type.tensor_type
        sizes = [size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim]
        shape = fixed_shape(each.name, sizes if tensor.HasField("shape") else None, shapes.get(each.name))
        dtype = _TYPES.get(tensor.elem_type)
        if dtype is None:
            name = onnx.TensorProto.DataType.Name(tensor.elem_type)
            raise ConfigError(f"input {each.name!r} has numbers of type {name}: wrap the network in other ones")
        found.append(ModelInput(each.name, dtype, shape))
    if not found:
        raise ConfigError("the network has no input: there is nothing to measure")
    return tuple(found)


def fix_inputs(model: onnx.ModelProto, inputs: tuple[ModelInput, ...]) -> bytes:
    """The model as bytes, taking its inputs at these shapes alone."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    by_name = {each.name: each for each in fixed.graph.input}
    for wanted in inputs:
        dims = by_name[wanted.name].type.tensor_type.shape.dim
        del dims[:]
        for size in wanted.shape:
            dims.add().dim_value = size
    content: bytes = fixed.SerializeToString(deterministic=True)
    return content
