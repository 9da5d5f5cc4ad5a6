"""ATen operators that move, pool and resize -> layers; None where no kernel of ours does the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch.fx import Node

from hwprune.compilation.layers import Layer
from hwprune.compilation.operator_view import CHANNELS_LAST, OperatorView, shape_of
from hwprune.compilation.readers import Read, kind_of
from hwprune.compilation.regions import operator_name

IDENTITIES = {"dropout", "feature_dropout", "contiguous", "clone", "detach", "alias", "lift_fresh_copy", "lift_fresh"}

_RESIZES = {
    "upsample_nearest2d": "nearest",
    "_upsample_nearest_exact2d": "nearest_exact",
    "upsample_bilinear2d": "bilinear",
}

_VIEWS = ("flatten", "view", "reshape", "squeeze", "unsqueeze")


def _concat(op: OperatorView) -> Read:
    tensors = op["tensors"]
    kinds = {kind_of(value) for value in tensors}
    rank = len(shape_of(tensors[0]))
    if kinds not in ({"images"}, {"vectors"}) or op["dim"] % rank != 1 or not all(map(op.is_value, tensors)):
        return None
    return op.layer("concat", *tensors)


def _mean(op: OperatorView) -> Read:
    dims = sorted(dim % 4 for dim in op["dim"] or ())
    if len(shape_of(op["self"])) != 4 or dims != [2, 3] or op["dtype"] is not None:
        return None
    return op.layer("global_pool", op["self"], kept=2 if op["keepdim"] else 0)


def _adaptive_avg_pool2d(op: OperatorView) -> Read:
    shape, out = shape_of(op["self"]), shape_of(op.node)[-2:]
    if len(shape) != 4:
        return None
    if out == (1, 1):
        return op.layer("global_pool", op["self"], kept=2)
    if out == shape[2:]:
        return op.layer("identity", op["self"])
    if any(size % wanted for size, wanted in zip(shape[2:], out, strict=True)):
        return op.layer("resample", op["self"], mode="adaptive", factors=(None, None), out=out)
    step = (shape[2] // out[0], shape[3] // out[1])
    return op.layer("avg_pool", op["self"], kernel=step, stride=step, padding=(0, 0), dilation=(1, 1))


def _pool(op: OperatorView) -> Read:
    shape, out = shape_of(op["self"]), shape_of(op.node)
    if len(shape) != 4:
        return None
    kernel, padding = op.pair("kernel_size"), op.pair("padding")
    stride = op.pair("stride") if op["stride"] else kernel
    dilation = op.pair("dilation") if op.name == "max_pool2d" else (1, 1)
    if op.arguments.get("divisor_override"):
        return None
    whole = tuple(
        (shape[axis + 2] + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1
        for axis in (0, 1)
    )
    name = op.name.removesuffix("2d")
    # Where the last window hangs over (ceil_mode), what is outside never counts.
    if name == "avg_pool" and any(padding) and not op["count_include_pad"]:
        name = "avg_pool_unpadded"
    settings = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    if whole != out[2:]:
        settings["out"] = (out[2], out[3])
    return replace(op.layer(name, op["self"]), settings=settings)


def _resize(op: OperatorView) -> Read:
    mode = _RESIZES[op.name]
    if op.arguments.get("align_corners"):
        mode += "_corners"
    factors = op.arguments.get("scale_factors") or (None, None)
    if len(shape_of(op["input"])) != 4:
        return None
    return op.layer("resample", op["input"], mode=mode, factors=tuple(factors), out=shape_of(op.node)[2:])


def _pad(op: OperatorView) -> Read:
    left, right, top, bottom, *others = (*op["pad"], 0, 0)[: max(4, len(op["pad"]))]
    is_zero = op["mode"] == "constant" and not op["value"]
    if len(shape_of(op["self"])) != 4 or not is_zero or any(others):
        return None
    return op.layer("border", op["self"], edges=(top, bottom, left, right))


def _slice(op: OperatorView) -> Read:
    """A run of rows, columns or channels."""
    shape, out = shape_of(op["self"]), shape_of(op.node)
    if not op.is_value(op["self"]) or not shape:
        return None
    if shape == out:
        return op.layer("identity", op["self"])
    axis, start = op["dim"] % len(shape), op["start"] or 0
    if kind_of(op["self"]) not in ("images", "vectors") or op["step"] != 1 or axis == 0:
        return None
    start = max(0, start + shape[axis] if start < 0 else start)
    if axis == 1:
        return op.layer("slice", op["self"], begin=start, end=start + out[1], channels=shape[1])
    edges = [0, 0, 0, 0]
    edges[2 * (axis - 2)], edges[2 * (axis - 2) + 1] = -start, start + out[axis] - shape[axis]
    return op.layer("border", op["self"], edges=tuple(edges))


def _shuffle(op: OperatorView) -> Read:
    return op.layer("shuffle", op["self"], groups=op["groups"]) if len(shape_of(op["self"])) == 4 else None


def read_parts(op: OperatorView, picks: Sequence[Node]) -> list[Layer] | None:
    """Layers of ``chunk`` and ``split`` over channels, one for each part that is picked."""
    shape, parts = shape_of(op["self"]), op.node.meta.get("val", ())
    if op.name not in ("chunk", "split", "split_with_sizes") or kind_of(op["self"]) not in ("images", "vectors"):
        return None
    if op["dim"] % len(shape) != 1 or not op.is_value(op["self"]):
        return None
    widths = [int(part.shape[1]) for part in parts]
    layers = []
    for pick in picks:
        index = int(pick.args[1])  # type: ignore[arg-type]
        begin = sum(widths[:index])
        layer = op.layer("slice", op["self"], begin=begin, end=begin + widths[index], channels=shape[1])
        if op.name == "chunk":  # as many parts at any width
            layer = replace(layer, settings={**layer.settings, "part": (index, op["chunks"])})
        layers.append(replace(layer, outputs=(pick.name,)))
    return layers


def _permute(op: OperatorView) -> Read:
    """Images to rows of features, and back: blocks of channels lie in memory as before."""
    source = op.node.args[0]
    shape = shape_of(source)
    order = list(range(len(shape)))
    if op.name == "permute":
        order = [dim % len(shape) for dim in op["dims"]]
    else:
        first, second = op["dim0"] % len(shape), op["dim1"] % len(shape)
        order[first], order[second] = order[second], order[first]
    if order == [0, 2, 3, 1] and kind_of(source) == "images" and op.is_value(source):
        op.node.meta[CHANNELS_LAST] = True
        return op.layer("to_rows", source, rank=4)
    if order == [0, 3, 1, 2] and kind_of(source) == "rows":
        return op.layer("to_images", source, size=shape[1:3])
    # (N, C, H, W) -> (N, C, H * W) -> (N, H * W, C)
    image = source.args[0] if isinstance(source, Node) and source.args else None
    if order != [0, 2, 1] or not isinstance(image, Node) or operator_name(source) not in _VIEWS:  # type: ignore[arg-type]
        return None
    if kind_of(image) == "images" and op.is_value(image) and shape[:2] == shape_of(image)[:2]:
        return op.layer("to_rows", image, rank=3)
    return None


def _reshape(op: OperatorView) -> Read:
    """Views that join dimensions; others may hold channel counts and are left to the fallback."""
    source = op.node.args[0]
    shape, out = shape_of(source), shape_of(op.node)
    if not op.is_value(source):
        return None
    if shape == out:
        return op.layer("identity", source)
    if found := _moved(op, source, out):
        return found
    if len(shape) == 2 and out == (*shape, 1, 1):
        return op.layer("flatten", source, first=1, last=1, kept=2)
    for first in range(1, len(shape)):
        for last in range(first + 1, len(shape)):
            joined = (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])
            if out == joined:
                return op.layer("flatten", source, first=first, last=last, kept=0)
    return None


def _moved(op: OperatorView, source: Any, out: Sequence[int]) -> Layer | None:
    """The last of several operators that shuffle channels, or that make images of rows."""
    while operator_name(source) in ("clone", "contiguous"):
        source = source.args[0]
    if operator_name(source) not in ("transpose", "permute") or not isinstance(source.args[0], Node):
        return None
    origin, before, after = source.args[0], shape_of(source.args[0]), shape_of(source)
    if len(before) == 3 and len(out) == 4 and after == (before[0], before[2], before[1]) == (*out[:2], out[2] * out[3]):
        return op.layer("to_images", origin, size=tuple(out[2:])) if op.is_value(origin) else None
    swapped = len(before) == 5 and after == (before[0], before[2], before[1], *before[3:])
    if not swapped or operator_name(origin) not in _VIEWS:
        return None
    image = origin.args[0]
    if shape_of(image) != tuple(out) or kind_of(image) != "images" or not op.is_value(image) or before[1] > before[2]:
        return None
    return op.layer("shuffle", image, groups=before[1], channels=out[1])


def _identity(op: OperatorView) -> Read:
    source = op.node.args[0]
    return op.layer("identity", source) if op.is_value(source) else None


READERS: dict[str, Callable[[OperatorView], Read]] = {
    "cat": _concat,
    "mean": _mean,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    **dict.fromkeys(("max_pool2d", "avg_pool2d"), _pool),
    **dict.fromkeys(_RESIZES, _resize),
    "pad": _pad,
    "slice": _slice,
    "channel_shuffle": _shuffle,
    **dict.fromkeys(("permute", "transpose"), _permute),
    **dict.fromkeys(_VIEWS, _reshape),
    **dict.fromkeys(IDENTITIES, _identity),
}

#: Those that also read values whose channels come last.
READERS_OF_ROWS = {name: READERS[name] for name in ("permute", *IDENTITIES)}
