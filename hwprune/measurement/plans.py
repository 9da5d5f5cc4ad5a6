"""Plans of candidates by arithmetic: what a library is called with, without cutting a tensor."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from hwprune.compilation.kernels.families import FAMILIES, specify
from hwprune.compilation.kernels.kernel import Usage
from hwprune.compilation.plan import Call, Plan
from hwprune.compilation.targets import CpuTarget
from hwprune.errors import TraceError
from hwprune.measurement.shapes import ShapeArithmetic
from latency_models.shapes import LayerShape

#: Random candidates whose plans must be those that cutting gives.
_CHECKS = 4

#: Layers at widths of theirs whose kernels are kept: those of a search come again and again.
_KEPT = 1 << 14


@dataclass(frozen=True)
class PlanArithmetic:
    """A network's plan as a function of its groups' widths, for networks whose buffers hold one layer's output each.

    Such a network's calls, and who reads what, are the same at all widths; kernels, integers and sizes follow from the
    layers' channel counts. Concatenations, sparse kernels and fallbacks do not, and are found when it is learnt.

    Attributes:
        shapes: channel counts of candidates.
        dense: plan of the dense network.
        target: CPU that it is planned for.
    """

    shapes: ShapeArithmetic
    dense: Plan
    target: CpuTarget

    @classmethod
    def learn(
        cls,
        plan_at: Callable[[Sequence[int]], Plan],
        shapes: ShapeArithmetic,
        target: CpuTarget,
        *,
        seed: int = 0,
    ) -> Self:
        """Take the dense network's plan, and check those of random candidates against it.

        Args:
            plan_at: the compiler's plan at given widths.
            shapes: channel counts at given widths.
            target: what ``plan_at`` plans for.
            seed: of the random candidates.

        Raises:
            TraceError: plans differ in more than the layers' channel counts.
        """
        sizes = shapes.sizes.astype(np.int64)
        dense = plan_at([int(size) for size in sizes])
        if any(call.shape.op not in FAMILIES for call in dense.calls):
            raise TraceError("the network has kernels that its layers' channels alone do not tell")
        arithmetic = cls(shapes, dense, target)
        generator = np.random.default_rng(seed)
        for row in (sizes, *generator.integers(1, sizes + 1, size=(_CHECKS, len(sizes)))):
            widths = [int(width) for width in row]
            if _content(arithmetic(widths)) != _content(plan_at(widths)):
                raise TraceError(f"the network's plan at widths {widths} differs in more than its layers' channels")
        return arithmetic

    def __call__(self, widths: Sequence[int]) -> Plan:
        """Plan of the network with these widths, without its parameters."""
        channels = self.shapes(np.asarray([widths]))
        plan = Plan(self.dense.batch, self.dense.threads, self.dense.inputs, self.dense.outputs)
        plan.storages = dict(self.dense.storages)
        pairs = zip(channels.in_channels[0].tolist(), channels.out_channels[0].tolist(), strict=True)
        for step, (call, (c_in, c_out)) in enumerate(zip(self.dense.calls, pairs, strict=True)):
            shape, usage = self._layer(step, c_in, c_out)
            images = 1 if usage.whole_batch else plan.batch
            for place, size in zip(call.outputs, usage.outputs, strict=False):  # a fault is found by the check
                plan.storages[place.storage] = size * images
            plan.calls.append(Call(shape, functools.partial(_given, usage), call.inputs, call.outputs))
        for call in plan.calls:
            call.inputs, call.outputs = (
                tuple(replace(place, stride_floats=plan.storages[place.storage] // plan.batch) for place in places)
                for places in (call.inputs, call.outputs)
            )
        return plan

    @functools.cached_property
    def _layer(self) -> Callable[[int, int, int], tuple[LayerShape, Usage]]:
        """Layer and kernel of a call at its channel counts."""

        @functools.lru_cache(_KEPT)
        def layer(step: int, in_channels: int, out_channels: int) -> tuple[LayerShape, Usage]:
            shape = self.dense.calls[step].shape.with_channels(in_channels, out_channels)
            return shape, specify(shape, self.target)

        return layer


def _given(usage: Usage) -> Usage:
    return usage


def _content(plan: Plan) -> tuple[object, ...]:
    """All of a plan but its parameters."""
    calls = [(call.shape, call.usage, call.inputs, call.outputs) for call in plan.calls]
    return plan.batch, plan.threads, plan.inputs, plan.outputs, calls, plan.storages
