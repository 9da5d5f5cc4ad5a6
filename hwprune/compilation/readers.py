"""ATen operators that compute -> layers; None where no kernel of ours does the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from hwprune.compilation.kernels.activations import spell
from hwprune.compilation.layers import Layer
from hwprune.compilation.operator_view import OperatorView, are_channels_last, shape_of

#: What a reader answers: a layer, several of which the last gives the operator's result, or none.
Read = Layer | list[Layer] | None

#: Operators that are activations without numbers, by ATen's names.
PLAIN_ACTIVATIONS = ("relu", "relu6", "silu", "sigmoid", "hardswish", "hardsigmoid", "mish", "tanh")

#: Largest float32, which clips nothing.
_UNBOUNDED = 3.4028234e38

_SELU = (1.6732632423543772, 1.0507009873554805)


def kind_of(value: Any) -> Literal["vectors", "rows", "images", ""]:
    """Where a value's channels are: (N, C), (N, ..., C), (N, C, H, W), or nowhere that we know."""
    rank = len(shape_of(value))
    if rank == 2:
        return "vectors"
    if are_channels_last(value):
        return "rows"
    return "images" if rank == 4 else ""


def _convolution(op: OperatorView) -> Read:
    weight, parameters = shape_of(op["weight"]), op.parameters(weight="weight", bias="bias")
    if "weight" not in parameters or len(shape_of(op["input"])) != 4:
        return None
    channels, groups = shape_of(op["input"])[1], op["groups"]
    is_depthwise = groups == channels == weight[0]
    name = "conv2d" if groups == 1 else "depthwise" if is_depthwise else "conv2d_grouped"
    before, after = _conv_padding(op, weight)
    settings = {"stride": op.pair("stride"), "padding": before, "dilation": op.pair("dilation")}
    layer = op.layer(name, op["input"], parameters=parameters, **settings)
    if before == after:
        return layer
    # What the two sides differ by is padded by a call of its own.
    padded = f"{op.node.name}_padded"
    edges = (0, after[0] - before[0], 0, after[1] - before[1])
    return [replace(op.layer("border", op["input"], edges=edges), outputs=(padded,)), replace(layer, inputs=(padded,))]


