"""Depthwise convolution, fused with bias, residual and activation, on channels in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hwprune.compilation.kernels.conv import Pair, Window, pad_vector, tile
from hwprune.compilation.kernels.kernel import Kernel, Usage, blocks_of, split_epilogue
from hwprune.compilation.targets import CpuTarget
from latency_models.shapes import LayerShape


@dataclass(frozen=True)
class Depthwise(Kernel):
    """One filter a channel, any number of channels.

    Attributes:
        tile: rows and columns of a register tile.
        window: how the window moves.
        add: whether a residual is added.
        activation: applied last.
    """

    tile: Pair
    window: Window
    add: bool
    activation: str

    def build(self) -> dict[str, Any]:
        """Lanes are channels, so there is nothing to broadcast; weights are (blocks, K, K, lanes).

        Only one block is padded at a time, so that the scratch stays in the nearest cache.
        """
        from tvm import te, tirx

        from hwprune.compilation.kernels.tensor import ZERO, activate, number, schedule_of

        lanes, window = self.lanes, self.window
        (height, width), (pad_y, pad_x) = window.size, window.padding
        blocks = number("blocks")
        shape = (blocks, *window.out, lanes)
        x = te.placeholder((blocks, height, width, lanes), name="x")
        w = te.placeholder((blocks, *window.kernel, lanes), name="w")
        b = te.placeholder((blocks, lanes), name="b")
        r = te.placeholder(shape, name="r")

        def padded(c: Any, y: Any, z: Any, v: Any) -> Any:
            inside = tirx.all(y >= pad_y, y < height + pad_y, z >= pad_x, z < width + pad_x)
            return tirx.if_then_else(inside, x[c, y - pad_y, z - pad_x, v], ZERO)

        source = te.compute((blocks, *window.padded, lanes), padded, name="pad") if window.is_padded else x
        ry = te.reduce_axis((0, window.kernel[0]), "ry")
        rx = te.reduce_axis((0, window.kernel[1]), "rx")

        def product(c: Any, i: Any, j: Any, v: Any) -> Any:
            y, z = i * window.stride[0] + ry * window.dilation[0], j * window.stride[1] + rx * window.dilation[1]
            return te.sum(source[c, y, z, v] * w[c, ry, rx, v], axis=[ry, rx])

        conv = te.compute(shape, product, name="conv")

        def finish(c: Any, i: Any, j: Any, v: Any) -> Any:
            value = conv[c, i, j, v] + b[c, v]
            return activate(value + r[c, i, j, v] if self.add else value, self.activation)

        out = te.compute(shape, finish, name="out")
        residual, scratch = [r] if self.add else [], [source] if window.is_padded else []
        sch = schedule_of([blocks, x, *residual, w, b, out, *scratch])
        self._schedule(sch)
        return {self.symbol: sch.mod["main"]}

    def _schedule(self, sch: Any) -> None:
        """Keep a tile of (rows, columns) vectors in registers over the window."""
        conv, out = sch.get_sblock("conv"), sch.get_sblock("out")
        _, y, x, v = sch.get_loops(out)
        y_out, y_in = sch.split(y, [None, self.tile[0]])
        x_out, x_in = sch.split(x, [None, self.tile[1]])
        sch.reorder(y_out, x_out, y_in, x_in, v)
        sch.compute_at(conv, x_out, preserve_unit_loops=True)
        sch.set_scope(conv, 0, "local")
        loops = sch.get_loops(conv)
        sch.reorder(*loops[-2:], *loops[3:-2])
        loops = sch.get_loops(conv)
        sch.vectorize(loops[-1])
        for loop in loops[4:-1]:
            sch.unroll(loop)
        sch.decompose_reduction(conv, loops[3])
        for block in (out, sch.get_sblock("conv_init")):
            loops = sch.get_loops(block)
            sch.vectorize(loops[-1])
            for loop in loops[3:-1]:
                sch.unroll(loop)
        if self.window.is_padded:
            pad = sch.get_sblock("pad")
            sch.vectorize(sch.get_loops(pad)[-1])


def specify(shape: LayerShape, target: CpuTarget) -> Usage:
    """Kernel, arguments and buffers of a depthwise convolution."""
    lanes, window = target.lanes, Window.of(shape)
    blocks = blocks_of(shape.out_channels, lanes)
    height, width = window.out
    add, activation = split_epilogue(shape.epilogue)
    kernel = Depthwise(lanes, tile(1, height, width, target.accumulators)[1], window, add, activation)
    out = blocks * lanes * height * width
    return Usage(
        kernel,
        (blocks,),
        inputs=(blocks * lanes * shape.height * shape.width, *([out] if add else [])),
        outputs=(out,),
        parameters=(blocks * lanes * window.kernel[0] * window.kernel[1], blocks * lanes),
        scratch=(blocks * lanes * window.padded[0] * window.padded[1],) if window.is_padded else (),
        in_place=1 if add else None,
    )


def pack_weight(usage: Usage, weight: np.ndarray, bias: np.ndarray) -> list[np.ndarray]:
    """``(C, 1, K, K)`` -> (blocks, K, K, lanes), and the bias to whole blocks; float32."""
    blocks, lanes = usage.numbers[0], usage.kernel.lanes
    channels, _, *taps = weight.shape
    packed = np.zeros((blocks * lanes, *taps), np.float32)
    packed[:channels] = weight[:, 0]
    return [packed.reshape(blocks, lanes, *taps).transpose(0, 2, 3, 1), pad_vector(bias, blocks * lanes)]
