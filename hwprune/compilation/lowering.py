"""Fused layers and a module's own weights -> kernel calls: widths follow from the parameters' shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import nn

from hwprune.compilation import folding
from hwprune.compilation.builder import PLAIN_INPUT, PlanBuilder, check_channels, image_size
from hwprune.compilation.kernels import conv, dense, depthwise, layout
from hwprune.compilation.kernels.conv import Window, pad_vector
from hwprune.compilation.kernels.fallback import Fallback
from hwprune.compilation.kernels.kernel import Usage
from hwprune.compilation.layers import Layer
from hwprune.compilation.plan import FLOAT_BYTES, Call, Place, Plan, Value
from hwprune.compilation.regions import Region
from hwprune.compilation.targets import CpuTarget
from latency_models.shapes import LayerShape


def lower(
    layers: Sequence[Layer],
    inputs: Sequence[tuple[str, tuple[int, ...]]],
    outputs: Sequence[str],
    module: nn.Module,
    target: CpuTarget,
) -> Plan:
    """Plan of the layers with the weights of ``module``.

    Raises:
        CompileError: the module lacks a parameter, or its widths do not fit together.
        BakedSizesError: a region holds sizes of the traced network that the module's widths have changed.
    """
    builder = PlanBuilder(module, target, inputs)
    for layer in layers:
        OPERATORS[layer.op](builder, layer)
    builder.add_outputs(outputs)
    return builder.plan


def _convolution(build: PlanBuilder, layer: Layer) -> None:
    # Plain values (a network's input, what a fallback wrote) are read as they are.
    value = build.values[layer.inputs[0]]
    channels, height, width = image_size(value)
    out_channels, in_channels, *kernel = build.parameter_shape(layer, "weight")
    check_channels(layer, channels, in_channels)
    if (height, width) == (1, 1) and kernel == [1, 1] and layer.settings["padding"] == (0, 0):
        _matrix(build, layer, value, (out_channels, in_channels), (1, 1))
        return
    settings = layer.settings
    shape = LayerShape(
        "conv2d",
        in_channels,
        out_channels,
        height,
        width,
        (kernel[0], kernel[1]),
        settings["stride"],
        settings["padding"],
        settings["dilation"],
        epilogue=layer.epilogue,
        layout=build.target.layout if value.blocked else PLAIN_INPUT,
    )

    def pack(usage: Usage) -> list[np.ndarray]:
        return conv.pack_weight(usage, *folding.weight_and_bias(layer, build.tensors))

    build.emit(layer, shape, [value], (value.shape[0], out_channels, *Window.of(shape).out), pack)


def _depthwise(build: PlanBuilder, layer: Layer) -> None:
    value = build.blocked(layer.inputs[0])
    channels, height, width = image_size(value)
    out_channels, _, *kernel = build.parameter_shape(layer, "weight")
    check_channels(layer, channels, out_channels)
    settings = layer.settings
    shape = LayerShape(
        "depthwise",
        channels,
        channels,
        height,
        width,
        (kernel[0], kernel[1]),
        settings["stride"],
        settings["padding"],
        settings["dilation"],
        epilogue=layer.epilogue,
    )

    def pack(usage: Usage) -> list[np.ndarray]:
        return depthwise.pack_weight(usage, *folding.weight_and_bias(layer, build.tensors))

    build.emit(layer, shape, [value], (value.shape[0], channels, *Window.of(shape).out), pack)


def _dense(build: PlanBuilder, layer: Layer) -> None:
    value = build.values[layer.inputs[0]]
    rows, length = build.parameter_shape(layer, "weight")
    check_channels(layer, image_size(value)[0], length)
    _matrix(build, layer, value, (rows, length), ())


def _matrix(build: PlanBuilder, layer: Layer, value: Value, size: tuple[int, int], pixel: tuple[int, ...]) -> None:
    """A fully connected layer of (rows, length); ``pixel`` is what follows the channels in the output's shape."""

    def pack(usage: Usage) -> list[np.ndarray]:
        weight, bias = folding.weight_and_bias(layer, build.tensors)
        return dense.pack_weight(usage, weight.reshape(size), bias)

    shape = LayerShape("dense", size[1], size[0], 1, 1, epilogue=layer.epilogue)
    build.emit(layer, shape, [value], (value.shape[0], size[0], *pixel), pack)


