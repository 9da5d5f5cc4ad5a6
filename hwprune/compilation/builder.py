"""Builds a plan: values by name, conversions of layout where a layer needs them, one call at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from hwprune.compilation.kernels import specify
from hwprune.compilation.kernels.kernel import Usage, blocks_of
from hwprune.compilation.layers import Layer
from hwprune.compilation.plan import Call, Place, Plan, Value
from hwprune.compilation.targets import CpuTarget
from hwprune.errors import CompileError
from latency_models.shapes import LayerShape

Pack = Callable[[Usage], Sequence[np.ndarray]]

#: Layout of a layer that reads contiguous channels and writes blocks of them; completed by the target's.
PLAIN_INPUT = "nchw"


def pack_nothing(_: Usage) -> Sequence[np.ndarray]:
    """Parameters of a kernel that has none."""
    return ()


class PlanBuilder:
    """The plan so far, and the values that further layers can read.

    Attributes:
        module: whose weights are used.
        target: what is compiled for.
        plan: what has been built.
        values: by their names in the graph.
    """

    def __init__(self, module: nn.Module, target: CpuTarget, inputs: Sequence[tuple[str, tuple[int, ...]]]) -> None:
        self.module = module
        self.target = target
        self.plan = Plan(batch=inputs[0][1][0])
        self.values: dict[str, Value] = {}
        self.tensors: dict[str, Tensor] = {
            **dict(module.named_parameters(remove_duplicate=False)),
            **dict(module.named_buffers(remove_duplicate=False)),
        }
        self._converted: dict[tuple[str, bool], Value] = {}
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
                value = self._unpack(self.blocked(name), f"output {index}")
            outputs.append(value)
        self.plan.outputs = tuple(outputs)

    def parameter_shape(self, layer: Layer, role: str) -> tuple[int, ...]:
        """Shape of a layer's parameter in the module.

        Raises:
            CompileError: the module has no such parameter.
        """
        return tuple(self.parameter(layer.parameters[role]).shape)

    def parameter(self, name: str) -> Tensor:
        """A parameter or buffer of the module.

        Raises:
            CompileError: the module has none of this name.
        """
        if name not in self.tensors:
            raise CompileError(f"the module has no parameter {name!r}: give one with the traced network's names")
        return self.tensors[name]

    def new_value(self, storage: str, shape: tuple[int, ...], *, blocked: bool) -> Value:
        """A value in a storage of its own."""
        image = math.prod(shape[1:])
        if blocked:
            image = blocks_of(shape[1], self.target.lanes) * self.target.lanes * math.prod(shape[2:])
        self.plan.storages[storage] = image * (shape[0] if shape else 1)
        return Value(storage, shape, blocked, image)

    def blocked(self, name: str) -> Value:
        """The value with its channels in blocks; packed if need be, once."""
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
        """The value as torch has it; unpacked if need be, once."""
        value = self.values[name]
        if not value.blocked:
            return value
        if (name, False) not in self._converted:
            self._converted[name, False] = self._unpack(value, f"{name} unpacked")
        return self._converted[name, False]

    def _unpack(self, value: Value, storage: str) -> Value:
        channels, height, width = image_size(value)
        plain = self.new_value(storage, value.shape, blocked=False)
        self.call(LayerShape("unpack", channels, channels, height, width), [value], plain)
        return plain

    def emit(
        self, layer: Layer, shape: LayerShape, inputs: Sequence[Value], out: tuple[int, ...], pack: Pack = pack_nothing
    ) -> None:
        """Add the call of a layer whose output, in blocks, has shape ``out``; its residual is the last input."""
        if layer.residual is not None:
            inputs = [*inputs, self.blocked(layer.residual)]
            check_channels(layer, inputs[-1].shape[1], out[1])
        value = self.values[layer.output] = self.new_value(layer.output, out, blocked=True)
        self.call(shape, inputs, value, pack)

    def call(
        self,
        shape: LayerShape,
        inputs: Sequence[Value],
        output: Value,
        pack: Pack = pack_nothing,
        usage: Usage | None = None,
        offset_floats: int = 0,
    ) -> None:
        """Add a call; layout and batch of its shape are filled in.

        Args:
            shape: the layer.
            inputs: what it reads.
            output: what it writes.
            pack: its parameters.
            usage: its kernel and integers, where the shape alone does not tell.
            offset_floats: where it starts to write; the rest of the output stays and is read by it.
        """
        layout = f"{PLAIN_INPUT}-{self.target.layout}" if shape.layout == PLAIN_INPUT else self.target.layout
        shape = replace(shape, layout=layout, batch=self.plan.batch)
        usage = usage or specify(shape, self.target)
        reads = [Place(value.storage, value.image_floats) for value in inputs]
        place = Place(output.storage, output.image_floats, offset_floats)
        if len(reads) < len(usage.inputs):
            reads.append(place)
        self.plan.calls.append(Call(shape, lambda: usage, tuple(reads), (place,), pack))


def image_size(value: Value) -> tuple[int, int, int]:
    """Channels, height and width of one image; vectors are channels of one pixel.

    Raises:
        CompileError: the value has other dimensions.
    """
    if len(value.shape) not in (2, 4):
        raise CompileError(f"a value of shape {value.shape} has no channels: reshape it to 2 or 4 dimensions")
    channels, height, width = (*value.shape[1:], 1, 1)[:3]
    return channels, height, width


def check_channels(layer: Layer, channels: int, wanted: int) -> None:
    """Both sides of a layer must agree.

    Raises:
        CompileError: they do not.
    """
    if channels != wanted:
        raise CompileError(f"layer {layer.name!r} gets {channels} channels where it needs {wanted}: prune both alike")