def _conv_padding(op: OperatorView, weight: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns before the image, and behind it."""
    if not isinstance(op["padding"], str):
        return op.pair("padding"), op.pair("padding")
    if op["padding"] == "valid":
        return (0, 0), (0, 0)
    (y, x) = (dilation * (taps - 1) for dilation, taps in zip(op.pair("dilation"), weight[2:], strict=True))
    return (y // 2, x // 2), (y - y // 2, x - x // 2)


def _transposed_convolution(op: OperatorView) -> Read:
    parameters = op.parameters(weight="weight", bias="bias")
    if "weight" not in parameters or op["groups"] != 1 or op.pair("dilation") != (1, 1):
        return None
    settings = {"stride": op.pair("stride"), "padding": op.pair("padding"), "out": shape_of(op.node)[2:]}
    return op.layer("conv2d_transposed", op["input"], parameters=parameters, **settings)


def _linear(op: OperatorView) -> Read:
    parameters, kind = op.parameters(weight="weight", bias="bias"), kind_of(op["input"])
    if "weight" not in parameters or kind not in ("vectors", "rows"):
        return None
    return op.layer("dense" if kind == "vectors" else "dense_rows", op["input"], parameters=parameters)


def _batch_norm(op: OperatorView) -> Read:
    roles = {"bn_weight": "weight", "bn_bias": "bias", "bn_mean": "running_mean", "bn_var": "running_var"}
    parameters = op.parameters(**roles)
    known = kind_of(op["input"]) in ("vectors", "images")
    if not known or not {"bn_mean", "bn_var"} <= parameters.keys() or op["training"]:
        return None
    return op.layer("batch_norm", op["input"], parameters=parameters, epsilon=float(op["eps"]))


def _layer_norm(op: OperatorView) -> Read:
    if kind_of(op["input"]) not in ("rows", "vectors") or len(op["normalized_shape"]) != 1:
        return None
    parameters = op.parameters(weight="weight", bias="bias")
    return op.layer("layer_norm", op["input"], parameters=parameters, epsilon=float(op["eps"]))


def _softmax(op: OperatorView) -> Read:
    kind, rank = kind_of(op["self"]), len(shape_of(op["self"]))
    if not kind or op["dtype"] is not None or op["dim"] % rank != (1 if kind == "images" else rank - 1):
        return None
    return op.layer("softmax", op["self"])


def _activation(op: OperatorView) -> Read:
    """An element-wise function, with its numbers."""
    spelled = _spelled(op)
    if spelled is None or not kind_of(op["self"]):
        return None
    return replace(op.layer("activation", op["self"]), activation=spelled)


def _spelled(op: OperatorView) -> str | None:
    """Name and numbers of an activation; None for one that we lack."""
    name = op.name
    if name in PLAIN_ACTIVATIONS:
        return str(name)
    if name == "gelu":
        return "gelu" if op["approximate"] == "none" else "gelu_tanh"
    if name == "leaky_relu":
        return spell("leaky_relu", op["negative_slope"])
    if name == "elu":
        return spell("elu", op["alpha"], op["scale"]) if op["input_scale"] == 1 else None
    if name == "selu":
        return spell("elu", *_SELU)
    if name == "celu":
        return spell("elu", 1, 1) if op["alpha"] == 1 else None
    if name == "neg":
        return spell("linear", -1, 0)
    return _clip(*(op.arguments.get(f"{bound}_val", op.arguments.get(bound)) for bound in ("min", "max")))


def _clip(low: Any, high: Any) -> str | None:
    if (low, high) == (0, 6):
        return "relu6"
    bounds = [-_UNBOUNDED if low is None else low, _UNBOUNDED if high is None else high]
    return spell("clip", *bounds) if all(map(_is_number, bounds)) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _prelu(op: OperatorView) -> Read:
    parameters = op.parameters(weight="weight")
    if kind_of(op["self"]) not in ("vectors", "images") or not parameters:
        return None
    return op.layer("prelu", op["self"], parameters=parameters)


#: Factor and offset of an element that meets a number.
_WITH_NUMBER: dict[str, Callable[[float, float], tuple[float, float]]] = {
    "add": lambda number, alpha: (1.0, alpha * number),
    "sub": lambda number, alpha: (1.0, -alpha * number),
    "rsub": lambda number, alpha: (-alpha, number),
    "mul": lambda number, _: (number, 0.0),
    "div": lambda number, _: (1.0 / number, 0.0),
}


def _arithmetic(op: OperatorView) -> Read:
    """Sums, differences, products and quotients with a number, with a channel's number, or of two values."""
    left, right, alpha = op["self"], op["other"], op.arguments.get("alpha", 1)
    if op.arguments.get("rounding_mode") is not None:
        return None
    if _is_number(right):
        if not kind_of(left) or (op.name == "div" and not right):
            return None
        return replace(op.layer("activation", left), activation=spell("linear", *_WITH_NUMBER[op.name](right, alpha)))
    if op.name not in ("add", "sub", "mul") or alpha != 1:
        return None
    if op.is_value(left) and op.is_value(right):
        return _of_two(op, left, right)
    if op.name == "sub":
        return None
    value, parameter = (left, right) if op.is_value(left) else (right, left)
    return _with_parameter(op, value, parameter)


def _of_two(op: OperatorView, left: Any, right: Any) -> Read:
    a, b = shape_of(left), shape_of(right)
    if not kind_of(left) or kind_of(left) != kind_of(right):
        return None
    if a == b:
        return op.layer(op.name, left, right)
    if kind_of(left) != "images" or op.name == "sub" or a[:2] != b[:2]:
        return None
    by_channel = {"add": "shift", "mul": "scale"}[op.name]
    if b[2:] == (1, 1):
        return op.layer(by_channel, left, right)
    return op.layer(by_channel, right, left) if a[2:] == (1, 1) else None


def _with_parameter(op: OperatorView, value: Any, parameter: Any) -> Read:
    """A parameter that has a number for every channel."""
    shape, kind = shape_of(value), kind_of(value)
    if not kind or not op.is_value(value) or not op.is_parameter(parameter):
        return None
    wanted = (shape[1], 1, 1) if kind == "images" else shape[-1:]
    found = shape_of(parameter)
    if found[len(found) - len(wanted) :] != wanted or any(size != 1 for size in found[: len(found) - len(wanted)]):
        return None
    role = "shift" if op.name == "add" else "scale"
    return op.layer("affine", value, parameters={role: op.tensors[parameter.name]})


READERS: dict[str, Callable[[OperatorView], Read]] = {
    "conv2d": _convolution,
    "conv_transpose2d": _transposed_convolution,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "softmax": _softmax,
    **dict.fromkeys(PLAIN_ACTIVATIONS, _activation),
    **dict.fromkeys(("gelu", "leaky_relu", "elu", "selu", "celu", "neg"), _activation),
    **dict.fromkeys(("hardtanh", "clamp", "clamp_min", "clamp_max"), _activation),
    "prelu": _prelu,
    **dict.fromkeys(_WITH_NUMBER, _arithmetic),
}

#: Those that also read values whose channels come last.
READERS_OF_ROWS = {name: reader for name, reader in READERS.items() if name not in ("conv2d", "conv_transpose2d")}
