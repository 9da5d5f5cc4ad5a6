"""Fused layers and a module's own weights -> kernel calls: widths follow from the parameters' shapes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from hwprune.compilation import folding
from hwprune.compilation.kernels import conv, dense, depthwise, layout, specify
from hwprune.compilation.kernels.conv import Window
from hwprune.compilation.kernels.fallback import Fallback
from hwprune.compilation.kernels.kernel import Usage, blocks_of
from hwprune.compilation.layers import Layer
from hwprune.compilation.plan import FLOAT_BYTES, Call, Place, Plan, Value
from hwprune.compilation.regions import Region
from hwprune.compilation.targets import CpuTarget
from hwprune.errors import CompileError
from latency_models.shapes import LayerShape

Pack = Callable[[Usage], Sequence[np.ndarray]]


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
    """
    lowering = Lowering(module, target, batch=inputs[0][1][0])
    lowering.add_inputs(inputs)
    for layer in layers:
        try:
            OPERATORS[layer.op](lowering, layer)
        except KeyError as error:
            raise CompileError(f"the module has no {error} for layer {layer.name!r}: use one with the traced names") from error
    lowering.add_outputs(outputs)
    return lowering.plan


class Lowering:
    """The plan so far, and the values that further layers can read."""

    def __init__(self, module: nn.Module, target: CpuTarget, batch: int) -> None:
        self.module = module
        self.target = target
        self.plan = Plan(batch)
        self.values: dict[str, Value] = {}
        self.tensors: dict[str, Tensor] = {
            **dict(module.named_parameters(remove_duplicate=False)),
            **dict(module.named_buffers(remove_duplicate=False)),
        }
        self._converted: dict[tuple[str, bool], Value] = {}

    def add_inputs(self, inputs: Sequence[tuple[str, tuple[int, ...]]]) -> None:
        """Values that the caller hands in."""
        for name, shape in inputs:
            self.values[name] = self.new_value(f"input {name}", shape, blocked=False)
        self.plan.inputs = tuple(self.values.values())

    def add_outputs(self, names: Sequence[str]) -> None:
        """Values that the caller gets: unpacked into its memory, or written there at once where they are plain."""
        outputs: list[Value] = []
        for index, name in enumerate(names):
            value = self.values[name]
            taken = {other.storage for other in (*self.plan.inputs, *outputs)}
            if value.blocked or value.storage in taken:
                value = self.unpack(self.blocked(name), f"output {index}")
            outputs.append(value)
        self.plan.outputs = tuple(outputs)

    def new_value(self, storage: str, shape: tuple[int, ...], blocked: bool) -> Value:
        """A value in a storage of its own."""
        image = math.prod(shape[1:])
        if blocked:
            image = blocks_of(shape[1], self.target.lanes) * self.target.lanes * math.prod(shape[2:])
        self.plan.storages[storage] = image * shape[0]
        return Value(storage, shape, blocked, image)

    def blocked(self, name: str) -> Value:
        """The value with its channels in blocks, packed if need be (once)."""
        value = self.values[name]
        if value.blocked:
            return value
        if (name, True) not in self._converted:
            channels, height, width = image_size(value)
            packed = self.new_value(f"{name} packed", value.shape, blocked=True)
            self.call(LayerShape("pack", channels, channels, height, width), [value], packed)
            self._converted[name, True] = packed
        return self._converted[name, True]

    def plain(self, name: str) -> Value:
        """The value as torch has it, unpacked if need be (once)."""
        value = self.values[name]
        if not value.blocked:
            return value
        if (name, False) not in self._converted:
            self._converted[name, False] = self.unpack(value, f"{name} unpacked")
        return self._converted[name, False]

    def unpack(self, value: Value, storage: str) -> Value:
        """A plain copy of a blocked value."""
        channels, height, width = image_size(value)
        plain = self.new_value(storage, value.shape, blocked=False)
        self.call(LayerShape("unpack", channels, channels, height, width), [value], plain)
        return plain

    def call(
        self,
        shape: LayerShape,
        inputs: Sequence[Value],
        output: Value,
        pack: Pack = lambda _: (),
        usage: Usage | None = None,
        offset_floats: int = 0,
    ) -> None:
        """Add a call; its layout and batch are filled in."""
        layout_name = self.target.layout if shape.layout != "nchw" else f"nchw-{self.target.layout}"
        shape = with_layout(shape, layout_name, self.plan.batch)
        places = tuple(Place(value.storage, value.image_floats) for value in inputs)
        place = Place(output.storage, output.image_floats, offset_floats)
        if shape.op == "concat":
            places = (*places, place)
        self.plan.calls.append(
            Call(shape, lambda: usage or specify(shape, self.target), places, (place,), pack)
        )

    def emit(self, layer: Layer, shape: LayerShape, inputs: Sequence[Value], out: tuple[int, ...], pack: Pack = lambda _: ()) -> None:
        """Add the call of a layer whose blocked output has shape ``out``."""
        value = self.values[layer.output] = self.new_value(layer.output, out, blocked=True)
        self.call(shape, inputs, value, pack)


