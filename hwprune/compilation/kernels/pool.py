"""Pooling over windows and over whole images, on channels in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hwprune.compilation.kernels.conv import Window
from hwprune.compilation.kernels.kernel import Kernel, Usage, blocks_of
from hwprune.compilation.targets import CpuTarget
from latency_models.shapes import LayerShape


@dataclass(frozen=True)
class GlobalPool(Kernel):
    """Mean over all pixels: (blocks, pixels, lanes) -> (blocks, lanes).

    Attributes:
        pixels: of one channel.
    """

    pixels: int

    def build(self) -> dict[str, Any]:
        """One vector of channels is summed in a register."""
        from tvm import te

        from hwprune.compilation.kernels.tensor import const, number, schedule_of

        blocks = number("blocks")
        x = te.placeholder((blocks, self.pixels, self.lanes), name="x")
        p = te.reduce_axis((0, self.pixels), "p")
        total = te.compute((blocks, self.lanes), lambda c, v: te.sum(x[c, p, v], axis=[p]), name="total")
        out = te.compute((blocks, self.lanes), lambda c, v: total[c, v] * const(1 / self.pixels), name="out")
        sch = schedule_of([blocks, x, out])
        reduce_in_register(sch, "total", unroll=False)
        return {self.symbol: sch.mod["main"]}


@dataclass(frozen=True)
class WindowPool(Kernel):
    """Maximum or mean over a moving window; the mean counts the padding.

    Attributes:
        mode: ``max`` or ``avg``.
        window: how it moves.
    """

    mode: str
    window: Window

    def build(self) -> dict[str, Any]:
        """One vector of channels is reduced in a register; the padding is never stored."""
        from tvm import te, tirx

        from hwprune.compilation.kernels.tensor import const, number, schedule_of

        window = self.window
        (height, width), (pad_y, pad_x) = window.size, window.padding
        blocks = number("blocks")
        x = te.placeholder((blocks, height, width, self.lanes), name="x")
        ry = te.reduce_axis((0, window.kernel[0]), "ry")
        rx = te.reduce_axis((0, window.kernel[1]), "rx")
        maximum = self.mode == "max"
        outside = const(-3.402823e38 if maximum else 0.0)

        def reduce(c: Any, i: Any, j: Any, v: Any) -> Any:
            y = i * window.stride[0] + ry * window.dilation[0] - pad_y
            z = j * window.stride[1] + rx * window.dilation[1] - pad_x
            value = x[c, y, z, v]
            if window.is_padded:
                inside = tirx.all(y >= 0, y < height, z >= 0, z < width)
                value = tirx.if_then_else(inside, value, outside)
            return (te.max if maximum else te.sum)(value, axis=[ry, rx])

        shape = (blocks, *window.out, self.lanes)
        total = te.compute(shape, reduce, name="total")
        scale = const(1.0 if maximum else 1 / (window.kernel[0] * window.kernel[1]))
        out = te.compute(shape, lambda *i: total[i] if maximum else total[i] * scale, name="out")
        sch = schedule_of([blocks, x, out])
        reduce_in_register(sch, "total", unroll=window.kernel[0] * window.kernel[1] <= 9)
        return {self.symbol: sch.mod["main"]}


def reduce_in_register(sch: Any, name: str, unroll: bool) -> None:
    """Compute block ``name`` beside its use in ``out``, one vector at a time."""
    block, out = sch.get_sblock(name), sch.get_sblock("out")
    *outer, _ = sch.get_loops(out)
    sch.compute_at(block, outer[-1], preserve_unit_loops=True)
    sch.set_scope(block, 0, "local")
    loops = sch.get_loops(block)[len(outer) :]
    vectors = [loop for loop in loops[: len(outer) + 1]]
    reductions = loops[len(outer) + 1 :]
    sch.reorder(*reductions, *vectors)
    sch.vectorize(vectors[-1])
    if unroll:
        for loop in reductions:
            sch.unroll(loop)
    sch.decompose_reduction(block, reductions[0])
    sch.vectorize(sch.get_loops(sch.get_sblock(f"{name}_init"))[-1])
    sch.vectorize(sch.get_loops(out)[-1])


def specify(shape: LayerShape, target: CpuTarget) -> Usage:
    """Kernel, arguments and buffers of ``global_pool``, ``max_pool`` and ``avg_pool``."""
    lanes, pixels = target.lanes, shape.height * shape.width
    blocks = blocks_of(shape.in_channels, lanes)
    if shape.op == "global_pool":
        return Usage(GlobalPool(lanes, pixels), (blocks,), (blocks * lanes * pixels,), (blocks * lanes,))
    window = Window.of(shape)
    out = blocks * lanes * window.out[0] * window.out[1]
    kernel = WindowPool(lanes, shape.op.removesuffix("_pool"), window)
    return Usage(kernel, (blocks,), (blocks * lanes * pixels,), (out,))
