"""ONNX operators that work element by element, and reductions."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hwprune.models.onnx_node import OnnxNode

#: torch's types by the numbers of ONNX's.
TYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}


def _plain(run: Callable[[Tensor], Tensor]) -> Callable[[OnnxNode], Tensor]:
    """A function of one tensor, without attributes."""
    return lambda node: run(node.tensor(0))


def _two(run: Callable[[Any, Any], Any]) -> Callable[[OnnxNode], Tensor]:
    """A function of two operands, of which one may be a number."""

    def read(node: OnnxNode) -> Tensor:
        left, right = node.either(0), node.either(1)
        found: Tensor = run(left, right)
        return found

    return read


def _many(run: Callable[[Any, Any], Tensor]) -> Callable[[OnnxNode], Tensor]:
    """A function of two tensors, taken from the first to the last."""
    return lambda node: functools.reduce(run, [node.tensor(index) for index in range(len(node.operands))])


def _mean(node: OnnxNode) -> Tensor:
    total: Tensor = _many(torch.add)(node)
    return total / len(node.operands)


def _div(node: OnnxNode) -> Tensor:
    left, right = node.either(0), node.either(1)
    is_float = any(each.is_floating_point() for each in (left, right) if isinstance(each, Tensor))
    if is_float or isinstance(left, float) or isinstance(right, float):
        return left / right  # type: ignore[return-value]
    return torch.div(node.tensor(0), right, rounding_mode="trunc")


def _mod(node: OnnxNode) -> Tensor:
    run = torch.fmod if node.get("fmod", 0) else torch.remainder
    return run(node.tensor(0), node.tensor(1))


def _clip(node: OnnxNode) -> Tensor:
    low, high = node.option("min", 1), node.option("max", 2)
    if (low, high) == (0, 6):
        return F.relu6(node.tensor(0))
    if (low, high) == (0, None):
        return F.relu(node.tensor(0))
    return node.tensor(0) if low is None and high is None else node.tensor(0).clamp(low, high)


def _gelu(node: OnnxNode) -> Tensor:
    return F.gelu(node.tensor(0), approximate=node.get("approximate", "none"))


def _hard_sigmoid(node: OnnxNode) -> Tensor:
    alpha, beta = float(node.get("alpha", 0.2)), float(node.get("beta", 0.5))
    if math.isclose(alpha, 1 / 6, rel_tol=1e-5) and beta == 0.5:
        return F.hardsigmoid(node.tensor(0))
    return (alpha * node.tensor(0) + beta).clamp(0, 1)


def _p_relu(node: OnnxNode) -> Tensor:
    x, slope = node.tensor(0), node.known(1)
    if slope is not None and (slope.size == 1 or _is_of_channels(slope.shape, x)):
        return F.prelu(x, node.keep("slope", slope.reshape(-1)))
    return torch.where(x < 0, x * node.tensor(1), x)


def _is_of_channels(shape: tuple[int, ...], x: Tensor) -> bool:
    """Whether an array that meets ``x`` has one number for each of its channels."""
    return (1,) * (x.ndim - len(shape)) + tuple(shape) == (1, x.shape[1]) + (1,) * (x.ndim - 2)


def _thresholded(node: OnnxNode) -> Tensor:
    return F.threshold(node.tensor(0), float(node.get("alpha", 1.0)), 0.0)


def _where(node: OnnxNode) -> Tensor:
    return torch.where(node.tensor(0), node.tensor(1), node.tensor(2))


def _cast(node: OnnxNode) -> Tensor:
    if node.get("to") not in TYPES:
        raise node.unreadable(f"to type {node.get('to')}")
    return node.tensor(0).to(TYPES[node.get("to")])


def _cast_like(node: OnnxNode) -> Tensor:
    return node.tensor(0).to(node.tensor(1).dtype)


def _cum_sum(node: OnnxNode) -> Tensor:
    axis = node.option("axis", 1)
    if node.get("exclusive", 0) or node.get("reverse", 0):
        raise node.unreadable("that is exclusive or reversed")
    return node.tensor(0).cumsum(axis if isinstance(axis, int) else axis[0])


def _reduce(run: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[[OnnxNode], Tensor]:
    """A reduction over axes, all of them where none are given."""

    def read(node: OnnxNode) -> Tensor:
        x = node.tensor(0)
        axes = node.option("axes", 1)
        if not axes:
            if node.get("noop_with_empty_axes", 0):
                return x
            axes = range(x.ndim)
        return run(x, [axis % x.ndim for axis in axes], bool(node.get("keepdims", 1)))

    return read


def _product(x: Tensor, axes: list[int], keepdim: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keepdim)
    return x


def _arg(run: Callable[..., Tensor]) -> Callable[[OnnxNode], Tensor]:
    def read(node: OnnxNode) -> Tensor:
        return run(node.tensor(0), node.get("axis", 0), bool(node.get("keepdims", 1)))

    return read


READERS: dict[str, Callable[[OnnxNode], Tensor]] = {
    "Relu": _plain(F.relu),
    "Sigmoid": _plain(torch.sigmoid),
    "Tanh": _plain(torch.tanh),
    "HardSwish": _plain(F.hardswish),
    "Mish": _plain(F.mish),
    "Softplus": _plain(F.softplus),
    "Softsign": _plain(F.softsign),
    "Selu": _plain(F.selu),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Log": _plain(torch.log),
    "Sqrt": _plain(torch.sqrt),
    "Abs": _plain(torch.abs),
    "Neg": _plain(torch.neg),
    "Floor": _plain(torch.floor),
    "Ceil": _plain(torch.ceil),
    "Round": _plain(torch.round),
    "Sign": _plain(torch.sign),
    "Sin": _plain(torch.sin),
    "Cos": _plain(torch.cos),
    "Reciprocal": _plain(torch.reciprocal),
    "Not": _plain(torch.logical_not),
    "LeakyRelu": lambda node: F.leaky_relu(node.tensor(0), float(node.get("alpha", 0.01))),
    "Elu": lambda node: F.elu(node.tensor(0), float(node.get("alpha", 1.0))),
    "Celu": lambda node: F.celu(node.tensor(0), float(node.get("alpha", 1.0))),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "PRelu": _p_relu,
    "ThresholdedRelu": _thresholded,
    "Clip": _clip,
    "Add": _two(operator.add),
    "Sub": _two(operator.sub),
    "Mul": _two(operator.mul),
    "Div": _div,
    "Pow": _two(operator.pow),
    "Mod": _mod,
    "Equal": _two(operator.eq),
    "Less": _two(operator.lt),
    "LessOrEqual": _two(operator.le),
    "Greater": _two(operator.gt),
    "GreaterOrEqual": _two(operator.ge),
    "And": _two(operator.and_),
    "Or": _two(operator.or_),
    "Sum": _many(torch.add),
    "Max": _many(torch.maximum),
    "Min": _many(torch.minimum),
    "Mean": _mean,
    "Where": _where,
    "Cast": _cast,
    "CastLike": _cast_like,
    "CumSum": _cum_sum,
    "ReduceMean": _reduce(lambda x, axes, keep: x.mean(axes, keep)),
    "ReduceSum": _reduce(lambda x, axes, keep: x.sum(axes, keep)),
    "ReduceMax": _reduce(lambda x, axes, keep: x.amax(axes, keep)),
    "ReduceMin": _reduce(lambda x, axes, keep: x.amin(axes, keep)),
    "ReduceProd": _reduce(_product),
    "ReduceL1": _reduce(lambda x, axes, keep: x.abs().sum(axes, keep)),
    "ReduceL2": _reduce(lambda x, axes, keep: x.square().sum(axes, keep).sqrt()),
    "ReduceSumSquare": _reduce(lambda x, axes, keep: x.square().sum(axes, keep)),
    "ReduceLogSumExp": _reduce(lambda x, axes, keep: x.logsumexp(axes, keep)),
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
}
