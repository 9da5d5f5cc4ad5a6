"""Planned memory of many candidates by arithmetic: packed weights and the most that is alive at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from hwprune.compilation.plan import FLOAT_BYTES, Plan
from hwprune.errors import TraceError
from hwprune.measurement.shapes import ShapeArithmetic
from latency_models.shapes import NetworkShapes

FloatArray = npt.NDArray[np.float64]

#: Random candidates whose plans the coefficients are learnt from, and others that they are checked on.
_PROBES, _CHECKS = 24, 4


@dataclass(frozen=True)
class MemoryArithmetic:
    """Bytes of a compiled network as a function of its groups' widths, learnt from a few plans.

    A buffer's size is linear in its channels or in their whole blocks, of some up to a limit (scratch for a part of the
    channels at a time); packed weights are linear in products of both. What this adds up is the bytes that live at
    once, which the arena cannot go below and seldom exceeds: good for screening, while a candidate that is evaluated
    truly gets its exact plan.

    Attributes:
        shapes: channel counts of candidates.
        lanes: channels of a block.
        weights: ``(L, 8)`` bytes of packed weights for each of the products of :func:`_products`.
        buffers: ``(B, 4 L)`` bytes of every buffer for each layer's channels and blocks, inputs and outputs.
        constant: ``(B,)`` bytes of every buffer that depend on no width.
        limits: ``(B,)`` bytes that no buffer grows beyond; infinite where there is no such limit.
        alive: ``(steps, B)`` whether a buffer lives during a call.
    """

    shapes: ShapeArithmetic
    lanes: int
    weights: FloatArray
    buffers: FloatArray
    constant: FloatArray
    limits: FloatArray
    alive: FloatArray

    @classmethod
    def learn(
        cls, plan_at: Callable[[Sequence[int]], Plan], shapes: ShapeArithmetic, lanes: int, *, seed: int = 0
    ) -> Self:
        """Learn from the plans of random candidates.

        Args:
            plan_at: the compiler's plan at given widths.
            shapes: channel counts at given widths.
            lanes: channels of a block.
            seed: of the random candidates.

        Raises:
            TraceError: buffers come and go with the widths, or their sizes are no sums of channels.
        """
        generator = np.random.default_rng(seed)
        sizes = shapes.sizes.astype(np.int64)
        random_widths = generator.integers(1, sizes + 1, size=(_PROBES + _CHECKS - 1, len(sizes)))
        widths = np.vstack([sizes, random_widths])
        plans = [plan_at([int(width) for width in row]) for row in widths]
        names = list(plans[0].lives)
        if any(list(plan.lives) != names for plan in plans):
            raise TraceError("the network's buffers come and go with its widths: their memory cannot be predicted")
        channels = shapes(widths)
        counts = _counts(channels, lanes)
        lives = [plans[0].lives[name] for name in names]
        bytes_ = np.array([[plan.lives[name].size_bytes for name in names] for plan in plans], dtype=np.float64)
        buffers = np.zeros((len(names), counts.shape[1]))
        constant, limits = np.zeros(len(names)), np.full(len(names), np.inf)
        for index, life in enumerate(lives):
            size_bytes = bytes_[:, index]
            if np.all(size_bytes == size_bytes[0]):
                constant[index] = size_bytes[0]
                continue
            column, factor, limits[index] = _one_count(counts, size_bytes, life.first, len(shapes.templates))
            buffers[index, column] = factor
        packed = np.array(
            [[sum(call.usage.parameters) * FLOAT_BYTES for call in plan.calls] for plan in plans], dtype=np.float64
        )
        products = _products(channels, lanes)
        weights = np.stack(
            [np.linalg.lstsq(products[:, layer], packed[:, layer])[0] for layer in range(packed.shape[1])]
        )
        steps = np.arange(len(shapes.templates))[:, None]
        alive = (np.array([life.first for life in lives]) <= steps) & (steps <= np.array([life.last for life in lives]))
        arithmetic = cls(shapes, lanes, weights, buffers, constant, limits, alive.astype(np.float64))
        expected = np.array([plan.arena.live_bytes + plan.weights_bytes for plan in plans[-_CHECKS:]], dtype=np.float64)
        if not np.allclose(arithmetic(widths[-_CHECKS:]), expected, rtol=0.01):
            raise TraceError("the network's memory is no sum over its channels: it cannot be predicted")
        return arithmetic

    def __call__(self, widths: npt.ArrayLike) -> FloatArray:
        """``(n,)`` bytes of packed weights and of what lives at once, of ``(n, G)`` widths."""
        products = _products(self.shapes(widths), self.lanes)
        total: FloatArray = self.live(widths) + np.einsum("nlk,lk->n", products, self.weights)
        return total

    def live(self, widths: npt.ArrayLike) -> FloatArray:
        """``(n,)`` most bytes of buffers that live at once, of ``(n, G)`` widths."""
        counts = _counts(self.shapes(widths), self.lanes)
        sizes = np.minimum(counts @ self.buffers.T, self.limits) + self.constant
        live: FloatArray = (sizes @ self.alive.T).max(axis=1)
        return live


def _blocks(channels: npt.NDArray[np.int64], lanes: int) -> npt.NDArray[np.int64]:
    return -(-channels // lanes)


def _counts(shapes: NetworkShapes, lanes: int) -> FloatArray:
    """``(n, 4 L)``: input channels, their blocks, output channels, their blocks of all layers."""
    parts = [shapes.in_channels, _blocks(shapes.in_channels, lanes)]
    parts += [shapes.out_channels, _blocks(shapes.out_channels, lanes)]
    return np.hstack(parts).astype(np.float64)


def _products(shapes: NetworkShapes, lanes: int) -> FloatArray:
    """``(n, L, 8)``: what the size of packed weights is a sum of."""
    c_in, c_out = shapes.in_channels.astype(np.float64), shapes.out_channels.astype(np.float64)
    b_in, b_out = (_blocks(c, lanes).astype(np.float64) for c in (shapes.in_channels, shapes.out_channels))
    one = np.ones_like(c_in)
    return np.stack([one, c_in, c_out, b_in, b_out, c_in * c_out, c_in * b_out, b_in * c_out], axis=2)


def _one_count(counts: FloatArray, size_bytes: FloatArray, step: int, layers: int) -> tuple[int, float, float]:
    """The one count that a buffer is proportional to, at least up to a limit.

    Returns:
        Its column (of the call that first writes the buffer, or of any other), bytes a unit, and the limit in bytes.

    Raises:
        TraceError: it is proportional to none.
    """
    near = [part * layers + step for part in (3, 2, 1, 0)]
    columns = [*near, *(column for column in range(counts.shape[1]) if column not in near)]
    largest = float(size_bytes.max())
    for limit in (np.inf, largest):
        below = size_bytes < limit
        for column in columns:
            factor = float((size_bytes[below] / np.maximum(counts[below, column], 1)).max())
            if np.allclose(np.minimum(factor * counts[:, column], limit), size_bytes):
                return column, factor, float(limit)
    raise TraceError(
        f"a buffer of call {step} is not proportional to the channels of any layer: its size cannot be predicted"
    )