def with_layout(shape: LayerShape, name: str, batch: int) -> LayerShape:
    """The shape in a layout, for a batch."""
    from dataclasses import replace

    return replace(shape, layout=name, batch=batch)


def image_size(value: Value) -> tuple[int, int, int]:
    """Channels, height and width of one image; vectors are channels of one pixel."""
    channels, *size = value.shape[1:]
    if len(size) > 2:
        raise CompileError(f"a value of shape {value.shape} cannot be put in blocks of channels")
    height, width = (*size, 1, 1)[:2]
    return channels, height, width


def check(layer: Layer, channels: int, wanted: int) -> None:
    """Raise CompileError unless a layer gets as many channels as its weights want."""
    if channels != wanted:
        raise CompileError(f"layer {layer.name!r} gets {channels} channels, its weights want {wanted}: prune both alike")


def _convolution(low: Lowering, layer: Layer) -> None:
    value = low.values[layer.inputs[0]]
    channels, height, width = image_size(value)
    out_channels, in_channels, *kernel = low.tensors[layer.parameters["weight"]].shape
    check(layer, channels, in_channels)
    if height == width == 1 and kernel == [1, 1] and layer.settings["padding"] == (0, 0):
        _matrix(low, layer, value, in_channels, out_channels, (1, 1))
        return
    # Plain values (a network's input, what a fallback wrote) are read as they are.
    shape = LayerShape(
        "conv2d",
        in_channels,
        out_channels,
        height,
        width,
        (kernel[0], kernel[1]),
        layer.settings["stride"],
        layer.settings["padding"],
        layer.settings["dilation"],
        epilogue=layer.epilogue,
        layout="nchw16c" if value.blocked else "nchw",
    )
    inputs = [value] if layer.residual is None else [value, low.blocked(layer.residual)]
    weights = folding.weight_and_bias
    pack = lambda usage: conv.pack_weight(usage, *weights(layer, low.tensors))  # noqa: E731
    low.emit(layer, shape, inputs, (value.shape[0], out_channels, *Window.of(shape).out), pack)


def _depthwise(low: Lowering, layer: Layer) -> None:
    value = low.blocked(layer.inputs[0])
    channels, height, width = image_size(value)
    out_channels, _, *kernel = low.tensors[layer.parameters["weight"]].shape
    check(layer, channels, out_channels)
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
    inputs = [value] if layer.residual is None else [value, low.blocked(layer.residual)]
    pack = lambda usage: depthwise.pack_weight(usage, *folding.weight_and_bias(layer, low.tensors))  # noqa: E731
    low.emit(layer, shape, inputs, (value.shape[0], channels, *Window.of(shape).out), pack)


