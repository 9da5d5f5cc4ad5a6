"""Element by element: activations, sums, products, and scale with shift by channel."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

from hwprune.compilation.kernels.kernel import Kernel, Usage, blocks_of, divided_by_blocks, split_epilogue
from hwprune.compilation.targets import CpuTarget
from latency_models.shapes import LayerShape

#: What is done with two values.
OPERATIONS = {"add": operator.add, "sub": operator.sub, "mul": operator.mul}


@dataclass(frozen=True)
class Elementwise(Kernel):
    """Activation of one value, or of the sum, difference or product of two, over any number of vectors.

    Attributes:
        op: ``activation``, ``add``, ``sub`` or ``mul``.
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
            return activate(OPERATIONS[self.op](x[i, v], y[i, v]), self.activation)

        out = te.compute((vectors, self.lanes), value, name="out")
        sch = schedule_of([vectors, x, *([] if self.op == "activation" else [y]), out])
        sch.vectorize(sch.get_loops(sch.get_sblock("out"))[-1])
        return {self.symbol: sch.mod["main"]}


@dataclass(frozen=True)
class ChannelAffine(Kernel):
    """Scale or shift of every channel: (blocks, pixels, lanes).

    Attributes:
        op: ``scale`` and ``shift`` (factors or offsets are an input), ``affine`` (both are parameters) or ``prelu``
            (the factors are parameters, of what is below zero).
        activation: applied last.
    """

    op: str
    activation: str

    def build(self) -> dict[str, Any]:
        """One vector at a time, the factors stay in a register."""
        from tvm import te

        from hwprune.compilation.kernels.tensor import ZERO, activate, number, schedule_of

        blocks, pixels, lanes = number("blocks"), number("pixels"), self.lanes
        x = te.placeholder((blocks, pixels, lanes), name="x")
        s = te.placeholder((blocks, lanes), name="s")
        b = te.placeholder((blocks, lanes), name="b")

        def value(c: Any, p: Any, v: Any) -> Any:
            if self.op == "shift":
                return activate(x[c, p, v] + s[c, v], self.activation)
            if self.op == "prelu":
                return activate(te.max(x[c, p, v], ZERO) + te.min(x[c, p, v], ZERO) * s[c, v], self.activation)
            scaled = x[c, p, v] * s[c, v]
            return activate(scaled + b[c, v] if self.op == "affine" else scaled, self.activation)

        out = te.compute((blocks, pixels, lanes), value, name="out")
        sch = schedule_of([blocks, pixels, x, s, *([b] if self.op == "affine" else []), out])
        sch.vectorize(sch.get_loops(sch.get_sblock("out"))[-1])
        return {self.symbol: sch.mod["main"]}


def specify(shape: LayerShape, target: CpuTarget) -> Usage:
    """Kernel, arguments and buffers of a layer that treats every element, or every channel, alone."""
    lanes, pixels = target.lanes, shape.height * shape.width
    blocks = blocks_of(shape.in_channels, lanes)
    size = blocks * lanes * pixels
    activation = split_epilogue(shape.epilogue)[1]
    if shape.op in ("scale", "shift", "affine", "prelu"):
        factors = (size, blocks * lanes) if shape.op in ("scale", "shift") else (size,)
        parameters = {"affine": (blocks * lanes, blocks * lanes), "prelu": (blocks * lanes,)}.get(shape.op, ())
        kernel = ChannelAffine(lanes, shape.op, activation)
        usage = Usage(kernel, (blocks, pixels), factors, (size,), parameters, in_place=0)
        return divided_by_blocks(usage, target.threads)
    inputs = (size,) if shape.op == "activation" else (size, size)
    usage = Usage(Elementwise(lanes, shape.op, activation), (blocks * pixels,), inputs, (size,), in_place=0)
    return divided_by_blocks(usage, target.threads)
