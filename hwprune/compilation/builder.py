"""Builds a plan: values by name, conversions of layout where a layer needs them, one call at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from hwprune.compilation.kernels import specify
from hwprune.compilation.kernels.kernel import Usage, blocks_of
from hwprune.compilation.kernels.sparse import Sparse
from hwprune.compilation.layers import Layer
from hwprune.compilation.plan import Call, Place, Plan, Value
from hwprune.compilation.targets import CpuTarget
from hwprune.errors import CompileError
from latency_models.shapes import LayerShape
from latency_models.stairs import few_layout

Pack = Callable[[Usage], Sequence[np.ndarray]]

#: Layout of a layer that reads contiguous channels and writes blocks of them; completed by the target's.
PLAIN_INPUT = "nchw"

#: Layout of a layer that reads blocks of channels and writes contiguous ones; completed by the target's.
PLAIN_OUTPUT = "-nchw"


def pack_nothing(_: Usage) -> Sequence[np.ndarray]:
    """Parameters of a kernel that has none."""
    return ()


class PlanBuilder:
    """The plan so far, and the values that further layers can read.

    Attributes:
        module: whose weights are used.
        target: what is compiled for.
        sparse: which convolutions leave out weights that are zero.
        convolved: values that convolutions alone read.
        few: those of them that have their channels in planes where they are few.
        plan: what has been built.
        values: by their names in the graph.
    """

    def __init__(
        self,
        module: nn.Module,
        target: CpuTarget,
        inputs: Sequence[tuple[str, tuple[int, ...]]],
        sparse: Sparse = "auto",
        convolved: Collection[str] = (),
    ) -> None:
        self.module = module
        self.target = target
        self.sparse = sparse
        self.convolved = convolved
        self.few: set[str] = set()
        self.plan = Plan(batch=inputs[0][1][0], threads=target.threads)
        self.values: dict[str, Value] = {}
        self.tensors: dict[str, Tensor] = {
            **dict(module.named_parameters(remove_duplicate=False)),
            **dict(module.named_buffers(remove_duplicate=False)),
        }
        self._converted: dict[tuple[str, bool], Value] = {}
        self._parts: dict[str, tuple[str, ...]] = {}  # of each concatenation, by its name
        self._contents: dict[str, tuple[str, ...]] = {}  # of each storage that holds several parts
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
        if self.plan.batch > 1:
            self._spread_images()

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

    def new_value(self, storage: str, shape: tuple[int, ...], *, blocked: bool, channels_last: bool = False) -> Value:
        """A value in a storage of its own."""
        value = Value(storage, shape, blocked, channels_last or len(shape) == 3)
        self.plan.storages[storage] = self._floats(value)
        return value

    def _floats(self, value: Value) -> int:
        """Float32 values of the whole batch, with the channels that fill the last block."""
        size = math.prod(value.shape)
        return size // value.channels * self._whole_blocks(value.channels) if value.blocked and size else size

    def _whole_blocks(self, channels: int) -> int:
        return blocks_of(channels, self.target.lanes) * self.target.lanes

    def parts_of(self, names: Sequence[str]) -> tuple[str, ...]:
        """The values that a concatenation of ``names`` consists of: concatenations in front of it are taken apart."""
        return (*self._parts.get(names[0], names[:1]), *names[1:])

    def joined(self, name: str, parts: tuple[str, ...], shape: tuple[int, ...]) -> tuple[Value, int]:
        """The value of a concatenation, and how many of its parts lie where they belong.

        Args:
            name: of the value.
            parts: names of its parts.
            shape: its shape.
        """
        first = self.blocked(parts[0])
        held = self._contents.get(first.storage)
        if held is None and first.storage in (parts[0], f"{parts[0]} packed"):
            held = parts[:1]  # no other value lies there
        if held is None or held != parts[: len(held)]:
            held = () if held is None or parts != held[: len(parts)] else held
        value = Value(first.storage, shape, True) if held else self.new_value(name, shape, blocked=True)
        if len(held) < len(parts):
            self._contents[value.storage] = parts
            self.plan.storages[value.storage] = self._floats(value)
        self._parts[name] = parts
        self.values[name] = value
        return value, min(len(held), len(parts))

    def _spread_images(self) -> None:
        """Write the distance of images into all calls, now that no storage grows any more."""
        for call in self.plan.calls:
            call.inputs, call.outputs = (
                tuple(replace(place, stride_floats=self._stride(place.storage)) for place in places)
                for places in (call.inputs, call.outputs)
            )

    def _stride(self, storage: str) -> int:
        """Float32 values from one image to the next."""
        return self.plan.storages[storage] // self.plan.batch

    def blocked(self, name: str) -> Value:
        """The value with its channels in blocks; packed if need be, once."""
        value = self.values[name]
        if value.blocked:
            return value
        if (name, True) not in self._converted:
            channels, height, width = image_size(value)
            packed = self.new_value(f"{name} packed", value.shape, blocked=True)
            op = "pack_rows" if packed.channels_last else "pack"
            self.call(LayerShape(op, channels, channels, height, width), [value], packed)
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
        plain = self.new_value(storage, value.shape, blocked=False, channels_last=value.channels_last)
        op = "unpack_rows" if value.channels_last else "unpack"
        self.call(LayerShape(op, channels, channels, height, width), [value], plain)
        return plain

    def emit(
        self,
        layer: Layer,
        shape: LayerShape,
        inputs: Sequence[Value],
        out: tuple[int, ...],
        pack: Pack = pack_nothing,
        usage: Usage | None = None,
        *,
        blocked: bool = True,
    ) -> None:
        """Add the call of a layer whose output has shape ``out``; its residual is the last input."""
        if layer.residual is not None:
            inputs = [*inputs, self.blocked(layer.residual)]
            check_channels(layer, inputs[-1].channels, out[-1 if inputs[0].channels_last else 1])
        value = self.new_value(layer.output, out, blocked=blocked, channels_last=inputs[0].channels_last)
        self.values[layer.output] = value
        self.call(shape, inputs, value, pack, usage)

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
        blocked = self.target.layout
        layout = {PLAIN_INPUT: f"{PLAIN_INPUT}-{blocked}", PLAIN_OUTPUT: f"{blocked}{PLAIN_OUTPUT}"}
        if few_layout(self.target.lanes) not in shape.layout:
            shape = replace(shape, layout=layout.get(shape.layout, blocked))
        shape = replace(shape, batch=self.plan.batch)
        usage = usage or specify(shape, self.target)
        reads = [Place(value.storage, self._stride(value.storage)) for value in inputs]
        place = Place(output.storage, self._stride(output.storage), offset_floats)
        if len(reads) < len(usage.inputs):
            reads.append(place)
        self.plan.calls.append(Call(shape, lambda: usage, tuple(reads), (place,), pack))


def image_size(value: Value) -> tuple[int, int, int]:
    """Channels, height and width of one image; vectors are channels of one pixel, rows those of a line of pixels.

    Raises:
        CompileError: the value has other dimensions.
    """
    if value.channels_last and len(value.shape) in (3, 4):
        return value.channels, math.prod(value.shape[1:-2]), value.shape[-2]
    if len(value.shape) not in (2, 4):
        raise CompileError(f"a value of shape {value.shape} has no channels: reshape it to 2, 3 or 4 dimensions")
    channels, height, width = (*value.shape[1:], 1, 1)[:3]
    return channels, height, width


def check_channels(layer: Layer, channels: int, wanted: int) -> None:
    """Both sides of a layer must agree.

    Raises:
        CompileError: they do not.
    """
    if channels != wanted:
        raise CompileError(f"layer {layer.name!r} gets {channels} channels where it needs {wanted}: prune both alike")
