"""Moving pixels and channels: borders, slices and shuffles of channels, and rows of features to and from blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hwprune.compilation.kernels.kernel import Kernel, Usage, blocks_of
from hwprune.compilation.kernels.window import Pair
from hwprune.compilation.targets import CpuTarget
from latency_models.shapes import LayerShape


@dataclass(frozen=True)
class Border(Kernel):
    """Zeros around an image, or a part cut out of it: (blocks, H, W, lanes) -> (blocks, H', W', lanes).

    Attributes:
        size: height and width of the input.
        front: rows above and columns left of it; negative where they are cut off.
        out: height and width of the output.
    """

    size: Pair
    front: Pair
    out: Pair

    def build(self) -> dict[str, Any]:
        """One vector of channels a pixel."""
        from tvm import te, tirx

        from hwprune.compilation.kernels.tensor import ZERO, number, schedule_of

        (height, width), (top, left) = self.size, self.front
        blocks = number("blocks")
        x = te.placeholder((blocks, height, width, self.lanes), name="x")

        def value(c: Any, i: Any, j: Any, v: Any) -> Any:
            inside = tirx.all(i >= top, i < height + top, j >= left, j < width + left)
            return tirx.if_then_else(inside, x[c, i - top, j - left, v], ZERO)

        out = te.compute((blocks, *self.out, self.lanes), value, name="out")
        sch = schedule_of([blocks, x, out])
        sch.vectorize(sch.get_loops(sch.get_sblock("out"))[-1])
        return {self.symbol: sch.mod["main"]}


@dataclass(frozen=True)
class Pick(Kernel):
    """Other channels at each place: (blocks, pixels, lanes) -> (blocks', pixels, lanes).

    Attributes:
        shuffled: groups whose channels are interleaved (their first ones, then their second ones, ...); 1 for a run of
            channels from ``front`` on.
    """

    shuffled: int

    def build(self) -> dict[str, Any]:
        """Where a channel comes from is computed once for all of its pixels."""
        from tvm import te, tirx

        from hwprune.compilation.kernels.tensor import number, schedule_of

        lanes, groups = self.lanes, self.shuffled
        names = ("channels", "front", "in_blocks", "out_blocks", "pixels")
        channels, front, in_blocks, out_blocks, pixels = numbers = [number(name) for name in names]
        x = te.placeholder((in_blocks, pixels, lanes), name="x")

        def value(c: Any, p: Any, v: Any) -> Any:
            place = c * lanes + v
            if groups > 1:
                place = place % groups * tirx.floordiv(channels, groups) + place // groups
            source = tirx.min(place + front, channels - 1)
            return x[source // lanes, p, source % lanes]

        out = te.compute((out_blocks, pixels, lanes), value, name="out")
        sch = schedule_of([*numbers, x, out])
        sch.unroll(sch.get_loops(sch.get_sblock("out"))[-1])
        return {self.symbol: sch.mod["main"]}


@dataclass(frozen=True)
class PackRows(Kernel):
    """(pixels, C) -> (blocks, pixels, lanes), zeros behind the last channel."""

    def build(self) -> dict[str, Any]:
        """Runs of channels are read and written."""
        from tvm import te, tirx

        from hwprune.compilation.kernels.tensor import ZERO, number, schedule_of

        channels, blocks, pixels, lanes = number("channels"), number("blocks"), number("pixels"), self.lanes
        x = te.placeholder((pixels, channels), name="x")

        def value(c: Any, p: Any, v: Any) -> Any:
            return tirx.if_then_else(c * lanes + v < channels, x[p, c * lanes + v], ZERO)

        out = te.compute((blocks, pixels, lanes), value, name="out")
        return {self.symbol: schedule_of([channels, blocks, pixels, x, out]).mod["main"]}


@dataclass(frozen=True)
class UnpackRows(Kernel):
    """(blocks, pixels, lanes) -> (pixels, C)."""

    def build(self) -> dict[str, Any]:
        """Runs of channels are read and written."""
        from tvm import te

        from hwprune.compilation.kernels.tensor import number, schedule_of

        channels, blocks, pixels, lanes = number("channels"), number("blocks"), number("pixels"), self.lanes
        x = te.placeholder((blocks, pixels, lanes), name="x")
        out = te.compute((pixels, channels), lambda p, c: x[c // lanes, p, c % lanes], name="out")
        return {self.symbol: schedule_of([channels, blocks, pixels, x, out]).mod["main"]}


def specify(shape: LayerShape, target: CpuTarget, front: int | None = None) -> Usage:
    """Kernel, arguments and buffers of ``border``, ``slice``, ``shuffle``, ``pack_rows`` and ``unpack_rows``.

    Args:
        shape: the layer; a shuffle's groups are its window's height.
        target: what it is compiled for.
        front: channels before a slice; None: all that it leaves out.
    """
    lanes, pixels = target.lanes, shape.height * shape.width
    blocks, out_blocks = blocks_of(shape.in_channels, lanes), blocks_of(shape.out_channels, lanes)
    size = blocks * lanes * pixels
    if shape.op == "border":
        border = Border(lanes, (shape.height, shape.width), shape.padding, shape.out_size)
        return Usage(border, (blocks,), (size,), (blocks * lanes * shape.out_size[0] * shape.out_size[1],))
    if shape.op in ("slice", "shuffle"):
        front = shape.in_channels - shape.out_channels if front is None else front
        places = (shape.in_channels, front, blocks, out_blocks, pixels)
        return Usage(Pick(lanes, shape.kernel[0]), places, (size,), (out_blocks * lanes * pixels,))
    numbers, rows = (shape.in_channels, blocks, pixels), shape.in_channels * pixels
    if shape.op == "pack_rows":
        return Usage(PackRows(lanes), numbers, (rows,), (size,))
    return Usage(UnpackRows(lanes), numbers, (size,), (rows,))
