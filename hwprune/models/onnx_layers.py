"""ONNX operators with windows, weights or statistics: convolutions, pools, matrices, norms, resizing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from hwprune.models.onnx_node import OnnxNode

Numbers = Sequence[int]


def _padding(node: OnnxNode, size: Numbers, kernel: Numbers, stride: Numbers, dilation: Numbers) -> list[int]:
    """Rows before, columns before, ..., rows behind, columns behind."""
    auto = node.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        return list(node.get("pads", [0] * 2 * len(size)))
    if auto == "VALID":
        return [0] * 2 * len(size)
    reach = [taps_apart * (taps - 1) + 1 for taps, taps_apart in zip(kernel, dilation, strict=True)]
    total = [
        max(0, (math.ceil(length / step) - 1) * step + whole - length)
        for length, step, whole in zip(size, stride, reach, strict=True)
    ]
    less, more = [each // 2 for each in total], [each - each // 2 for each in total]
    return [*less, *more] if auto == "SAME_UPPER" else [*more, *less]


def _padded(x: Tensor, pads: Numbers, value: float = 0.0) -> tuple[Tensor, tuple[int, ...]]:
    """The value with what only one side of it is padded by, and the padding that both sides have."""
    half = len(pads) // 2
    before, behind = pads[:half], pads[half:]
    if list(before) == list(behind):
        return x, tuple(before)
    edges = [edge for pair in zip(reversed(before), reversed(behind), strict=True) for edge in pair]
    return F.pad(x, edges, value=value), (0,) * half


def _window(node: OnnxNode, kernel: Numbers) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Stride and dilation."""
    ones = [1] * len(kernel)
    return tuple(node.get("strides", ones)), tuple(node.get("dilations", ones))


def _conv(node: OnnxNode) -> Tensor:
    x, weight = node.tensor(0), node.tensor(1)
    kernel = weight.shape[2:]
    stride, dilation = _window(node, kernel)
    x, padding = _padded(x, _padding(node, x.shape[2:], kernel, stride, dilation))
    run = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(kernel)]
    bias = node.tensor(2) if node.has(2) else None
    return run(x, weight, bias, stride, padding, dilation, node.get("group", 1))