def _batch_norm(build: PlanBuilder, layer: Layer) -> None:
    value = build.blocked(layer.inputs[0])
    channels, height, width = image_size(value)
    check_channels(layer, channels, *build.parameter_shape(layer, "bn_var"))

    def pack(usage: Usage) -> list[np.ndarray]:
        vectors = folding.affine(layer, build.tensors)
        return [pad_vector(vector, size) for vector, size in zip(vectors, usage.parameters, strict=True)]

    shape = LayerShape("affine", channels, channels, height, width, epilogue=layer.epilogue)
    build.emit(layer, shape, [value], value.shape, pack)


def _elementwise(build: PlanBuilder, layer: Layer) -> None:
    values = [build.blocked(name) for name in layer.inputs]
    channels, height, width = image_size(values[0])
    for value in values[1:]:
        check_channels(layer, value.shape[1], channels)
    shape = LayerShape(layer.op, channels, channels, height, width, epilogue=layer.epilogue)
    build.emit(layer, shape, values, values[0].shape)


def _global_pool(build: PlanBuilder, layer: Layer) -> None:
    value = build.blocked(layer.inputs[0])
    channels, height, width = image_size(value)
    shape = LayerShape("global_pool", channels, channels, height, width)
    build.emit(layer, shape, [value], (value.shape[0], channels, *[1] * layer.settings["kept"]))


def _window_pool(build: PlanBuilder, layer: Layer) -> None:
    value = build.blocked(layer.inputs[0])
    channels, height, width = image_size(value)
    settings = layer.settings
    shape = LayerShape(
        layer.op,
        channels,
        channels,
        height,
        width,
        settings["kernel"],
        settings["stride"],
        settings["padding"],
        settings["dilation"],
    )
    build.emit(layer, shape, [value], (value.shape[0], channels, *Window.of(shape).out))


