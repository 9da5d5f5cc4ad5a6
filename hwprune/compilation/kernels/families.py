"""Which file holds the kernels of which operator."""

from __future__ import annotations

from collections.abc import Callable

from hwprune.compilation.kernels import (
    dense,
    depthwise,
    elementwise,
    grouped,
    layout,
    moving,
    narrow,
    normalize,
    pool,
    resample,
    transposed,
)
from hwprune.compilation.kernels.kernel import Usage
from hwprune.compilation.targets import CpuTarget
from hwprune.errors import CompileError
from latency_models.shapes import LayerShape
from latency_models.stairs import few_layout

#: Part of every kernel's cache key and of every measurement's conditions: raise it when a kernel or schedule changes.
SCHEDULE_VERSION = "4"

FAMILIES: dict[str, Callable[[LayerShape, CpuTarget], Usage]] = {
    "conv2d": narrow.specify,
    "conv2d_grouped": grouped.specify,
    "conv2d_transposed": transposed.specify,
    "depthwise": depthwise.specify,
    "dense": dense.specify,
    "global_pool": pool.specify,
    **dict.fromkeys(("max_pool", "avg_pool", "avg_pool_unpadded"), pool.specify),
    "resample": resample.specify,
    **dict.fromkeys(("softmax", "layer_norm"), normalize.specify),
    "pack": layout.specify,
    "unpack": layout.specify,
    "pad_shortcut": layout.specify,
    "concat": layout.specify,
    **dict.fromkeys(("border", "slice", "shuffle", "pack_rows", "unpack_rows"), moving.specify),
    **dict.fromkeys(("activation", "add", "sub", "mul", "scale", "shift", "affine", "prelu"), elementwise.specify),
}


def specify(shape: LayerShape, target: CpuTarget) -> Usage:
    """Kernel, arguments and buffers of a layer.

    Raises:
        CompileError: there is no kernel for this operator, or the layer's blocks are not the target's.
    """
    if shape.op not in FAMILIES:
        raise CompileError(f"no kernel for {shape.op!r}: known are {', '.join(sorted(FAMILIES))}")
    if shape.layout.rsplit("-", 1)[-1] not in (target.layout, few_layout(target.lanes), "nchw"):
        raise CompileError(f"layer in layout {shape.layout} for {target.name}: trace it for this target")
    return FAMILIES[shape.op](shape, target)