def _conv_transpose(node: OnnxNode) -> Tensor:
    x, weight = node.tensor(0), node.tensor(1)
    kernel, dims = weight.shape[2:], weight.ndim - 2
    stride, dilation = _window(node, kernel)
    extra = list(node.get("output_padding", [0] * dims))
    full = [
        step * (length - 1) + apart * (taps - 1) + 1 + more
        for step, length, apart, taps, more in zip(stride, x.shape[2:], dilation, kernel, extra, strict=True)
    ]
    auto = node.get("auto_pad", "NOTSET")
    wanted = node.get("output_shape")
    if wanted is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [length * step for length, step in zip(x.shape[2:], stride, strict=True)]
    if wanted is None:
        pads = list(node.get("pads", [0] * 2 * dims))
    else:
        total = [max(0, each - size) for each, size in zip(full, wanted[-dims:], strict=True)]
        less, more = [each // 2 for each in total], [each - each // 2 for each in total]
        pads = [*less, *more] if auto == "SAME_UPPER" else [*more, *less]
    run = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[dims]
    bias = node.tensor(2) if node.has(2) else None
    groups = node.get("group", 1)
    if pads[:dims] == pads[dims:]:
        return run(x, weight, bias, stride, tuple(pads[:dims]), tuple(extra), groups, dilation)
    whole = run(x, weight, bias, stride, 0, tuple(extra), groups, dilation)
    for dim, (before, behind) in enumerate(zip(pads[:dims], pads[dims:], strict=True), 2):
        whole = whole.narrow(dim, before, whole.shape[dim] - before - behind)
    return whole


def _max_pool(node: OnnxNode) -> Tensor:
    if len(node.outputs) > 1 and node.outputs[1]:
        raise node.unreadable("whose indices are read")
    x, kernel = node.tensor(0), node.get("kernel_shape")
    stride, dilation = _window(node, kernel)
    pads = _padding(node, x.shape[2:], kernel, stride, dilation)
    x, padding = _padded(x, pads, value=-math.inf)
    run = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[len(kernel)]
    return run(x, kernel, stride, padding, dilation, bool(node.get("ceil_mode", 0)))


def _average_pool(node: OnnxNode) -> Tensor:
    x, kernel = node.tensor(0), node.get("kernel_shape")
    stride, dilation = _window(node, kernel)
    counts_padding = bool(node.get("count_include_pad", 0))
    pads = _padding(node, x.shape[2:], kernel, stride, dilation)
    half = len(kernel)
    if set(dilation) != {1} or (pads[:half] != pads[half:] and not counts_padding):
        raise node.unreadable("with dilation, or with padding of one side that does not count,")
    x, padding = _padded(x, pads)
    run = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[half]
    return run(x, kernel, stride, padding, bool(node.get("ceil_mode", 0)), counts_padding)


def _global_average_pool(node: OnnxNode) -> Tensor:
    x = node.tensor(0)
    return x.mean(list(range(2, x.ndim)), keepdim=True)


def _global_max_pool(node: OnnxNode) -> Tensor:
    x = node.tensor(0)
    return x.amax(list(range(2, x.ndim)), keepdim=True)


def _gemm(node: OnnxNode) -> Tensor:
    alpha, beta = float(node.get("alpha", 1.0)), float(node.get("beta", 1.0))
    x = node.tensor(0).t() if node.get("transA", 0) else node.tensor(0)
    matrix, vector = node.known(1), node.known(2)
    if matrix is not None and (not node.has(2) or vector is not None):
        weight = alpha * (matrix if node.get("transB", 0) else matrix.T)
        rows = len(weight)
        if vector is None or vector.size in (1, rows):
            bias = None if vector is None else np.broadcast_to(beta * vector.reshape(-1), (rows,))
            kept = None if bias is None else node.keep("bias", bias.astype(np.float32))
            return F.linear(x, node.keep("weight", weight.astype(np.float32)), kept)
    other = node.tensor(1).t() if node.get("transB", 0) else node.tensor(1)
    product = alpha * (x @ other)
    return product + beta * node.tensor(2) if node.has(2) else product


def _mat_mul(node: OnnxNode) -> Tensor:
    matrix = node.known(1)
    if matrix is not None and matrix.ndim == 2 and matrix.dtype == np.float32:
        return F.linear(node.tensor(0), node.keep("weight", np.ascontiguousarray(matrix.T)))
    return node.tensor(0) @ node.tensor(1)


def _batch_norm(node: OnnxNode) -> Tensor:
    if node.get("training_mode", 0):
        raise node.unreadable("in training mode")
    scale, bias, mean, variance = (node.tensor(index) for index in (1, 2, 3, 4))
    return F.batch_norm(node.tensor(0), mean, variance, scale, bias, False, 0.0, float(node.get("epsilon", 1e-5)))


def _layer_norm(node: OnnxNode) -> Tensor:
    x = node.tensor(0)
    axis = node.get("axis", -1) % x.ndim
    bias = node.tensor(2) if node.has(2) else None
    return F.layer_norm(x, x.shape[axis:], node.tensor(1), bias, float(node.get("epsilon", 1e-5)))


def _instance_norm(node: OnnxNode) -> Tensor:
    x, scale, bias = (node.tensor(index) for index in (0, 1, 2))
    return F.instance_norm(x, weight=scale, bias=bias, eps=float(node.get("epsilon", 1e-5)))


def _group_norm(node: OnnxNode) -> Tensor:
    x, groups = node.tensor(0), node.get("num_groups")
    scale, bias = node.tensor(1), node.tensor(2)
    if scale.numel() != x.shape[1]:  # before opset 21: one number a group
        scale, bias = (each.repeat_interleave(x.shape[1] // groups) for each in (scale, bias))
    return F.group_norm(x, groups, scale, bias, float(node.get("epsilon", 1e-5)))


def _lrn(node: OnnxNode) -> Tensor:
    alpha, beta, bias = (float(node.get(name, default)) for name, default in _LRN)
    return F.local_response_norm(node.tensor(0), node.get("size"), alpha, beta, bias)


_LRN = (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))


def _softmax(node: OnnxNode, run: Callable[..., Tensor] = F.softmax) -> Tensor:
    x = node.tensor(0)
    if node.opset >= 13:
        return run(x, dim=node.get("axis", -1))
    axis = node.get("axis", 1) % x.ndim
    if axis == x.ndim - 1:
        return run(x, dim=-1)
    return run(x.flatten(axis), dim=-1).reshape(x.shape)


def _log_softmax(node: OnnxNode) -> Tensor:
    return _softmax(node, F.log_softmax)


def _resize(node: OnnxNode) -> Tensor:
    """Images resized; each axis as torch does it where that is the same, else by the table of the operator's own rule.

    Raises:
        UnreadableError: another mode than nearest and linear, or torch has no such coordinates.
    """
    x = node.tensor(0)
    is_old = node.op == "Upsample" or node.opset < 11
    scales = node.option("scales", 1 if is_old else 2)
    sizes = None if is_old else node.option("sizes", 3)
    if not sizes:
        sizes = [math.floor(length * scale) for length, scale in zip(x.shape, scales, strict=True)]
    if x.ndim != 4 or list(sizes[:2]) != list(x.shape[:2]) or node.get("axes"):
        raise node.unreadable("of other axes than rows and columns")
    mode = node.get("mode", "nearest")
    rule = node.get("coordinate_transformation_mode", "asymmetric" if is_old else "half_pixel")
    out = (int(sizes[2]), int(sizes[3]))
    if mode == "nearest":
        rounding = node.get("nearest_mode", "floor" if is_old else "round_prefer_floor")
        return _nearest(node, x, out, scales, rule, rounding)
    is_torchs = rule in ("half_pixel", "pytorch_half_pixel", "align_corners") and not node.get("exclude_outside", 0)
    if is_torchs and (mode == "linear" or (mode == "cubic" and float(node.get("cubic_coeff_a", -0.75)) == -0.75)):
        return F.interpolate(x, out, mode=f"bi{mode}", align_corners=rule == "align_corners")
    raise node.unreadable(f"in mode {mode} with coordinates {rule}")


def _nearest(
    node: OnnxNode, x: Tensor, out: tuple[int, int], scales: Sequence[float] | None, rule: str, rounding: str
) -> Tensor:
    tables: list[npt.NDArray[np.int64]] = []
    place: npt.NDArray[Any]
    for axis, length in enumerate(out, 2):
        before = x.shape[axis]
        scale = scales[axis] if scales else length / before
        pixel = np.arange(length, dtype=np.float64)
        if rule == "asymmetric":
            place = pixel / scale
        elif rule in ("half_pixel", "pytorch_half_pixel"):
            place = (pixel + 0.5) / scale - 0.5
        elif rule == "align_corners":
            place = pixel * ((before - 1) / max(length - 1, 1))
        else:
            raise node.unreadable(f"with coordinates {rule}")
        rounded = {
            "floor": np.floor(place),
            "ceil": np.ceil(place),
            "round_prefer_floor": np.ceil(place - 0.5),
            "round_prefer_ceil": np.floor(place + 0.5),
        }[rounding]
        tables.append(np.clip(rounded, 0, before - 1).astype(np.int64))
    for torchs in ("nearest", "nearest-exact"):
        shift = 0.0 if torchs == "nearest" else 0.5
        theirs = [np.floor((np.arange(each) + shift) * (x.shape[axis] / each)) for axis, each in enumerate(out, 2)]
        if all(np.array_equal(mine, each) for mine, each in zip(tables, theirs, strict=True)):
            return F.interpolate(x, out, mode=torchs)
    rows, columns = (node.keep(name, table) for name, table in zip(("rows", "columns"), tables, strict=True))
    return x.index_select(2, rows).index_select(3, columns)


def _grid_sample(node: OnnxNode) -> Tensor:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(node.get("mode", "linear"), node.get("mode", "linear"))
    padding = node.get("padding_mode", "zeros")
    corners = bool(node.get("align_corners", 0))
    return F.grid_sample(node.tensor(0), node.tensor(1), mode=mode, padding_mode=padding, align_corners=corners)


def _einsum(node: OnnxNode) -> Tensor:
    return torch.einsum(node.get("equation"), *(node.tensor(index) for index in range(len(node.operands))))


READERS: dict[str, Callable[[OnnxNode], Tensor]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average_pool,
    "GlobalMaxPool": _global_max_pool,
    "Gemm": _gemm,
    "MatMul": _mat_mul,
    "Einsum": _einsum,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LRN": _lrn,
    "Softmax": _softmax,
    "LogSoftmax": _log_softmax,
    "Resize": _resize,
    "Upsample": _resize,
    "GridSample": _grid_sample,
}
