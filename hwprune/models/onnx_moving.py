"""ONNX operators that move values and leave them as they are."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hwprune.models.onnx_node import OnnxNode


def _identity(node: OnnxNode) -> Tensor:
    return node.tensor(0)


def _reshape(node: OnnxNode) -> Tensor:
    x, wanted = node.tensor(0), node.option("shape", 1)
    if not node.get("allowzero", 0):
        wanted = [x.shape[place] if size == 0 else size for place, size in enumerate(wanted)]
    return x.reshape(wanted)


def _flatten(node: OnnxNode) -> Tensor:
    x = node.tensor(0)
    axis = node.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.flatten(1) if axis == 1 and x.ndim > 1 else x.reshape(math.prod(x.shape[:axis]), -1)


def _transpose(node: OnnxNode) -> Tensor:
    x = node.tensor(0)
    return x.permute(node.get("perm", list(reversed(range(x.ndim)))))


def _squeeze(node: OnnxNode) -> Tensor:
    x, axes = node.tensor(0), node.option("axes", 1)
    wanted = [axis % x.ndim for axis in axes] if axes else [axis for axis in range(x.ndim) if x.shape[axis] == 1]
    return x.reshape([size for axis, size in enumerate(x.shape) if axis not in wanted])


def _unsqueeze(node: OnnxNode) -> Tensor:
    x, axes = node.tensor(0), node.option("axes", 1)
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _concat(node: OnnxNode) -> Tensor:
    return torch.cat([node.tensor(index) for index in range(len(node.operands))], node.get("axis"))


def _split(node: OnnxNode) -> tuple[Tensor, ...]:
    x = node.tensor(0)
    axis, parts = node.get("axis", 0), node.option("split", 1)
    if not parts:
        parts = math.ceil(x.shape[axis] / node.get("num_outputs", len(node.outputs)))
    return tuple(x.split(parts, axis))  # type: ignore[no-untyped-call]


def _slice(node: OnnxNode) -> Tensor:
    x, starts, ends = node.tensor(0), node.option("starts", 1), node.option("ends", 2)
    axes, steps = node.option("axes", 3, list(range(len(starts)))), node.option("steps", 4, [1] * len(starts))
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0:
            positions = torch.arange(x.shape[axis])[_reversed(start, end, step, x.shape[axis])]
            x = x.index_select(axis % x.ndim, node.keep(f"positions{axis}", positions.numpy()))
        else:
            index = [slice(None)] * x.ndim
            index[axis] = slice(start, end, step)
            x = x[tuple(index)]
    return x


def _reversed(start: int, end: int, step: int, size: int) -> list[int]:
    """Positions of a slice that runs backwards; an end far below zero is the first position."""
    return list(range(size))[start : None if end < -size else end : step]


def _gather(node: OnnxNode) -> Tensor:
    x, axis = node.tensor(0), node.get("axis", 0)
    axis = axis % x.ndim
    known = node.known(1)
    if known is not None and known.ndim == 0:
        return x.select(axis, int(known))
    index = node.tensor(1) if known is None else node.keep("index", known % x.shape[axis])
    found = x.index_select(axis, index.reshape(-1))
    return found.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _gather_elements(node: OnnxNode) -> Tensor:
    return node.tensor(0).gather(node.get("axis", 0), node.tensor(1))


def _expand(node: OnnxNode) -> Tensor:
    x, wanted = node.tensor(0), node.option("shape", 1)
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(wanted)))


def _tile(node: OnnxNode) -> Tensor:
    return node.tensor(0).repeat(node.option("repeats", 1))


def _pad(node: OnnxNode) -> Tensor:
    x = node.tensor(0)
    pads, value = node.option("pads", 1), node.option("value", 2, 0.0)
    axes = [axis % x.ndim for axis in node.option("axes", 3, list(range(x.ndim)))]
    half = len(pads) // 2
    edges = dict.fromkeys(range(x.ndim), (0, 0)) | {
        axis: (pads[place], pads[half + place]) for place, axis in enumerate(axes)
    }
    outer = [axis for axis in range(x.ndim) if any(edges[axis])]
    if not outer:
        return x
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    mode = modes[node.get("mode", "constant")]
    first = min(outer) if mode == "constant" else min(2, *outer)
    flat = [edge for axis in reversed(range(first, x.ndim)) for edge in edges[axis]]
    if mode != "constant":
        return F.pad(x, flat, mode=mode)
    return F.pad(x, flat, value=float(value if not isinstance(value, list) else value[0]))


def _depth_to_space(node: OnnxNode) -> Tensor:
    x, block = node.tensor(0), node.get("blocksize")
    if node.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    batch, channels, height, width = x.shape
    split = x.reshape(batch, block, block, channels // block**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return split.reshape(batch, channels // block**2, height * block, width * block)


def _space_to_depth(node: OnnxNode) -> Tensor:
    x, block = node.tensor(0), node.get("blocksize")
    batch, channels, height, width = x.shape
    split = x.reshape(batch, channels, height // block, block, width // block, block).permute(0, 3, 5, 1, 2, 4)
    return split.reshape(batch, channels * block**2, height // block, width // block)


def _top_k(node: OnnxNode) -> tuple[Tensor, ...]:
    count = node.option("k", 1)
    count = count[0] if isinstance(count, list) else count
    largest, is_sorted = bool(node.get("largest", 1)), bool(node.get("sorted", 1))
    return tuple(node.tensor(0).topk(count, node.get("axis", -1), largest, is_sorted))


READERS: dict[str, Callable[[OnnxNode], Tensor | tuple[Tensor, ...]]] = {
    **dict.fromkeys(("Identity", "Dropout"), _identity),
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Expand": _expand,
    "Tile": _tile,
    "Pad": _pad,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "TopK": _top_k,
}