def _pad_shortcut(build: PlanBuilder, layer: Layer) -> None:
    value = build.blocked(layer.inputs[0])
    channels, height, width = image_size(value)
    shortcut = build.module.get_submodule(layer.name)
    stride, front, back = (int(getattr(shortcut, name)) for name in ("stride", "front", "back"))
    if (stride, front, back) == (1, 0, 0):
        build.values[layer.output] = value
        return
    out_channels = channels + front + back
    shape = LayerShape("pad_shortcut", channels, out_channels, height, width, stride=(stride, stride))
    out = (value.shape[0], out_channels, -(-height // stride), -(-width // stride))
    build.values[layer.output] = build.new_value(layer.output, out, blocked=True)
    build.call(shape, [value], build.values[layer.output], usage=layout.specify(shape, build.target, front))


def _concat(build: PlanBuilder, layer: Layer) -> None:
    """A call a part: each writes its channels behind those of the parts before it."""
    values = [build.blocked(name) for name in layer.inputs]
    total = sum(value.shape[1] for value in values)
    _, height, width = image_size(values[0])
    out_shape = (values[0].shape[0], total, *values[0].shape[2:])
    out = build.values[layer.output] = build.new_value(layer.output, out_shape, blocked=True)
    lanes, front = build.target.lanes, 0
    for value in values:
        shape = LayerShape("concat", value.shape[1], total, height, width)
        offset = front // lanes * lanes * height * width
        usage = layout.specify(shape, build.target, front)
        build.call(shape, [value], out, usage=usage, offset_floats=offset)
        front += value.shape[1]


def _flatten(build: PlanBuilder, layer: Layer) -> None:
    """A view: nothing is called, unless channels have to leave their blocks first."""
    value = build.values[layer.inputs[0]]
    first, last, kept = (layer.settings[name] for name in ("first", "last", "kept"))
    is_vector = first == 1 and math.prod(value.shape[1:]) == value.shape[1]
    if value.blocked and not is_vector:
        value = build.plain(layer.inputs[0])
    joined = math.prod(value.shape[first : last + 1])
    shape = (*value.shape[:first], joined, *value.shape[last + 1 :], *[1] * kept)
    build.values[layer.output] = Value(value.storage, shape, value.blocked, value.image_floats)


def _identity(build: PlanBuilder, layer: Layer) -> None:
    build.values[layer.output] = build.values[layer.inputs[0]]


def _fallback(build: PlanBuilder, layer: Layer) -> None:
    region: Region = layer.settings["region"]
    tensors = [*map(build.parameter, region.parameters.values()), *region.constants.values()]
    reads = [build.plain(name) for name in layer.inputs]
    shapes = [value.shape for value in reads]
    for name, shape in zip(region.outputs, region.output_shapes(shapes, tensors), strict=True):
        build.values[name] = build.new_value(name, shape, blocked=False)
    writes = [build.values[name] for name in region.outputs]
    lanes = build.target.lanes

    def specify() -> Usage:
        from hwprune.compilation.relax_import import import_region  # imports TVM: only when a fallback is there

        program = import_region(region, shapes, tensors, build.target)
        workspace = program.workspace()[1] // FLOAT_BYTES
        sizes = (*(tensor.nbytes for tensor in tensors), *(array.nbytes for array in program.constants.values()))
        return Usage(
            Fallback.of(program, lanes),
            (),
            inputs=tuple(map(math.prod, shapes)),
            outputs=tuple(program.sizes[name] // FLOAT_BYTES for name in program.outputs),
            parameters=tuple(-(-size // FLOAT_BYTES) for size in sizes),
            scratch=(workspace,) if workspace else (),
            whole_batch=True,
        )

    def pack(usage: Usage) -> list[np.ndarray]:
        assert isinstance(usage.kernel, Fallback)
        arrays = [tensor.detach().cpu().numpy() for tensor in tensors]
        return [_as_floats(array) for array in (*arrays, *usage.kernel.program.constants.values())]

    places = [tuple(Place(value.storage, 0) for value in values) for values in (reads, writes)]
    build.plan.calls.append(Call(_fallback_shape(region, reads, writes), specify, places[0], places[1], pack))


def _fallback_shape(region: Region, reads: Sequence[Value], writes: Sequence[Value]) -> LayerShape:
    """Shape of a region, as far as that says anything: of its first input and output."""
    image, out = (reads or writes)[0].shape, writes[0].shape
    batch, channels, height, width = (*image[:3], math.prod(image[3:])) if len(image) > 2 else (*image, 1, 1, 1, 1)[:4]
    op = f"fallback:{'+'.join(region.operators)}"
    return LayerShape(op, channels, (*out, 1, 1)[1], height, width, layout=PLAIN_INPUT, batch=batch)


def _as_floats(array: np.ndarray) -> np.ndarray:
    """The bytes of an array of any type as float32 values, zeros at the end."""
    data = np.ascontiguousarray(array).tobytes()
    return np.frombuffer(data + bytes(-len(data) % FLOAT_BYTES), np.float32)


OPERATORS: dict[str, Callable[[PlanBuilder, Layer], None]] = {
    "conv2d": _convolution,
    "depthwise": _depthwise,
    "dense": _dense,
    "batch_norm": _batch_norm,
    **dict.fromkeys(("activation", "add", "mul", "scale"), _elementwise),
    "global_pool": _global_pool,
    **dict.fromkeys(("max_pool", "avg_pool"), _window_pool),
    "pad_shortcut": _pad_shortcut,
    "concat": _concat,
    "flatten": _flatten,
    "identity": _identity,
    "fallback": _fallback,
}
