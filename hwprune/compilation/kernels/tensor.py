"""Pieces of tensor expressions that several families share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import s_tir, te, tirx

from hwprune.compilation.kernels.activations import parse

ZERO = tirx.const(0.0, "float32")


def number(name: str) -> Any:
    """An integer argument of a kernel."""
    return tirx.Var(name, "int32")


def schedule_of(arguments: list[Any]) -> Any:
    """Schedule of the function that has these arguments."""
    return s_tir.Schedule(te.create_prim_func(arguments), debug_mask=0)


def const(value: float) -> Any:
    """A float32 constant."""
    return tirx.const(value, "float32")


def activate(value: Any, activation: str) -> Any:
    """``activation`` of an expression; "" leaves it alone."""
    if activation == "":
        return value
    name, numbers = parse(activation)
    return ACTIVATIONS[name](value, *numbers)


def _clip(value: Any, low: float, high: float) -> Any:
    return te.min(te.max(value, const(low)), const(high))


def _leaky_relu(value: Any, slope: float) -> Any:
    return te.max(value, ZERO) + te.min(value, ZERO) * const(slope)


def _elu(value: Any, alpha: float, scale: float) -> Any:
    negative = (exp(te.min(value, ZERO)) - const(1.0)) * const(alpha)
    return (te.max(value, ZERO) + negative) * const(scale)


def _sigmoid(value: Any) -> Any:
    return const(1.0) / (const(1.0) + exp(ZERO - value))


def _hardsigmoid(value: Any) -> Any:
    return _clip(value * const(1 / 6) + const(0.5), 0.0, 1.0)


def _mish(value: Any) -> Any:
    """Value times tanh of ln(1 + e^value), which is n / (n + 2) with n = e^value (e^value + 2)."""
    e = exp(te.min(value, const(20.0)))
    n = e * (e + const(2.0))
    return value * (n / (n + const(2.0)))


def _gelu(value: Any) -> Any:
    """Value times the normal distribution's integral; erf as by Abramowitz and Stegun 7.1.26, error below 2e-7."""
    z = te.abs(value) * const(0.7071067811865476)
    t = const(1.0) / (const(1.0) + z * const(0.3275911))
    polynomial = _polynomial(t, 1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
    # Half of the complementary error function: the tail on the side away from the value.
    tail = polynomial * t * exp(ZERO - z * z) * const(0.5)
    return te.max(value, ZERO) - te.abs(value) * tail


def _gelu_tanh(value: Any) -> Any:
    # (1 + tanh z) / 2 is the sigmoid of 2 z.
    return value * _sigmoid((value + value * value * value * const(0.044715)) * const(2 * 0.7978845608028654))


def _tanh(value: Any) -> Any:
    """By the exponential; near zero, where that loses digits, by a polynomial."""
    z = te.abs(value)
    far = const(1.0) - const(2.0) / (exp(z + z) + const(1.0))
    square = value * value
    near = z + z * square * _polynomial(
        square, -5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1
    )
    result = tirx.Select(z < const(0.625), near, far)
    return tirx.Select(value < ZERO, ZERO - result, result)


#: Activations by name, as functions of an expression and their numbers.
ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "relu": lambda value: te.max(value, ZERO),
    "relu6": lambda value: _clip(value, 0.0, 6.0),
    "clip": _clip,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "sigmoid": _sigmoid,
    "silu": lambda value: value * _sigmoid(value),
    "hardsigmoid": _hardsigmoid,
    "hardswish": lambda value: value * _hardsigmoid(value),
    "mish": _mish,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "tanh": _tanh,
    "linear": lambda value, factor, offset: value * const(factor) + const(offset),
}


def _polynomial(value: Any, *coefficients: float) -> Any:
    """Coefficients of the highest power first."""
    result = const(coefficients[0])
    for coefficient in coefficients[1:]:
        result = result * value + const(coefficient)
    return result


def exp(value: Any) -> Any:
    """Exponential, relative error below 3e-7, in vector instructions (libm's would be called lane by lane).

    The argument is split as n ln 2 + r with r in [-ln 2 / 2, ln 2 / 2]; a Taylor polynomial gives the exponential of r,
    and 2 to the n is built from its exponent bits.
    """
    value = te.max(te.min(value, const(88.0)), const(-87.0))
    n = te.floor(value * const(1.4426950408889634) + const(0.5))
    # ln 2 in two parts, so that the difference keeps its last bits.
    r = value - n * const(0.693359375) - n * const(-2.12194440e-4)
    polynomial = _polynomial(r, 1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0)
    bits = (n.astype("int32") + tirx.const(127, "int32")) << tirx.const(23, "int32")
    return polynomial * tirx.reinterpret("float32", bits)