def _dense(low: Lowering, layer: Layer) -> None:
    value = low.values[layer.inputs[0]]
    out_features, in_features = low.tensors[layer.parameters["weight"]].shape
    check(layer, image_size(value)[0], in_features)
    _matrix(low, layer, value, in_features, out_features, ())


def _matrix(low: Lowering, layer: Layer, value: Value, length: int, rows: int, size: tuple[int, ...]) -> None:
    """A fully connected layer; ``size`` is what follows the channels in the output's shape."""

    def pack(usage: Usage) -> list[np.ndarray]:
        weight, bias = folding.weight_and_bias(layer, low.tensors)
        return dense.pack_weight(usage, weight.reshape(rows, length), bias)

    inputs = [value] if layer.residual is None else [value, low.blocked(layer.residual)]
    shape = LayerShape("dense", length, rows, 1, 1, epilogue=layer.epilogue)
    low.emit(layer, shape, inputs, (value.shape[0], rows, *size), pack)


def _batch_norm(low: Lowering, layer: Layer) -> None:
    value = low.blocked(layer.inputs[0])
    channels, height, width = image_size(value)
    check(layer, channels, len(low.tensors[layer.parameters["bn_var"]]))

    def pack(usage: Usage) -> list[np.ndarray]:
        return [conv.pad_vector(vector, size) for vector, size in zip(folding.affine(layer, low.tensors), usage.parameters, strict=True)]

    low.emit(layer, LayerShape("affine", channels, channels, height, width, epilogue=layer.epilogue), [value], value.shape, pack)


def _elementwise(low: Lowering, layer: Layer) -> None:
    values = [low.blocked(name) for name in layer.inputs]
    channels, height, width = image_size(values[0])
    for value in values[1:]:
        check(layer, image_size(value)[0], channels)
    low.emit(layer, LayerShape(layer.op, channels, channels, height, width, epilogue=layer.epilogue), values, values[0].shape)


def _pool(low: Lowering, layer: Layer) -> None:
    value = low.blocked(layer.inputs[0])
    channels, height, width = image_size(value)
    if layer.op == "global_pool":
        shape = LayerShape("global_pool", channels, channels, height, width)
        low.emit(layer, shape, [value], (*value.shape[:2], *[1] * layer.settings["kept"]))
        return
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
    low.emit(layer, shape, [value], (*value.shape[:2], *Window.of(shape).out))


