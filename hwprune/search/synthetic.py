"""A pruning problem made of formulas, for tests and benchmarks: no network, no device, microseconds an evaluation.

It has what makes pruning hard to search: groups of unequal importance that add up in the error, a latency that stands
still between the device's channel steps, and a memory that the largest activation decides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hwprune.search.problem import SearchProblem
from hwprune.search.space import SearchSpace

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WidthPlan:
    """A plan that is nothing but its widths.

    Attributes:
        widths: kept channels of every group.
    """

    widths: tuple[int, ...]

    @property
    def key(self) -> str:
        """Digest of the widths."""
        return hashlib.sha256(repr(self.widths).encode()).hexdigest()


def width_plan(widths: IntArray) -> WidthPlan:
    """Plan of ``(G,)`` widths."""
    return WidthPlan(tuple(int(width) for width in widths))


def staircase_problem(
    *,
    blocks_per_stage: int = 9,
    latency_step: int = 16,
    round_to: int = 2,
    seed: int = 0,
    bounds: Mapping[str, float] | None = None,
    **more: Any,
) -> SearchProblem:
    """ResNet-like problem: three stages of 16, 32 and 64 channels at 32, 16 and 8 pixels, one gene a block.

    Args:
        blocks_per_stage: genes a stage; 9 is ResNet-56.
        latency_step: channels up to which the next ones cost no time.
        round_to: step of the widths.
        seed: of the importances of the groups.
        bounds: upper bounds by objective.
        more: further fields of the problem, as ``refiner``.
    """
    dense = np.repeat([16, 32, 64], blocks_per_stage)
    pixels = np.repeat([32, 16, 8], blocks_per_stage) ** 2
    generator = np.random.default_rng(seed)
    importance = generator.lognormal(0, 0.8, len(dense))
    importance /= importance.sum()
    sharpness = generator.uniform(1.5, 4.0, len(dense))
    neighbours = generator.uniform(0, 1, len(dense) - 1) * np.sqrt(importance[1:] * importance[:-1])

    def accuracy(plan: WidthPlan) -> float:
        lost = 1 - np.array(plan.widths) / dense
        harm = importance * lost**sharpness
        # Two thin blocks in a row harm more than each by itself.
        joint = (neighbours * lost[1:] * lost[:-1]).sum()
        return float(0.1 + 0.84 * np.exp(-1.5 * (harm.sum() + joint)))

    def costs(widths: IntArray) -> dict[str, FloatArray]:
        padded = -(-widths // latency_step) * latency_step
        latency_ms = (2e-6 * padded * dense * pixels / 16 + 0.001).sum(axis=1)
        weights = (2 * 9 * 4 * widths * dense).sum(axis=1)
        activations = (4 * pixels * (2 * dense + widths)).max(axis=1)
        return {"latency": latency_ms, "peak_memory": (weights + activations).astype(np.float64)}

    scores = [generator.lognormal(0, 1, channels) for channels in dense]
    space = SearchSpace.of(dense.tolist(), round_to=round_to, scores=scores)
    objectives = ("error", "latency", "peak_memory")
    return SearchProblem(space, objectives, costs, width_plan, accuracy, bounds=bounds or {}, **more)


def reference_point(problem: SearchProblem) -> FloatArray:
    """``(n_obj,)`` reference of the hypervolume: the dense network, its error 0.2 higher."""
    dense = problem.evaluate(problem.plan(problem.space.sizes), problem.space.sizes, "dense", 0)
    return np.array([dense.objectives[name] + (0.2 if name == "error" else 0.0) for name in problem.objectives])
