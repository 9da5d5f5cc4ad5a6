"""Convolution without groups, fused with bias, residual and activation, on channels in blocks."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwprune.compilation.kernels.kernel import Kernel, Usage, blocks_of, split_epilogue
from hwprune.compilation.targets import CpuTarget
from latency_models.shapes import LayerShape

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """How a window moves over an image: height and width of everything.

    Attributes:
        size: of the image.
        kernel: taps.
        stride: step.
        padding: rows and columns added on each side.
        dilation: distance of the taps.
    """

    size: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair = (1, 1)

    @classmethod
    def of(cls, shape: LayerShape) -> Window:
        """Window of a layer."""
        return cls((shape.height, shape.width), shape.kernel, shape.stride, shape.padding, shape.dilation)

    @property
    def padded(self) -> Pair:
        """Size of the padded image."""
        return self.size[0] + 2 * self.padding[0], self.size[1] + 2 * self.padding[1]

    @property
    def out(self) -> Pair:
        """Size of the result."""
        height, width = (
            (size - dilation * (taps - 1) - 1) // stride + 1
            for size, dilation, taps, stride in zip(self.padded, self.dilation, self.kernel, self.stride, strict=True)
        )
        return height, width

    @property
    def is_padded(self) -> bool:
        """Whether there is any padding."""
        return any(self.padding)


@functools.cache
def tile(group: int, height: int, width: int, accumulators: int) -> tuple[tuple[bool, float], Pair]:
    """Tile of rows and columns with the fewest loads a multiply-add that fits the registers.

    Returns:
        Its cost (too few independent sums to hide a multiply-add's latency; loads a multiply-add), and (rows, columns).
    """
    best: tuple[tuple[bool, float], Pair] | None = None
    for columns in (n for n in range(1, width + 1) if width % n == 0):
        for rows in (n for n in (1, 2, 4, 7, 8) if height % n == 0 and (n == 1 or columns == width)):
            count = group * columns * rows
            cost = (count < 8, (group + columns * rows) / count)
            if count <= accumulators and (best is None or cost < best[0]):
                best = cost, (rows, columns)
    assert best is not None  # one column of one row always fits
    return best


@functools.cache
def pick_group(blocks: int, height: int, width: int, accumulators: int) -> int:
    """Output blocks computed together; a divisor, so that a group is never partly empty."""
    return min((n for n in (1, 2, 3, 4) if blocks % n == 0), key=lambda n: tile(n, height, width, accumulators)[0])


@dataclass(frozen=True)
class Conv(Kernel):
    """Convolution of any number of channels.

    Attributes:
        group: output blocks computed together.
        tile: rows and columns of a register tile.
        window: how the window moves.
        add: whether a residual is added.
        activation: applied last.
        plain: whether the input is NCHW (a network's input with its few channels) instead of blocked.
    """

    group: int
    tile: Pair
    window: Window
    add: bool
    activation: str
    plain: bool

    def build(self) -> dict[str, Any]:
        """Weights are (groups, in channels, K, K, group, lanes): with a group's blocks apart it runs 1.5 x slower."""
        from tvm import te, tirx

        from hwprune.compilation.kernels.tensor import ZERO, activate, number, schedule_of

        lanes, group, window = self.lanes, self.group, self.window
        (height, width), (pad_y, pad_x), (out_height, out_width) = window.size, window.padding, window.out
        # The blocks are an argument too: TVM could not prove that those of a quotient hold all channels.
        in_channels, in_blocks, groups = number("in_channels"), number("in_blocks"), number("groups")
        shape = (groups * group, out_height, out_width, lanes)
        x = te.placeholder((in_channels, height, width) if self.plain else (in_blocks, height, width, lanes), name="x")
        w = te.placeholder((groups, in_channels, *window.kernel, group, lanes), name="w")
        b = te.placeholder((groups * group, lanes), name="b")
        r = te.placeholder(shape, name="r")

        def padded(c: Any, y: Any, z: Any, *v: Any) -> Any:
            inside = tirx.all(y >= pad_y, y < height + pad_y, z >= pad_x, z < width + pad_x)
            return tirx.if_then_else(inside, x[(c, y - pad_y, z - pad_x, *v)], ZERO)

        padded_shape = (x.shape[0], *window.padded, *([] if self.plain else [lanes]))
        source = te.compute(padded_shape, padded, name="pad") if window.is_padded else x
        rc = te.reduce_axis((0, in_channels), "rc")
        ry = te.reduce_axis((0, window.kernel[0]), "ry")
        rx = te.reduce_axis((0, window.kernel[1]), "rx")

        def product(c: Any, i: Any, j: Any, v: Any) -> Any:
            y, z = i * window.stride[0] + ry * window.dilation[0], j * window.stride[1] + rx * window.dilation[1]
            value = source[rc, y, z] if self.plain else source[rc // lanes, y, z, rc % lanes]
            return te.sum(value * w[c // group, rc, ry, rx, c % group, v], axis=[rc, ry, rx])

        conv = te.compute(shape, product, name="conv")

        def finish(c: Any, i: Any, j: Any, v: Any) -> Any:
            value = conv[c, i, j, v] + b[c, v]
            return activate(value + r[c, i, j, v] if self.add else value, self.activation)

        out = te.compute(shape, finish, name="out")
        residual, scratch = [r] if self.add else [], [source] if window.is_padded else []
        sch = schedule_of([in_channels, in_blocks, groups, x, *residual, w, b, out, *scratch])
        self._schedule(sch)
        return {self.symbol: sch.mod["main"]}

    def _schedule(self, sch: Any) -> None:
        """Keep a tile of (group, rows, columns) vectors in registers over the whole reduction."""
        conv, out = sch.get_sblock("conv"), sch.get_sblock("out")
        c, y, x, v = sch.get_loops(out)
        c_out, c_in = sch.split(c, [None, self.group])
        y_out, y_in = sch.split(y, [None, self.tile[0]])
        x_out, x_in = sch.split(x, [None, self.tile[1]])
        sch.reorder(c_out, y_out, x_out, c_in, y_in, x_in, v)
        # Unit loops have to stay: without them the loop numbers below are those of the image.
        sch.compute_at(conv, x_out, preserve_unit_loops=True)
        sch.set_scope(conv, 0, "local")
        loops = sch.get_loops(conv)
        sch.reorder(*loops[-3:], *loops[3:-3])
        loops = sch.get_loops(conv)
        sch.vectorize(loops[-1])
        for loop in loops[6:-1]:
            sch.unroll(loop)
        sch.decompose_reduction(conv, loops[3])
        for block in (out, sch.get_sblock("conv_init")):
            loops = sch.get_loops(block)
            sch.vectorize(loops[-1])
            for loop in loops[3:-1]:
                sch.unroll(loop)
        if self.window.is_padded and not self.plain:
            sch.vectorize(sch.get_loops(sch.get_sblock("pad"))[-1])


def specify(shape: LayerShape, target: CpuTarget) -> Usage:
    """Kernel, arguments and buffers of a convolution."""
    lanes, window, plain = target.lanes, Window.of(shape), shape.layout != target.layout
    if window.kernel == (1, 1) and window.stride == (1, 1) and not window.is_padded:
        # The same memory seen as one long row tiles better.
        window = Window((1, shape.height * shape.width), (1, 1), (1, 1), (0, 0))
    in_blocks, out_blocks = blocks_of(shape.in_channels, lanes), blocks_of(shape.out_channels, lanes)
    (height, width), accumulators = window.out, target.accumulators
    group = pick_group(out_blocks, height, width, accumulators)
    add, activation = split_epilogue(shape.epilogue)
    kernel = Conv(lanes, group, tile(group, height, width, accumulators)[1], window, add, activation, plain)
    channels = shape.in_channels if plain else in_blocks * lanes
    out = out_blocks * lanes * height * width
    return Usage(
        kernel,
        (shape.in_channels, in_blocks, out_blocks // group),
        inputs=(channels * shape.height * shape.width, *([out] if add else [])),
        outputs=(out,),
        parameters=(out_blocks * lanes * shape.in_channels * window.kernel[0] * window.kernel[1], out_blocks * lanes),
        scratch=(channels * window.padded[0] * window.padded[1],) if window.is_padded else (),
        in_place=1 if add else None,
    )


def pack_weight(usage: Usage, weight: np.ndarray, bias: np.ndarray) -> list[np.ndarray]:
    """``(out, in, K, K)`` -> (groups, in, K, K, group, lanes), and the bias to whole blocks; float32."""
    kernel = usage.kernel
    assert isinstance(kernel, Conv)
    groups, group, lanes = usage.numbers[2], kernel.group, kernel.lanes
    out_channels, in_channels, *taps = weight.shape
    packed = np.zeros((groups * group * lanes, in_channels, *taps), np.float32)
    packed[:out_channels] = weight
    packed = packed.reshape(groups, group, lanes, in_channels, *taps).transpose(0, 3, 4, 5, 1, 2)
    return [packed, pad_vector(bias, groups * group * lanes)]


def pad_vector(vector: np.ndarray, length: int) -> np.ndarray:
    """The vector with zeros behind it, float32."""
    padded = np.zeros(length, np.float32)
    padded[: len(vector)] = vector
    return padded
