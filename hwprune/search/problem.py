"""What is searched: a space of widths, objectives over it, upper bounds on some of them."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from hwprune import objectives as objective_plugins
from hwprune.errors import CompileError, ConfigError, InfeasibleError
from hwprune.records import Evaluation, Measurement, Score
from hwprune.search.operators import latin_hypercube
from hwprune.search.space import SearchSpace
from latency_models.shapes import NetworkShapes

if TYPE_CHECKING:  # torch takes a second to import, and a problem of formulas needs none of it
    from hwprune.search.network import PrunableNetwork

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Value = TypeVar("Value")

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

    @property
    def widths(self) -> tuple[int, ...]:
        """Kept channels of every group."""
        ...


class Refiner(Protocol):
    """Corrects the latency model during a search, by measuring a few networks near the front."""

    def measure(self, front: Sequence[Evaluation]) -> dict[str, Any]:
        """Measure some of ``front`` and say what came out as plain data for the journal; empty for nothing new."""
        ...

    def apply(self, data: dict[str, Any]) -> None:
        """Take what :meth:`measure` once said into the model; the same data in the same order, the same model."""
        ...


class Judge(Protocol):
    """Takes the metric of many plans: as cheaply as it can, on as many processes as it has."""

    def scores(self, plans: Sequence[Any], bars: Sequence[float]) -> Iterator[Score]:
        """Score of every plan, in their order, each as soon as it is there; a failure is data.

        The same plans and bars get the same scores, however many processes there are.

        Args:
            plans: distinct plans.
            bars: error of each that another candidate has at no higher cost; who is surely worse may be given up
                before it has seen the whole split. inf where it must see it.
        """
        ...

    def known(self) -> Sequence[tuple[tuple[int, ...], str, Score]]:
        """Widths, plan key and score of all candidates that searches before this one took through the whole split."""
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
        judge: takes the metrics of many plans in the place of ``accuracy``; None where there is nothing faster.
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
        passes: a plan to the multiply-adds of its true evaluation, in passes of the dense network over the validation
            images; 1 where nobody counts.
        network: the network itself, for methods that look inside it; None where there is none.
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
    judge: Judge | None = None
    passes: Callable[[Any], float] = lambda plan: 1.0
    network: PrunableNetwork | None = None

    def cheap(self, widths: IntArray) -> dict[str, FloatArray]:
        """Cheap objectives of ``(n, G)`` widths by name, ``(n,)`` each."""
        return {name: np.asarray(values, dtype=np.float64) for name, values in self.costs(widths).items()}

    def evaluate(self, plan: Any, widths: IntArray, origin: str, generation: int) -> Evaluation:
        """Evaluate one plan truly, a second time where the first fails; a failure is data."""
        started = time.perf_counter()
        costs, reason = self.costs_of(plan, widths)
        score = Score(None, error=reason) if reason else next(iter(self.scores([plan], [float("inf")])))
        seconds = time.perf_counter() - started
        return self.evaluation(plan, widths, costs, score, origin, generation, seconds)

    def costs_of(self, plan: Any, widths: IntArray) -> tuple[dict[str, float], str | None]:
        """All objectives of one plan but its error, computed or measured; or none and the reason."""

        def compute() -> dict[str, float]:
            values = {name: float(value[0]) for name, value in self.cheap(widths[None]).items()}
            if self.exact is not None:
                values |= {name: float(value) for name, value in self.exact(plan).items()}
            if self.measure is not None:
                values["latency"] = _trusted_latency_ms(self.measure(plan))
            return _finite(values)

        costs, reason = attempt(compute)
        return costs or {}, reason

    def scores(self, plans: Sequence[Any], bars: Sequence[float]) -> Iterator[Score]:
        """Score of every plan, in their order; see :meth:`Judge.scores`."""
        if self.judge is not None:
            yield from self.judge.scores(plans, bars)
            return
        for plan in plans:
            metric, reason = attempt(functools.partial(self.accuracy, plan))
            yield Score(None if metric is None else float(metric), error=reason)

    def evaluation(
        self,
        plan: Any,
        widths: IntArray,
        costs: Mapping[str, float],
        score: Score,
        origin: str,
        generation: int,
        seconds: float,
    ) -> Evaluation:
        """Record of a plan whose costs and score are known."""
        kept = tuple(int(width) for width in widths)
        values, reason = {}, score.error
        if score.metric is not None:
            error = float(self.error(score.metric))
            values = {**costs, "error": error}
            reason = None if np.isfinite(error) else "ArithmeticError: error not finite"
        if reason is not None:
            return Evaluation(plan.key, kept, {}, None, origin, generation, seconds, reason)
        told = Evaluation(plan.key, kept, values, score.metric, origin, generation, seconds)
        return replace(told, images=score.images, stored=score.stored)


def attempt(compute: Callable[[], Value]) -> tuple[Value | None, str | None]:
    """What ``compute`` returns, or why it failed a second time too."""
    reason = None
    for _ in range(2):
        try:
            return compute(), None
        except CANDIDATE_FAILURES as error:
            reason = f"{type(error).__name__}: {error}"
    return None, reason


def _finite(values: dict[str, float]) -> dict[str, float]:
    """``values``.

    Raises:
        ArithmeticError: some are not finite.
    """
    wrong = [name for name, value in values.items() if not np.isfinite(value)]
    if wrong:
        raise ArithmeticError(f"{', '.join(wrong)} not finite")
    return values


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
