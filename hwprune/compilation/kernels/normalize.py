"""Each pixel's channels among themselves: softmax and normalisation over channels, on channels in blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hwprune.compilation.kernels.kernel import Kernel, Usage, blocks_of, split_epilogue
from hwprune.compilation.targets import CpuTarget
from latency_models.shapes import LayerShape


@dataclass(frozen=True)
class Softmax(Kernel):
    """Exponentials of every pixel's channels, divided by their sum: (blocks, pixels, lanes)."""

    def build(self) -> dict[str, Any]:
        """A pixel at a time; exponentials are computed twice, which is cheaper than to store them."""
        from tvm import te

        from hwprune.compilation.kernels.tensor import const, exp, schedule_of

        pixels = _Pixels(self.lanes)
        largest = pixels.reduce("largest", te.max, pixels.x, const(-3.402823e38))
        total = pixels.reduce("total", te.sum, lambda c, p, v: exp(pixels.x[c, p, v] - largest[p]), const(0.0))
        factor = te.compute((pixels.count,), lambda p: const(1.0) / total[p], name="factor")
        out = te.compute(pixels.shape, lambda c, p, v: exp(pixels.x[c, p, v] - largest[p]) * factor[p], name="out")
        sch = schedule_of([*pixels.numbers, pixels.x, out])
        pixels.schedule(sch, ("largest", "total"), ("factor",))
        return {self.symbol: sch.mod["main"]}


@dataclass(frozen=True)
class LayerNorm(Kernel):
    """Every pixel's channels with mean 0 and variance 1, then scale and shift by channel: (blocks, pixels, lanes).

    Attributes:
        activation: applied last.
    """

    activation: str

    def build(self) -> dict[str, Any]:
        """A pixel at a time; the variance is that of the differences, lest large means drown it."""
        from tvm import te, tirx

        from hwprune.compilation.kernels.tensor import activate, const, schedule_of

        pixels = _Pixels(self.lanes)
        x, count = pixels.x, pixels.channels.astype("float32")
        s = te.placeholder((pixels.blocks, self.lanes), name="s")
        b = te.placeholder((pixels.blocks, self.lanes), name="b")
        epsilon = te.placeholder((1,), name="epsilon")
        total = pixels.reduce("total", te.sum, x, const(0.0))
        mean = te.compute((pixels.count,), lambda p: total[p] / count, name="mean")

        def square(c: Any, p: Any, v: Any) -> Any:
            return (x[c, p, v] - mean[p]) * (x[c, p, v] - mean[p])

        squares = pixels.reduce("squares", te.sum, square, const(0.0))
        variance = te.compute((pixels.count,), lambda p: squares[p] / count + epsilon[0], name="variance")
        factor = te.compute((pixels.count,), lambda p: const(1.0) / tirx.sqrt(variance[p]), name="factor")

        def value(c: Any, p: Any, v: Any) -> Any:
            return activate((x[c, p, v] - mean[p]) * factor[p] * s[c, v] + b[c, v], self.activation)

        out = te.compute(pixels.shape, value, name="out")
        sch = schedule_of([*pixels.numbers, x, s, b, epsilon, out])
        pixels.schedule(sch, ("total", "squares"), ("mean", "variance", "factor"))
        return {self.symbol: sch.mod["main"]}


class _Pixels:
    """An input in blocks, and reductions over the channels of each of its pixels."""

    def __init__(self, lanes: int) -> None:
        from tvm import te

        from hwprune.compilation.kernels.tensor import number

        self.lanes = lanes
        self.channels, self.blocks, self.count = self.numbers = [number(n) for n in ("channels", "blocks", "pixels")]
        self.shape = (self.blocks, self.count, lanes)
        self.x = te.placeholder(self.shape, name="x")

    def reduce(self, name: str, combine: Any, value: Callable[..., Any], neutral: Any) -> Any:
        """``(pixels,)``: whole vectors are combined first, then their lanes; what fills the last block is left out."""
        from tvm import te, tirx

        c, lane = te.reduce_axis((0, self.blocks), "c"), te.reduce_axis((0, self.lanes), "lane")

        def inside(p: Any, v: Any) -> Any:
            return combine(tirx.Select(c * self.lanes + v < self.channels, value(c, p, v), neutral), axis=[c])

        vectors = te.compute((self.count, self.lanes), inside, name=f"{name}_vectors")
        return te.compute((self.count,), lambda p: combine(vectors[p, lane], axis=[lane]), name=name)

    def schedule(self, sch: Any, reductions: tuple[str, ...], scalars: tuple[str, ...]) -> None:
        """Everything of one pixel together."""
        out = sch.get_sblock("out")
        c, p, v = sch.get_loops(out)
        sch.reorder(p, c, v)
        sch.vectorize(v)
        # Those that are read come last.
        names = [name for reduction in reductions for name in (f"{reduction}_vectors", reduction)]
        order = sorted((*names, *scalars), key=_ORDER.index)
        for name in reversed(order):
            block = sch.get_sblock(name)
            sch.compute_at(block, p, preserve_unit_loops=True)
            sch.set_scope(block, 0, "local")
        for reduction in reductions:
            block = sch.get_sblock(f"{reduction}_vectors")
            *_, lane, blocks = sch.get_loops(block)
            sch.reorder(blocks, lane)
            sch.vectorize(lane)
            sch.decompose_reduction(block, blocks)
            sch.vectorize(sch.get_loops(sch.get_sblock(f"{reduction}_vectors_init"))[-1])
            sch.unroll(sch.get_loops(sch.get_sblock(reduction))[-1])


#: Blocks of both kernels in the order of their computation.
_ORDER = (
    *("largest_vectors", "largest", "total_vectors", "total", "mean"),
    *("squares_vectors", "squares", "variance", "factor"),
)


def specify(shape: LayerShape, target: CpuTarget) -> Usage:
    """Kernel, arguments and buffers of ``softmax`` and ``layer_norm``."""
    lanes, pixels = target.lanes, shape.height * shape.width
    blocks = blocks_of(shape.in_channels, lanes)
    numbers, size = (shape.in_channels, blocks, pixels), blocks * lanes * pixels
    if shape.op == "softmax":
        return Usage(Softmax(lanes), numbers, (size,), (size,))
    kernel = LayerNorm(lanes, split_epilogue(shape.epilogue)[1])
    return Usage(kernel, numbers, (size,), (size,), parameters=(blocks * lanes, blocks * lanes, 1))
