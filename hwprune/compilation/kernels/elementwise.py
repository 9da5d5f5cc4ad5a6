"""Element by element: activations, sums, products, and scale with shift by channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hwprune.compilation.kernels.kernel import Kernel, Usage, blocks_of, split_epilogue
from hwprune.compilation.targets import CpuTarget
from latency_models.shapes import LayerShape


@dataclass(frozen=True)
class Elementwise(Kernel):
    """Activation of one value, or of the sum or product of two, over any number of vectors.

    Attributes:
        op: ``activation``, ``add`` or ``mul``.
        activation: applied last.
    """

    op: str
    activation: str

    def build(self) -> dict[str, Any]:
        """One vector at a time."""
        from tvm import te

        from hwprune.compilation.kernels.tensor import activate, number, schedule_of

        vectors = number("vectors")
        x = te.placeholder((vectors, self.lanes), name="x")
        y = te.placeholder((vectors, self.lanes), name="y")

        def value(i: Any, v: Any) -> Any:
            if self.op == "activation":
                return activate(x[i, v], self.activation)
            return activate(x[i, v] + y[i, v] if self.op == "add" else x[i, v] * y[i, v], self.activation)

        out = te.compute((vectors, self.lanes), value, name="out")
        sch = schedule_of([vectors, x, *([] if self.op == "activation" else [y]), out])
        sch.vectorize(sch.get_loops(sch.get_sblock("out"))[-1])
        return {self.symbol: sch.mod["main"]}


@dataclass(frozen=True)
class ChannelAffine(Kernel):
    """Scale, and for ``affine`` shift, of every channel: (blocks, pixels, lanes).

    Attributes:
        op: ``scale`` (the factors are an input) or ``affine`` (factors and offsets are parameters).
        activation: applied last.
    """

    op: str
    activation: str

    def build(self) -> dict[str, Any]:
        """One vector at a time, the factors stay in a register."""
        from tvm import te

        from hwprune.compilation.kernels.tensor import activate, number, schedule_of

        blocks, pixels, lanes = number("blocks"), number("pixels"), self.lanes
        x = te.placeholder((blocks, pixels, lanes), name="x")
        s = te.placeholder((blocks, lanes), name="s")
        b = te.placeholder((blocks, lanes), name="b")

        def value(c: Any, p: Any, v: Any) -> Any:
            scaled = x[c, p, v] * s[c, v]
            return activate(scaled + b[c, v] if self.op == "affine" else scaled, self.activation)

        out = te.compute((blocks, pixels, lanes), value, name="out")
        sch = schedule_of([blocks, pixels, x, s, *([b] if self.op == "affine" else []), out])
        sch.vectorize(sch.get_loops(sch.get_sblock("out"))[-1])
        return {self.symbol: sch.mod["main"]}


def specify(shape: LayerShape, target: CpuTarget) -> Usage:
    """Kernel, arguments and buffers of ``activation``, ``add``, ``mul``, ``scale`` and ``affine``."""
    lanes, pixels = target.lanes, shape.height * shape.width
    blocks = blocks_of(shape.in_channels, lanes)
    size = blocks * lanes * pixels
    activation = split_epilogue(shape.epilogue)[1]
    if shape.op in ("scale", "affine"):
        factors = (size, blocks * lanes) if shape.op == "scale" else (size,)
        parameters = (blocks * lanes, blocks * lanes) if shape.op == "affine" else ()
        kernel = ChannelAffine(lanes, shape.op, activation)
        return Usage(kernel, (blocks, pixels), factors, (size,), parameters, in_place=0)
    inputs = (size,) if shape.op == "activation" else (size, size)
    return Usage(Elementwise(lanes, shape.op, activation), (blocks * pixels,), inputs, (size,), in_place=0)
