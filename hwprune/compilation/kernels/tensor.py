"""Pieces of tensor expressions that several families share."""

from __future__ import annotations

from typing import Any

from tvm import s_tir, te, tirx

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
    if activation == "relu":
        return te.max(value, ZERO)
    if activation == "relu6":
        return te.min(te.max(value, ZERO), const(6.0))
    if activation == "sigmoid":
        return _sigmoid(value)
    if activation == "silu":
        return value * _sigmoid(value)
    gate = te.min(te.max(value * const(1 / 6) + const(0.5), ZERO), const(1.0))
    return gate if activation == "hardsigmoid" else value * gate


def _sigmoid(value: Any) -> Any:
    return const(1.0) / (const(1.0) + exp(ZERO - value))


def exp(value: Any) -> Any:
    """Exponential, relative error below 3e-7, in vector instructions (libm's would be called lane by lane).

    The argument is split as n ln 2 + r with r in [-ln 2 / 2, ln 2 / 2]; a Taylor polynomial gives the exponential of r,
    and 2 to the n is built from its exponent bits.
    """
    value = te.max(te.min(value, const(88.0)), const(-87.0))
    n = te.floor(value * const(1.4426950408889634) + const(0.5))
    # ln 2 in two parts, so that the difference keeps its last bits.
    r = value - n * const(0.693359375) - n * const(-2.12194440e-4)
    polynomial = const(1 / 5040)
    for coefficient in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0):
        polynomial = polynomial * r + const(coefficient)
    bits = (n.astype("int32") + tirx.const(127, "int32")) << tirx.const(23, "int32")
    return polynomial * tirx.reinterpret("float32", bits)
