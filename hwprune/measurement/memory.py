"""Planned memory of many candidates by arithmetic: packed weights and the most that is alive at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from hwprune.compilation.kernels.families import FAMILIES, specify
from hwprune.compilation.kernels.kernel import Usage
from hwprune.compilation.plan import FLOAT_BYTES, Plan
from hwprune.compilation.targets import CpuTarget
from hwprune.errors import TraceError
from hwprune.measurement.shapes import ShapeArithmetic
from latency_models.shapes import NetworkShapes

FloatArray = npt.NDArray[np.float64]

#: Layers at widths of theirs whose kernels are kept.
_KEPT = 1 << 14

#: Random candidates whose plans the coefficients are learnt from, and others that they are checked on.
_PROBES, _CHECKS = 24, 4


@dataclass(frozen=True)
class MemoryArithmetic:
    """Bytes of a compiled network as a function of its groups' widths, learnt from a few plans.

    Most layers' channel counts tell their kernel, and so what it reads, writes and needs. Of the others (parts of
    concatenations), a buffer's size is linear in channels or in their whole blocks, of some up to a limit (scratch for
    a part of the channels at a time), and packed weights are linear in products of both. What this adds up is the bytes
    that live at once, which the arena cannot go below and seldom exceeds: good for screening, while a candidate that is
    evaluated truly gets its exact plan.

    Attributes:
        shapes: channel counts of candidates.
        batch: images an inference.
        target: CPU that the network is planned for.
        told: calls whose layer tells the kernel, by their number.
        sources: of every buffer that such a call is told to have, the call and what it is of it: ``-1`` for the output,
            else the number of the scratch; None for others.
        weights: ``(L, 8)`` bytes of the other calls' packed weights for each of the products of :func:`_products`.
        buffers: ``(B, 4 L)`` bytes of the other buffers for each layer's channels and blocks, inputs and outputs.
        constant: ``(B,)`` bytes of every buffer that depend on no width.
        limits: ``(B,)`` bytes that no buffer grows beyond; infinite where there is no such limit.
        alive: ``(steps, B)`` whether a buffer lives during a call.
    """

    shapes: ShapeArithmetic
    batch: int
    target: CpuTarget
    told: tuple[int, ...]
    sources: tuple[tuple[int, int] | None, ...]
    weights: FloatArray
    buffers: FloatArray
    constant: FloatArray
    limits: FloatArray
    alive: FloatArray

    @classmethod
    def learn(
        cls, plan_at: Callable[[Sequence[int]], Plan], shapes: ShapeArithmetic, target: CpuTarget, *, seed: int = 0
    ) -> Self:
        """Learn from the plans of random candidates.

        Args:
            plan_at: the compiler's plan at given widths.
            shapes: channel counts at given widths.
            target: what ``plan_at`` plans for.
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
        counts = _counts(channels, target.lanes)
        told = tuple(step for step in range(len(shapes.templates)) if _is_told(plans, step, target))
        lives = [plans[0].lives[name] for name in names]
        bytes_ = np.array([[plan.lives[name].size_bytes for name in names] for plan in plans], dtype=np.float64)
        buffers = np.zeros((len(names), counts.shape[1]))
        constant, limits = np.zeros(len(names)), np.full(len(names), np.inf)
        sources: list[tuple[int, int] | None] = []
        for index, (name, life) in enumerate(zip(names, lives, strict=True)):
            size_bytes = bytes_[:, index]
            sources.append(_source(plans, name, life.first) if life.first in told else None)
            if sources[-1] is not None:
                continue
            if np.all(size_bytes == size_bytes[0]):
                constant[index] = size_bytes[0]
                continue
            column, factor, limits[index] = _one_count(counts, size_bytes, life.first, len(shapes.templates))
            buffers[index, column] = factor
        packed = np.array(
            [[sum(call.usage.parameters) * FLOAT_BYTES for call in plan.calls] for plan in plans], dtype=np.float64
        )
        products = _products(channels, target.lanes)
        weights = np.zeros((packed.shape[1], products.shape[2]))
        for layer in set(range(packed.shape[1])) - set(told):
            weights[layer] = np.linalg.lstsq(products[:, layer], packed[:, layer])[0]
        steps = np.arange(len(shapes.templates))[:, None]
        alive = (np.array([life.first for life in lives]) <= steps) & (steps <= np.array([life.last for life in lives]))
        learnt = weights, buffers, constant, limits, alive.astype(np.float64)
        arithmetic = cls(shapes, plans[0].batch, target, told, tuple(sources), *learnt)
        expected = np.array([plan.arena.live_bytes + plan.weights_bytes for plan in plans[-_CHECKS:]], dtype=np.float64)
        if not np.allclose(arithmetic(widths[-_CHECKS:]), expected, rtol=0.01):
            raise TraceError("the network's memory is no sum over its channels: it cannot be predicted")
        return arithmetic

    def __call__(self, widths: npt.ArrayLike) -> FloatArray:
        """``(n,)`` bytes of packed weights and of what lives at once, of ``(n, G)`` widths."""
        channels = self.shapes(widths)
        total: FloatArray = self.live(widths)
        if len(self.told) < len(self.shapes.templates):
            total = total + np.einsum("nlk,lk->n", _products(channels, self.target.lanes), self.weights)
        for step in self.told:
            total = total + self._bytes(channels, step, lambda usage: sum(usage.parameters))
        return total

    def live(self, widths: npt.ArrayLike) -> FloatArray:
        """``(n,)`` most bytes of buffers that live at once, of ``(n, G)`` widths."""
        channels = self.shapes(widths)
        counts = _counts(channels, self.target.lanes)
        sizes = np.minimum(counts @ self.buffers.T, self.limits) + self.constant
        for index, source in enumerate(self.sources):
            if source:
                step, part = source
                sizes[:, index] = self._bytes(channels, step, functools.partial(_floats, part=part, batch=self.batch))
        live: FloatArray = (sizes @ self.alive.T).max(axis=1)
        return live

    def _bytes(self, channels: NetworkShapes, step: int, floats_of: Callable[[Usage], int]) -> FloatArray:
        """``(n,)`` bytes of something that a call has; each pair of widths is looked at once."""
        c_in, c_out = channels.in_channels[:, step], channels.out_channels[:, step]
        beyond = int(c_out.max(initial=0)) + 1
        pairs, places = np.unique(c_in * beyond + c_out, return_inverse=True)
        found = [floats_of(self._usage(step, int(pair) // beyond, int(pair) % beyond)) for pair in pairs]
        return FLOAT_BYTES * np.asarray(found, dtype=np.float64)[places]

    @functools.cached_property
    def _usage(self) -> Callable[[int, int, int], Usage]:
        """Kernel of a call at its channel counts."""

        @functools.lru_cache(_KEPT)
        def usage(step: int, in_channels: int, out_channels: int) -> Usage:
            return specify(self.shapes.templates[step].with_channels(in_channels, out_channels), self.target)

        return usage


def _is_told(plans: Sequence[Plan], step: int, target: CpuTarget) -> bool:
    """Whether a call's layer tells its kernel."""
    calls = [plan.calls[step] for plan in plans]
    return calls[0].shape.op in FAMILIES and all(specify(call.shape, target) == call.usage for call in calls)


def _source(plans: Sequence[Plan], name: str, step: int) -> tuple[int, int] | None:
    """What a buffer is of the call that first has it; None if its size is another than the kernel's."""
    part = int(name.rpartition(".")[2]) if name.startswith(f"{step}.") else -1
    sizes = ((_floats(plan.calls[step].usage, part, plan.batch), plan.lives[name].size_bytes) for plan in plans)
    return (step, part) if all(floats * FLOAT_BYTES == size for floats, size in sizes) else None


def _floats(usage: Usage, part: int, batch: int) -> int:
    """Float32 values of a kernel's scratch, or of its output, of the whole batch, if ``part`` is -1."""
    return usage.outputs[0] * (1 if usage.whole_batch else batch) if part < 0 else usage.scratch[part]


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
