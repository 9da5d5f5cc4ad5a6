"""What is searched: a space of widths, objectives over it, upper bounds on some of them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hwprune import objectives as objective_plugins
from hwprune.errors import CompileError, ConfigError, InfeasibleError
from hwprune.records import Evaluation, Measurement
from hwprune.search.operators import latin_hypercube
from hwprune.search.space import SearchSpace
from latency_models.shapes import NetworkShapes

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

#: What more error than the dense network's is of interest: the margin of published comparisons.
ERROR_MARGIN = 0.2
#: What can go wrong with one candidate alone; everything else (a lost device, a bug of ours) ends the search.
CANDIDATE_FAILURES = (CompileError, RuntimeError, ArithmeticError, MemoryError)


class Plan(Protocol):
    """What a genome decodes to: a set of kept channels with a digest."""

    @property
    def key(self) -> str:
        """Digest; equal plans have equal keys."""
        ...


class Refiner(Protocol):
    """Corrects the latency model during a search, by measuring a few networks near the front."""

    def measure(self, front: Sequence[Evaluation]) -> dict[str, Any]:
        """Measure some of ``front`` and say what came out as plain data for the journal; empty for nothing new."""
        ...

    def apply(self, data: dict[str, Any]) -> None:
        """Take what :meth:`measure` once said into the model; the same data in the same order, the same model."""
        ...


@dataclass(frozen=True)
class SearchProblem:
    """One pruning problem as a search sees it: functions of widths, no network.

    Attributes:
        space: the widths that may be chosen.
        objectives: names of what is minimized, in the order of the columns of ``F``.
        costs: ``(n, G)`` widths to the cheap objectives (all but ``error``) by name, ``(n,)`` each.
        plan: ``(G,)`` widths to the plan that keeps the most important channels.
        accuracy: a plan to the task's metric on the validation split: the expensive part of a true evaluation.
        error: the metric to the objective ``error``.
        exact: a plan to the objectives whose prediction is not exact but whose computation is (the memory plan).
        measure: a plan to its whole network's measurement, where ``latency`` is to be measured and not predicted.
        measure_ahead: told the plans of a generation before they are evaluated one by one: measured in turns, they
            share the moments in which the device is undisturbed, and :attr:`measure` finds them done.
        bounds: upper bounds by objective.
        refiner: corrects the latency model behind ``costs`` between generations.
        shapes: ``(n, G)`` widths to layer shapes, for the surrogate's features.
        channel_step: the device's channel step, for the surrogate's features.
        ref_point: ``(n_obj,)`` worst values that are of interest, the reference of the hypervolume; None for the dense
            network's, with an error that is :data:`ERROR_MARGIN` higher.
    """

    space: SearchSpace
    objectives: tuple[str, ...]
    costs: Callable[[IntArray], Mapping[str, FloatArray]]
    plan: Callable[[IntArray], Plan]
    accuracy: Callable[[Any], float]
    error: Callable[[float], float] = lambda metric: 1 - metric
    exact: Callable[[Any], Mapping[str, float]] | None = None
    measure: Callable[[Any], Measurement] | None = None
    measure_ahead: Callable[[Sequence[Any]], object] | None = None
    bounds: Mapping[str, float] = field(default_factory=dict)
    refiner: Refiner | None = None
    shapes: Callable[[IntArray], NetworkShapes] | None = None
    channel_step: int = 8
    ref_point: tuple[float, ...] | None = None

    def cheap(self, widths: IntArray) -> dict[str, FloatArray]:
        """Cheap objectives of ``(n, G)`` widths by name, ``(n,)`` each."""
        return {name: np.asarray(values, dtype=np.float64) for name, values in self.costs(widths).items()}

    def evaluate(self, plan: Any, widths: IntArray, origin: str, generation: int) -> Evaluation:
        """Evaluate one plan truly, a second time where the first fails; a failure is data."""
        started = time.perf_counter()
        values: dict[str, float] = {}
        metric = reason = None
        for _ in range(2):
            try:
                values, metric = self._values(plan, widths)
                reason = None
                break
            except CANDIDATE_FAILURES as error:
                values, metric, reason = {}, None, f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - started
        kept = tuple(int(width) for width in widths)
        return Evaluation(plan.key, kept, values, metric, origin, generation, seconds, reason)

    def _values(self, plan: Any, widths: IntArray) -> tuple[dict[str, float], float]:
        values = {name: float(value[0]) for name, value in self.cheap(widths[None]).items()}
        if self.exact is not None:
            values |= {name: float(value) for name, value in self.exact(plan).items()}
        if self.measure is not None:  # before the accuracy, which costs more
            values["latency"] = _trusted_latency_ms(self.measure(plan))
        metric = float(self.accuracy(plan))
        values["error"] = float(self.error(metric))
        wrong = [name for name, value in values.items() if not np.isfinite(value)]
        if wrong:
            raise ArithmeticError(f"{', '.join(wrong)} not finite")
        return values, metric


def _trusted_latency_ms(measurement: Measurement) -> float:
    """The measured latency.

    Raises:
        RuntimeError: there is none, or none to be believed.
    """
    if measurement.error is not None:
        raise RuntimeError(f"not measured: {measurement.error}")
    if measurement.trust == "C":
        raise RuntimeError(f"measured too unsteadily to be believed: {measurement.trust_reason}")
    return measurement.latency_ms


def parse_bounds(constraints: Mapping[str, object]) -> dict[str, float]:
    """Upper bounds by objective of constraints as a problem writes them: ``{"latency_ms": "<= 1.2"}``.

    Raises:
        UnknownNameError: no objective has this name or column.
        ConfigError: the text is not ``<=`` and a number.
    """
    bounds = {}
    for name, text in constraints.items():
        match = re.fullmatch(r"<=\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)", str(text).strip())
        if match is None:
            raise ConfigError(f'constraint {name}: {str(text)!r} is not a bound: write "<= NUMBER"')
        bounds[objective_plugins.find(name).name] = float(match.group(1))
    return bounds


@dataclass(frozen=True)
class Range:
    """Values that a cheap objective takes over a space.

    Attributes:
        minimum: smallest value found.
        dense: value of the unpruned network.
        maximum: largest value found.
    """

    minimum: float
    dense: float
    maximum: float


def feasible_range(problem: SearchProblem, samples: int = 256) -> dict[str, Range]:
    """Range of every cheap objective, over the extremes of the space, uniform widths and ``samples`` random ones.

    Latency need not rise with every width, so that the smallest network alone would not tell the minimum.
    """
    space = problem.space
    uniform = np.linspace(0, 1, 33)[:, None] * np.ones(space.n_var)
    genomes = np.vstack([uniform, latin_hypercube(samples, space.n_var, np.random.default_rng(0))])
    widths = np.vstack([space.sizes, space.smallest, space.decode(space.upper * genomes)])
    return {
        name: Range(float(values.min()), float(values[0]), float(values.max()))
        for name, values in problem.cheap(widths).items()
    }


def check_feasible(problem: SearchProblem, ranges: Mapping[str, Range] | None = None) -> None:
    """Refuse bounds that no candidate can meet, before anything is evaluated.

    Raises:
        InfeasibleError: a bound lies below the objective's minimum.
        ConfigError: an objective is constrained that the problem's costs do not tell.
    """
    ranges = feasible_range(problem) if ranges is None else ranges
    for name, bound in problem.bounds.items():
        if name == "error":
            continue
        if name not in ranges:
            raise ConfigError(f"constraint on {name!r}: its value is not computed; add it to the problem's costs")
        if bound < ranges[name].minimum:
            column = objective_plugins.load(name).column
            raise InfeasibleError(
                f"constraint {column} <= {bound:g} cannot be met: the smallest candidates reach "
                f"{ranges[name].minimum:g} (dense {ranges[name].dense:g}); raise the bound or pruning_ratio_max"
            )
