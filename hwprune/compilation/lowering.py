"""Fused layers and a module's own weights -> kernel calls: widths follow from the parameters' shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from hwprune.compilation import folding, movements
from hwprune.compilation.builder import PLAIN_INPUT, PLAIN_OUTPUT, PlanBuilder, check_channels, image_size
from hwprune.compilation.kernels import dense, depthwise, grouped, narrow, resample, transposed
from hwprune.compilation.kernels import sparse as sparse_kernels
from hwprune.compilation.kernels.conv import pad_vector
from hwprune.compilation.kernels.fallback import Fallback
from hwprune.compilation.kernels.kernel import Usage
from hwprune.compilation.kernels.sparse import Sparse
from hwprune.compilation.kernels.window import Window
from hwprune.compilation.layers import Layer
from hwprune.compilation.plan import FLOAT_BYTES, Call, Place, Plan, Value
from hwprune.compilation.regions import Region
from hwprune.compilation.targets import CpuTarget
from latency_models.shapes import LayerShape
from latency_models.stairs import Stair, few_layout


def lower(
    layers: Sequence[Layer],
    inputs: Sequence[tuple[str, tuple[int, ...]]],
    outputs: Sequence[str],
    module: nn.Module,
    target: CpuTarget,
    sparse: Sparse = "auto",
) -> Plan:
    """Plan of the layers with the weights of ``module``.

    Raises:
        CompileError: the module lacks a parameter, or its widths do not fit together.
        BakedSizesError: a region holds sizes of the traced network that the module's widths have changed.
    """
    builder = PlanBuilder(module, target, inputs, sparse, _convolved(layers) - set(outputs))
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
        layout=_source(build, layer, value),
    )
    if build.sparse != "never":
        mask = build.parameter(layer.parameters["weight"]).detach().cpu().numpy() != 0
        if sparse_kernels.is_chosen(shape, int(mask.sum()), build.target, build.sparse):
            _sparse_convolution(build, layer, shape, mask)
            return

    def pack(usage: Usage) -> list[np.ndarray]:
        return narrow.pack_weight(usage, *folding.weight_and_bias(layer, build.tensors))

    few = layer.output in build.convolved and narrow.can_be_few(shape, build.target)
    if few:
        build.few.add(layer.output)
        shape = replace(shape, layout=_joined(shape.layout, few_layout(build.target.lanes)))
    elif few_layout(build.target.lanes) in shape.layout:
        shape = replace(shape, layout=_joined(shape.layout, build.target.layout))
    blocked = not few or out_channels > Stair.of(build.target.lanes).few
    out = (value.shape[0], out_channels, *Window.of(shape).out)
    build.emit(layer, shape, [value], out, pack, blocked=blocked)


def _source(build: PlanBuilder, layer: Layer, value: Value) -> str:
    """Layout of what a convolution reads."""
    if layer.inputs[0] in build.few:
        return few_layout(build.target.lanes)
    return build.target.layout if value.blocked else PLAIN_INPUT


def _joined(source: str, result: str) -> str:
    """Layout of a layer that reads one and writes another."""
    return source if source == result else f"{source}-{result}"


def _convolved(layers: Sequence[Layer]) -> set[str]:
    """Values that convolutions without groups write and alone read, as what they convolve."""
    written = {layer.output for layer in layers if layer.op == "conv2d" and layer.residual is None}
    read = {layer.inputs[0] for layer in layers if layer.op == "conv2d"}
    others = {name for layer in layers for name in (layer.reads if layer.op != "conv2d" else layer.reads[1:])}
    return (written & read) - others


def _sparse_convolution(build: PlanBuilder, layer: Layer, shape: LayerShape, mask: np.ndarray) -> None:
    """A convolution with the weights of ``mask``, ``(out, in, K, K)``, alone."""
    value = build.blocked(layer.inputs[0])
    shape = replace(shape, op="conv2d_sparse", layout=build.target.layout, nonzeros=int(mask.sum()))

    def pack(usage: Usage) -> list[np.ndarray]:
        return sparse_kernels.pack_weight(usage, *folding.weight_and_bias(layer, build.tensors), mask)

    usage = sparse_kernels.specify(shape, build.target, mask)
    build.emit(layer, shape, [value], (value.shape[0], shape.out_channels, *Window.of(shape).out), pack, usage)


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


def _grouped(build: PlanBuilder, layer: Layer) -> None:
    value = build.blocked(layer.inputs[0])
    channels, height, width = image_size(value)
    out_channels, group_channels, *kernel = build.parameter_shape(layer, "weight")
    check_channels(layer, channels, channels // group_channels * group_channels)
    settings = layer.settings
    shape = LayerShape(
        "conv2d_grouped",
        channels,
        out_channels,
        height,
        width,
        (kernel[0], kernel[1]),
        settings["stride"],
        settings["padding"],
        settings["dilation"],
        group_channels,
        epilogue=layer.epilogue,
    )

    def pack(usage: Usage) -> list[np.ndarray]:
        return grouped.pack_weight(usage, *folding.weight_and_bias(layer, build.tensors))

    build.emit(layer, shape, [value], (value.shape[0], out_channels, *Window.of(shape).out), pack)


def _transposed(build: PlanBuilder, layer: Layer) -> None:
    value = build.blocked(layer.inputs[0])
    channels, height, width = image_size(value)
    in_channels, out_channels, *kernel = build.parameter_shape(layer, "weight")
    check_channels(layer, channels, in_channels)
    settings = layer.settings
    shape = LayerShape(
        "conv2d_transposed",
        channels,
        out_channels,
        height,
        width,
        (kernel[0], kernel[1]),
        settings["stride"],
        settings["padding"],
        epilogue=layer.epilogue,
        out_size=settings["out"],
    )

    def pack(usage: Usage) -> list[np.ndarray]:
        return transposed.pack_weight(usage, *folding.weight_and_bias(layer, build.tensors, out_axis=1))

    build.emit(layer, shape, [value], (value.shape[0], out_channels, *settings["out"]), pack)


def _dense_rows(build: PlanBuilder, layer: Layer) -> None:
    """A fully connected layer for every row: a convolution of one tap."""
    value = build.blocked(layer.inputs[0])
    channels, height, width = image_size(value)
    out_channels, in_channels = build.parameter_shape(layer, "weight")
    check_channels(layer, channels, in_channels)
    shape = LayerShape("conv2d", in_channels, out_channels, height, width, epilogue=layer.epilogue)

    def pack(usage: Usage) -> list[np.ndarray]:
        weight, bias = folding.weight_and_bias(layer, build.tensors)
        return narrow.pack_weight(usage, weight[:, :, None, None], bias)

    build.emit(layer, shape, [value], (*value.shape[:-1], out_channels), pack)


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


def _channel_numbers(build: PlanBuilder, layer: Layer) -> None:
    """Numbers of the channels that are parameters of their own: factors, offsets, slopes."""
    value = build.blocked(layer.inputs[0])
    channels, height, width = image_size(value)

    def pack(usage: Usage) -> list[np.ndarray]:
        roles = {"affine": ("scale", "shift"), "prelu": ("weight",), "layer_norm": ("weight", "bias")}[layer.op]
        neutral = {"scale": 1.0, "weight": 1.0}
        vectors = [_vector(build, layer, role, channels, neutral.get(role, 0.0)) for role in roles]
        if layer.op == "layer_norm":
            vectors.append(np.array([layer.settings["epsilon"]], np.float32))
        return [pad_vector(vector, size) for vector, size in zip(vectors, usage.parameters, strict=True)]

    shape = LayerShape(layer.op, channels, channels, height, width, epilogue=layer.epilogue)
    build.emit(layer, shape, [value], value.shape, pack)


def _vector(build: PlanBuilder, layer: Layer, role: str, channels: int, neutral: float) -> np.ndarray:
    """``(channels,)`` float32: a parameter, or ``neutral`` where the layer has none; a single number is all channels'.

    Raises:
        CompileError: the parameter is one of other channels.
    """
    if role not in layer.parameters:
        return np.full(channels, neutral, np.float32)
    vector = build.parameter(layer.parameters[role]).detach().cpu().numpy().reshape(-1)
    if len(vector) != 1:
        check_channels(layer, channels, len(vector))
    return np.broadcast_to(vector, (channels,))


def _elementwise(build: PlanBuilder, layer: Layer) -> None:
    values = [build.blocked(name) for name in layer.inputs]
    channels, height, width = image_size(values[0])
    for value in values[1:]:
        check_channels(layer, value.channels, channels)
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
        out_size=settings.get("out", (0, 0)),
    )
    build.emit(layer, shape, [value], (value.shape[0], channels, *settings.get("out", Window.of(shape).out)))


def _resample(build: PlanBuilder, layer: Layer) -> None:
    value = build.blocked(layer.inputs[0])
    channels, *size = image_size(value)
    mode, factors, out = (layer.settings[name] for name in ("mode", "factors", "out"))
    taps = [resample.taps_of(mode, *sizes) for sizes in zip(size, out, strict=True)]
    shape = LayerShape("resample", channels, channels, size[0], size[1], (taps[0], taps[1]), out_size=out)

    def pack(_: Usage) -> list[np.ndarray]:
        return [resample.table(mode, *sizes) for sizes in zip(size, out, factors, strict=True)]

    out_shape = (value.shape[0], channels, *out)
    if layer.settings.get("plain"):
        build.values[layer.output] = build.new_value(layer.output, out_shape, blocked=False)
        build.call(replace(shape, layout=PLAIN_OUTPUT), [value], build.values[layer.output], pack)
    else:
        build.emit(layer, shape, [value], out_shape, pack)


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
    "conv2d_grouped": _grouped,
    "conv2d_transposed": _transposed,
    "depthwise": _depthwise,
    "dense": _dense,
    "dense_rows": _dense_rows,
    "batch_norm": _batch_norm,
    **dict.fromkeys(("affine", "prelu", "layer_norm"), _channel_numbers),
    **dict.fromkeys(("activation", "add", "sub", "mul", "scale", "shift", "softmax"), _elementwise),
    "global_pool": _global_pool,
    **dict.fromkeys(("max_pool", "avg_pool", "avg_pool_unpadded"), _window_pool),
    "resample": _resample,
    "pad_shortcut": movements.pad_shortcut,
    "concat": movements.concat,
    "slice": movements.slice_,
    "shuffle": movements.shuffle,
    "border": movements.border,
    "flatten": movements.flatten,
    "to_rows": movements.to_rows,
    "to_images": movements.to_images,
    "identity": movements.identity,
    "fallback": _fallback,
}
