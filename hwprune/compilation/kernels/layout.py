"""Moving channels: between NCHW and blocks, into a concatenation, and through zero-padding shortcuts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hwprune.compilation.kernels.kernel import Kernel, Usage, blocks_of, divided
from hwprune.compilation.targets import CpuTarget
from latency_models.shapes import LayerShape

#: Pixels of a block that are unpacked together: 4 KiB with the longest vectors.
PIXELS_A_RUN = 64


@dataclass(frozen=True)
class Pack(Kernel):
    """(C, pixels) -> (blocks, pixels, lanes), zeros behind the last channel.

    Attributes:
        pixels: of one channel.
    """

    pixels: int

    def build(self) -> dict[str, Any]:
        """Reads along the pixels, writes whole vectors."""
        from tvm import te, tirx

        from hwprune.compilation.kernels.tensor import ZERO, number, schedule_of

        channels, lanes = number("channels"), self.lanes
        x = te.placeholder((channels, self.pixels), name="x")

        def value(c: Any, p: Any, v: Any) -> Any:
            channel = c * lanes + v
            return tirx.if_then_else(channel < channels, x[channel, p], ZERO)

        shape = (tirx.floordiv(channels + (lanes - 1), lanes), self.pixels, lanes)
        sch = schedule_of([channels, x, te.compute(shape, value, name="out")])
        return {self.symbol: sch.mod["main"]}


@dataclass(frozen=True)
class Unpack(Kernel):
    """(blocks, pixels, lanes) -> (C, pixels).

    Attributes:
        pixels: of one channel.
    """

    pixels: int

    def build(self) -> dict[str, Any]:
        """Writes along the pixels, few enough of them at a time for all lanes to find them in the nearest cache."""
        from tvm import te, tirx

        from hwprune.compilation.kernels.tensor import number, schedule_of

        channels, lanes = number("channels"), self.lanes
        x = te.placeholder((tirx.floordiv(channels + (lanes - 1), lanes), self.pixels, lanes), name="x")
        out = te.compute((channels, self.pixels), lambda c, p: x[c // lanes, p, c % lanes], name="out")
        sch = schedule_of([channels, x, out])
        c, p = sch.get_loops(sch.get_sblock("out"))
        p_out, p_in = sch.split(p, [None, min(self.pixels, PIXELS_A_RUN)])
        sch.reorder(p_out, c, p_in)
        return {self.symbol: sch.mod["main"]}


@dataclass(frozen=True)
class Shift(Kernel):
    """Every ``stride``-th pixel of channels, moved behind ``front`` others: (blocks, H, W, lanes).

    Attributes:
        size: height and width of the input.
        stride: vertical and horizontal step.
        keep: whether the channels in front keep what the output holds (a concatenation); else all others become zero.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    keep: bool

    def build(self) -> dict[str, Any]:
        """One vector of output channels a pixel."""
        from tvm import te, tirx

        from hwprune.compilation.kernels.tensor import ZERO, number, schedule_of

        lanes, (height, width), (step_y, step_x) = self.lanes, self.size, self.stride
        channels, front, out_blocks = number("channels"), number("front"), number("out_blocks")
        shape = (out_blocks, -(-height // step_y), -(-width // step_x), lanes)
        x = te.placeholder((tirx.floordiv(channels + (lanes - 1), lanes), height, width, lanes), name="x")
        old = te.placeholder(shape, name="old")

        def value(c: Any, i: Any, j: Any, v: Any) -> Any:
            channel = c * lanes + v - front
            inside = tirx.all(channel >= 0, channel < channels)
            source = tirx.max(channel, 0)  # so that the divisions below are shifts
            moved = x[source // lanes, i * step_y, j * step_x, source % lanes]
            return tirx.if_then_else(inside, moved, old[c, i, j, v] if self.keep else ZERO)

        out = te.compute(shape, value, name="out")
        sch = schedule_of([channels, front, out_blocks, x, *([old] if self.keep else []), out])
        return {self.symbol: sch.mod["main"]}


def specify(shape: LayerShape, target: CpuTarget, front: int | None = None) -> Usage:
    """Kernel, arguments and buffers of ``pack``, ``unpack``, ``pad_shortcut`` and ``concat``.

    Args:
        shape: the layer.
        target: what it is compiled for.
        front: channels in front of a shortcut's or a concatenation's part; None: half of the others, or all of them.
    """
    lanes, pixels = target.lanes, shape.height * shape.width
    blocks = blocks_of(shape.in_channels, lanes)
    plain, packed = shape.in_channels * pixels, blocks * lanes * pixels
    if shape.op in ("pack", "unpack"):
        numbers = (shape.in_channels,)
        usage = Usage(Pack(lanes, pixels), numbers, (plain,), (packed,))
        if shape.op == "unpack":
            usage = Usage(Unpack(lanes, pixels), numbers, (packed,), (plain,))

        def channels(first: int, count: int) -> tuple[int, ...]:
            return (max(0, min(count * lanes, shape.in_channels - first * lanes)),)

        return divided(usage, target.threads, blocks, channels, [lanes * pixels] * 2)
    others = shape.out_channels - shape.in_channels
    size = (shape.height, shape.width)
    if shape.op == "concat":
        # The output starts at the block of the first channel; blocks before it are other parts'.
        shift = (others if front is None else front) % lanes
        out_blocks = blocks_of(shape.in_channels + shift, lanes)
        out = out_blocks * lanes * pixels
        usage = Usage(Shift(lanes, size, (1, 1), True), (shape.in_channels, shift, out_blocks), (packed, out), (out,))
    else:
        out_blocks = blocks_of(shape.out_channels, lanes)
        out = out_blocks * lanes * -(-shape.height // shape.stride[0]) * -(-shape.width // shape.stride[1])
        places = (shape.in_channels, others // 2 if front is None else front, out_blocks)
        usage = Usage(Shift(lanes, size, shape.stride, False), places, (packed,), (out,))

    def moved(first: int, count: int) -> tuple[int, ...]:
        return shape.in_channels, usage.numbers[1] - first * lanes, count

    # All read from the start of the input; which of its channels a thread moves follows from those in front of it.
    return divided(usage, target.threads, out_blocks, moved, [0, *[out // out_blocks] * (len(usage.sizes) - 1)])