def _pad_shortcut(low: Lowering, layer: Layer) -> None:
    value = low.blocked(layer.inputs[0])
    channels, height, width = image_size(value)
    shortcut = low.module.get_submodule(layer.name)
    stride, front, back = (int(getattr(shortcut, name)) for name in ("stride", "front", "back"))
    if (stride, front, back) == (1, 0, 0):
        low.values[layer.output] = value
        return
    shape = LayerShape("pad_shortcut", channels, channels + front + back, height, width, stride=(stride, stride))
    out = low.values[layer.output] = low.new_value(
        layer.output, (value.shape[0], shape.out_channels, -(-height // stride), -(-width // stride)), blocked=True
    )
    low.call(shape, [value], out, usage=layout.specify(shape, low.target, front))


def _concat(low: Lowering, layer: Layer) -> None:
    values = [low.blocked(name) for name in layer.inputs]
    total = sum(value.shape[1] for value in values)
    _, height, width = image_size(values[0])
    out = low.values[layer.output] = low.new_value(layer.output, (values[0].shape[0], total, *values[0].shape[2:]), blocked=True)
    lanes, front = low.target.lanes, 0
    for value in values:
        shape = LayerShape("concat", value.shape[1], total, height, width)
        block_floats = front // lanes * lanes * height * width
        low.call(shape, [value], out, usage=layout.specify(shape, low.target, front), offset_floats=block_floats)
        front += value.shape[1]


def _flatten(low: Lowering, layer: Layer) -> None:
    """A view: nothing is called, unless channels have to leave their blocks first."""
    value = low.values[layer.inputs[0]]
    first, last, kept = (layer.settings[name] for name in ("first", "last", "kept"))
    joined = math.prod(value.shape[first : last + 1])
    is_vector = first == 1 and math.prod(value.shape[1:]) == value.shape[1]
    if value.blocked and not is_vector:
        value = low.plain(layer.inputs[0])
    shape = (*value.shape[:first], joined, *value.shape[last + 1 :], *[1] * kept)
    low.values[layer.output] = Value(value.storage, shape, value.blocked, value.image_floats)


def _identity(low: Lowering, layer: Layer) -> None:
    low.values[layer.output] = low.values[layer.inputs[0]]


def _fallback(low: Lowering, layer: Layer) -> None:
    region: Region = layer.settings["region"]
    values = [low.plain(name) for name in layer.inputs]
    shapes = [value.shape for value in values]
    outs = []
    for name, shape in zip(region.outputs, region.output_shapes(shapes, low.tensors), strict=True):
        low.values[name] = low.new_value(name, shape, blocked=False)
        outs.append(low.values[name])
    image = values[0].shape if values else outs[0].shape
    _, channels, height, width = (*image, 1, 1, 1)[:4] if len(image) <= 4 else (*image[:3], math.prod(image[3:]))
    out_channels = (*outs[0].shape, 1)[1]
    shape = LayerShape(
        f"fallback:{'+'.join(region.operators)}", channels, out_channels, height, width, layout="nchw", batch=low.plan.batch
    )

    def pack(usage: Usage) -> list[np.ndarray]:
        assert isinstance(usage.kernel, Fallback)
        arrays = [tensor.detach().cpu().numpy() for tensor in region.tensors(low.tensors)]
        return [_as_floats(array) for array in (*arrays, *usage.kernel.program.constants.values())]

    low.plan.calls.append(
        Call(
            shape,
            lambda: _fallback_usage(region, shapes, low),
            tuple(Place(value.storage, 0) for value in values),
            tuple(Place(value.storage, 0) for value in outs),
            pack,
        )
    )


def _fallback_usage(region: Region, shapes: list[tuple[int, ...]], low: Lowering) -> Usage:
    """Use of a region's kernel, which is lowered for that."""
    from hwprune.compilation.relax_import import import_region

    program = import_region(region, shapes, low.tensors, low.target)
    workspace = program.workspace()[1] // FLOAT_BYTES
    sizes = (tensor.nbytes for tensor in region.tensors(low.tensors))
    constants = (array.nbytes for array in program.constants.values())
    return Usage(
        Fallback.of(program, low.target.lanes),
        (),
        inputs=tuple(map(math.prod, shapes)),
        outputs=tuple(program.sizes[name] // FLOAT_BYTES for name in program.outputs),
        parameters=tuple(-(-size // FLOAT_BYTES) for size in (*sizes, *constants)),
        scratch=(workspace,) if workspace else (),
        whole_batch=True,
    )


def _as_floats(array: np.ndarray) -> np.ndarray:
    """The bytes of an array of any type as float32 values, zeros at the end."""
    data = np.ascontiguousarray(array).tobytes()
    return np.frombuffer(data + bytes(-len(data) % FLOAT_BYTES), np.float32)


OPERATORS: dict[str, Callable[[Lowering, Layer], None]] = {
    "conv2d": _convolution,
    "depthwise": _depthwise,
    "dense": _dense,
    "batch_norm": _batch_norm,
    **dict.fromkeys(("activation", "add", "mul", "scale"), _elementwise),
    **dict.fromkeys(("global_pool", "max_pool", "avg_pool"), _pool),
    "pad_shortcut": _pad_shortcut,
    "concat": _concat,
    "flatten": _flatten,
    "identity": _identity,
    "fallback": _fallback,
}
