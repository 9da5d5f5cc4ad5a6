"""Pooling over windows and over whole images, on channels in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hwprune.compilation.kernels.kernel import Kernel, Usage, blocks_of, divided_by_blocks
from hwprune.compilation.kernels.window import Pair, Window
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
    """Maximum or mean over a moving window, which may hang over the padded image at its end.

    Attributes:
        mode: ``max``, ``avg`` (the mean counts the padding) or ``avg_unpadded`` (it doesn't).
        window: how it moves.
        out: height and width of the result.
    """

    mode: str
    window: Window
    out: Pair

    def build(self) -> dict[str, Any]:
        """One vector of channels is reduced in a register; the padding is never stored."""
        from tvm import te, tirx

        from hwprune.compilation.kernels.tensor import ZERO, const, number, schedule_of

        window = self.window
        (height, width), (pad_y, pad_x) = window.size, window.padding
        blocks = number("blocks")
        x = te.placeholder((blocks, height, width, self.lanes), name="x")
        ry = te.reduce_axis((0, window.kernel[0]), "ry")
        rx = te.reduce_axis((0, window.kernel[1]), "rx")
        maximum = self.mode == "max"
        is_clipped = window.is_padded or self.out != window.out
        outside = const(-3.402823e38) if maximum else ZERO

        def reduce(c: Any, i: Any, j: Any, v: Any) -> Any:
            y = i * window.stride[0] + ry * window.dilation[0] - pad_y
            z = j * window.stride[1] + rx * window.dilation[1] - pad_x
            value = x[c, y, z, v]
            if is_clipped:
                inside = tirx.all(y >= 0, y < height, z >= 0, z < width)
                value = tirx.if_then_else(inside, value, outside)
            return (te.max if maximum else te.sum)(value, axis=[ry, rx])

        def finish(c: Any, i: Any, j: Any, v: Any) -> Any:
            return total[c, i, j, v] if maximum else total[c, i, j, v] * self._share(i, j)

        shape = (blocks, *self.out, self.lanes)
        total = te.compute(shape, reduce, name="total")
        out = te.compute(shape, finish, name="out")
        sch = schedule_of([blocks, x, out])
        reduce_in_register(sch, "total", unroll=window.kernel[0] * window.kernel[1] <= 9)
        return {self.symbol: sch.mod["main"]}

    def _share(self, i: Any, j: Any) -> Any:
        """What each element of a window contributes to its mean: one by the elements that count."""
        from tvm import tirx

        from hwprune.compilation.kernels.tensor import const

        window = self.window
        if self.mode == "avg" and self.out == window.out:
            return const(1 / (window.kernel[0] * window.kernel[1]))
        counts = []
        for axis, index in enumerate((i, j)):
            rim = window.padding[axis] if self.mode == "avg" else 0
            begin = index * window.stride[axis] - window.padding[axis]
            end = tirx.min(begin + window.kernel[axis], window.size[axis] + rim)
            counts.append(end - tirx.max(begin, -rim))
        return const(1.0) / (counts[0] * counts[1]).astype("float32")


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
    """Kernel, arguments and buffers of ``global_pool``, ``max_pool``, ``avg_pool`` and ``avg_pool_unpadded``."""
    lanes, pixels = target.lanes, shape.height * shape.width
    blocks = blocks_of(shape.in_channels, lanes)
    if shape.op == "global_pool":
        usage = Usage(GlobalPool(lanes, pixels), (blocks,), (blocks * lanes * pixels,), (blocks * lanes,))
        return divided_by_blocks(usage, target.threads)
    window = Window.of(shape)
    size = shape.out_size if any(shape.out_size) else window.out
    kernel = WindowPool(lanes, shape.op.replace("_pool", ""), window, size)
    usage = Usage(kernel, (blocks,), (blocks * lanes * pixels,), (blocks * lanes * size[0] * size[1],))
    return divided_by_blocks(usage, target.threads)
