"""Fully connected layer, fused with bias, residual and activation, on one image's vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hwprune.compilation.kernels.conv import pad_vector
from hwprune.compilation.kernels.kernel import Kernel, Usage, blocks_of, split_epilogue
from hwprune.compilation.targets import CpuTarget
from latency_models.shapes import LayerShape


@dataclass(frozen=True)
class Dense(Kernel):
    """Product of a matrix and a vector of any length, vectorized along the outputs.

    Attributes:
        group: output blocks computed together.
        add: whether a residual is added.
        activation: applied last.
    """

    group: int
    add: bool
    activation: str

    def build(self) -> dict[str, Any]:
        """Weights are (groups, in, group, lanes), so that they are read from first to last."""
        from tvm import te

        from hwprune.compilation.kernels.tensor import activate, number, schedule_of

        lanes, group = self.lanes, self.group
        length, groups = number("length"), number("groups")
        shape = (groups, group, lanes)
        x = te.placeholder((length,), name="x")
        w = te.placeholder((groups, length, group, lanes), name="w")
        b = te.placeholder(shape, name="b")
        r = te.placeholder(shape, name="r")
        k = te.reduce_axis((0, length), "k")
        dense = te.compute(shape, lambda c, g, v: te.sum(x[k] * w[c, k, g, v], axis=[k]), name="dense")

        def finish(c: Any, g: Any, v: Any) -> Any:
            value = dense[c, g, v] + b[c, g, v]
            return activate(value + r[c, g, v] if self.add else value, self.activation)

        out = te.compute(shape, finish, name="out")
        sch = schedule_of([length, groups, x, *([r] if self.add else []), w, b, out])
        dense_block, out_block = sch.get_sblock("dense"), sch.get_sblock("out")
        sch.compute_at(dense_block, sch.get_loops(out_block)[0], preserve_unit_loops=True)
        sch.set_scope(dense_block, 0, "local")
        _, *unit, g, v, reduction = sch.get_loops(dense_block)
        sch.reorder(reduction, *unit, g, v)
        sch.vectorize(v)
        sch.unroll(g)
        sch.decompose_reduction(dense_block, reduction)
        for block in (out_block, sch.get_sblock("dense_init")):
            *_, g, v = sch.get_loops(block)
            sch.vectorize(v)
            sch.unroll(g)
        return {self.symbol: sch.mod["main"]}


def specify(shape: LayerShape, target: CpuTarget) -> Usage:
    """Kernel, arguments and buffers of a fully connected layer."""
    lanes = target.lanes
    blocks = blocks_of(shape.out_channels, lanes)
    # As many independent sums as hide a multiply-add's latency, and a divisor, so that no group is partly empty.
    group = max(n for n in range(1, 9) if blocks % n == 0)
    add, activation = split_epilogue(shape.epilogue)
    return Usage(
        Dense(lanes, group, add, activation),
        (shape.in_channels, blocks // group),
        inputs=(shape.in_channels, *([blocks * lanes] if add else [])),
        outputs=(blocks * lanes,),
        parameters=(blocks * lanes * shape.in_channels, blocks * lanes),
        in_place=1 if add else None,
    )


def pack_weight(usage: Usage, weight: np.ndarray, bias: np.ndarray) -> list[np.ndarray]:
    """``(out, in)`` -> (groups, in, group, lanes), and the bias to whole blocks; float32."""
    kernel = usage.kernel
    assert isinstance(kernel, Dense)
    groups, group, lanes = usage.numbers[1], kernel.group, kernel.lanes
    out_features, in_features = weight.shape
    packed = np.zeros((groups * group * lanes, in_features), np.float32)
    packed[:out_features] = weight
    return [
        packed.reshape(groups, group, lanes, in_features).transpose(0, 3, 1, 2),
        pad_vector(bias, groups * group * lanes),
    ]
