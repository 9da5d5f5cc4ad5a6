"""Layer shapes as numbers: amounts of work, and the feature matrix of the regressors.

Vector units work on whole blocks of ``lanes`` channels, so a latency is a staircase in the widths. Regressors see
that staircase only if they are told where in its block a width lies; the alignment features do.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from latency_models.shapes import IntArray, LayerShape
from latency_models.stairs import out_step, padded

FloatArray = npt.NDArray[np.float64]

#: Raise it when a column changes its meaning; fitted models of another version are refitted.
FEATURES_VERSION = 3

#: Families with a column of their own; any other operator shares ``op_other`` and differs by ``op_hash``.
FAMILIES = (
    *("conv2d", "conv2d_grouped", "conv2d_transposed", "depthwise", "dense", "max_pool", "avg_pool", "global_pool"),
    *("resample", "activation", "add", "concat", "pack", "pad_shortcut", "unpack"),
)

FEATURE_NAMES: tuple[str, ...] = (
    *("in_channels", "out_channels", "in_blocks", "out_blocks", "in_remainder", "out_remainder"),
    *("out_fill", "out_height", "out_width", "log_out_pixels", "window", "stride", "groups", "batch"),
    *("log_macs", "log_padded_macs", "log_weight_bytes", "log_activation_bytes", "log_intensity"),
    *("epilogue_add", "epilogue_relu", "blocked_layout", "op_hash", "op_other"),
    *(f"op_{family}" for family in FAMILIES),
)

_FLOAT_BYTES = 4


def output_size(template: LayerShape) -> tuple[int, int]:
    """Output height and width in pixels."""
    if template.op == "global_pool":
        return 1, 1
    if any(template.out_size):
        return template.out_size
    height, width = (
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, padding, dilation, kernel, stride in zip(
            (template.height, template.width),
            template.padding,
            template.dilation,
            template.kernel,
            template.stride,
            strict=True,
        )
    )
    return max(height, 1), max(width, 1)


def mixes_channels(template: LayerShape) -> bool:
    """Whether every output channel is a sum over input channels (so that work grows with their product)."""
    return template.op.startswith(("conv", "dense", "linear", "matmul"))


def macs(template: LayerShape, in_channels: IntArray, out_channels: IntArray) -> FloatArray:
    """Multiply-adds of a call at each pair of widths, ``(n,)``; operators without weights count window elements."""
    # The window of a transposed convolution moves over the input.
    is_transposed = template.op == "conv2d_transposed"
    height, width = (template.height, template.width) if is_transposed else output_size(template)
    if template.nonzeros:
        return np.full(np.shape(out_channels), float(template.batch * height * width * template.nonzeros))
    window = template.kernel[0] * template.kernel[1]
    if template.op == "global_pool":
        window = template.height * template.width
    depth = (template.group_channels or in_channels) if mixes_channels(template) else 1.0
    return np.asarray(template.batch * height * width * window * depth * out_channels, dtype=np.float64)


def weight_bytes(template: LayerShape, in_channels: IntArray, out_channels: IntArray) -> FloatArray:
    """Bytes of float32 weights at each pair of widths, ``(n,)``."""
    window = template.kernel[0] * template.kernel[1]
    if mixes_channels(template):
        depth = template.group_channels or in_channels
        return np.asarray(_FLOAT_BYTES * window * out_channels * depth, dtype=np.float64)
    per_channel = window if template.op == "depthwise" else 0
    return np.asarray(_FLOAT_BYTES * per_channel * out_channels, dtype=np.float64)


def activation_bytes(template: LayerShape, in_channels: IntArray, out_channels: IntArray) -> FloatArray:
    """Bytes of float32 inputs read and outputs written at each pair of widths, ``(n,)``."""
    height, width = output_size(template)
    reads = template.height * template.width * in_channels
    writes = height * width * out_channels * (2 if "add" in template.epilogue.split("+") else 1)
    return np.asarray(template.batch * _FLOAT_BYTES * (reads + writes), dtype=np.float64)


def template_features(
    template: LayerShape, in_channels: IntArray, out_channels: IntArray, lanes: int = 16
) -> FloatArray:
    """Feature matrix of one layer at many widths.

    Args:
        template: the layer; its own widths are ignored.
        in_channels: ``(n,)`` exact input channels.
        out_channels: ``(n,)`` exact output channels.
        lanes: float32 numbers of a vector register.

    Returns:
        ``(n, len(FEATURE_NAMES))`` array.
    """
    height, width = output_size(template)
    epilogue = template.epilogue.split("+")
    in_padded, out_padded = padded(in_channels, lanes), padded(out_channels, out_step(template, lanes))
    work = macs(template, in_channels, out_channels)
    weights = weight_bytes(template, in_channels, out_channels)
    activations = activation_bytes(template, in_channels, out_channels)
    columns: list[FloatArray | IntArray | float] = [
        in_channels,
        out_channels,
        in_padded / lanes,
        out_padded / lanes,
        in_channels % lanes,
        out_channels % lanes,
        out_channels / np.maximum(out_padded, 1),
        height,
        width,
        np.log(height * width * template.batch),
        template.kernel[0] * template.kernel[1],
        template.stride[0] * template.stride[1],
        in_channels / template.group_channels if template.group_channels else 1.0,
        template.batch,
        np.log1p(work),
        np.log1p(macs(template, in_channels, out_padded)),
        np.log1p(weights),
        np.log1p(activations),
        np.log1p(work) - np.log1p(weights + activations),
        float("add" in epilogue),
        float("relu" in epilogue),
        float(template.layout != "nchw"),
        zlib.crc32(f"{template.op}|{template.epilogue}|{template.layout}".encode()) / 2**32,
        float(template.op not in FAMILIES),
        *(float(template.op == family) for family in FAMILIES),
    ]
    return np.stack([np.broadcast_to(np.asarray(column, float), in_channels.shape) for column in columns], axis=1)


def widths(shapes: Sequence[LayerShape]) -> tuple[IntArray, IntArray]:
    """Input and output channels of ``shapes``, two ``(n,)`` arrays."""
    pairs = np.array([(shape.in_channels, shape.out_channels) for shape in shapes], dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def rows_by_template(shapes: Sequence[LayerShape]) -> dict[LayerShape, IntArray]:
    """Row numbers of every template among ``shapes``, in order of first appearance."""
    rows: dict[LayerShape, list[int]] = {}
    for row, shape in enumerate(shapes):
        rows.setdefault(shape.template, []).append(row)
    return {template: np.array(numbers, dtype=np.int64) for template, numbers in rows.items()}


def features(shapes: Sequence[LayerShape], lanes: int = 16) -> FloatArray:
    """Feature matrix of any kernels, ``(n, len(FEATURE_NAMES))``."""
    X = np.empty((len(shapes), len(FEATURE_NAMES)))
    in_channels, out_channels = widths(shapes)
    for template, rows in rows_by_template(shapes).items():
        X[rows] = template_features(template, in_channels[rows], out_channels[rows], lanes)
    return X
