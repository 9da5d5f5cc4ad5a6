"""What an objective is, and what it may draw its numbers from."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from hwprune.errors import ConfigError
from latency_models.shapes import NetworkShapes

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Source = TypeVar("Source")


def _one_minus(metrics: FloatArray) -> FloatArray:
    return 1.0 - metrics


@dataclass(frozen=True)
class Sources:
    """Where objectives get their numbers; what this problem or device cannot tell is None.

    Attributes:
        dense_widths: ``(G,)`` channels of every group of the unpruned network.
        shapes: ``(n, G)`` widths to the layer shapes of n networks.
        parameters: ``(n, G)`` widths to ``(n,)`` parameter counts.
        latency_ms: layer shapes of n networks to their mean and spread in ms, ``(n,)`` each; asked anew every time, so
            that a recalibrated model counts at once.
        planned_memory_bytes: ``(n, G)`` widths to ``(n,)`` bytes of packed weights and arena.
        energy_mj: ``(n, G)`` widths to ``(n,)`` millijoules of one inference.
        error: ``(n,)`` values of the task's metric to ``(n,)`` errors, minimized.
    """

    dense_widths: IntArray
    shapes: Callable[[IntArray], NetworkShapes] | None = None
    parameters: Callable[[IntArray], npt.ArrayLike] | None = None
    latency_ms: Callable[[NetworkShapes], tuple[FloatArray, FloatArray]] | None = None
    planned_memory_bytes: Callable[[IntArray], npt.ArrayLike] | None = None
    energy_mj: Callable[[IntArray], npt.ArrayLike] | None = None
    error: Callable[[FloatArray], FloatArray] = _one_minus


@dataclass(frozen=True)
class Candidates:
    """Pruned networks that objectives are asked about; what several objectives need is computed once.

    Attributes:
        widths: ``(n, G)`` kept channels of every group.
        sources: where the numbers come from.
        metrics: ``(n,)`` task's metric of each where they were truly evaluated.
    """

    widths: IntArray
    sources: Sources
    metrics: FloatArray | None = None

    @functools.cached_property
    def shapes(self) -> NetworkShapes:
        """Layer shapes of all candidates.

        Raises:
            ConfigError: this problem gives none.
        """
        return need(self.sources.shapes, "latency and macs", "use a network that hwprune can trace")(self.widths)


class Objective(Protocol):
    """One minimized quantity of a pruned network.

    Attributes:
        name: as written in a problem's ``objectives``.
        unit: of its values, "" for counts and fractions.
        column: its name in tables and constraints, with the unit.
        description: one sentence for people.
        needs_metric: takes a true evaluation; the others are computed from widths alone, many candidates at once.
    """

    name: str
    unit: str
    column: str
    description: str
    needs_metric: bool

    def evaluate(self, candidates: Candidates) -> FloatArray:
        """``(n,)`` values, smaller is better."""
        ...


def need(source: Source | None, objective: str, remedy: str) -> Source:
    """``source``, which ``objective`` cannot do without.

    Raises:
        ConfigError: it is None; the message names the remedy.
    """
    if source is None:
        raise ConfigError(f"objective {objective} cannot be computed here: {remedy}")
    return source
