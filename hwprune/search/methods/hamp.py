"""HAMP: hardware-aware multi-objective evolutionary pruning, a memetic algorithm with portfolio-based selection.

Hong, Li, Liu, Yang, Tang. Multi-objective evolutionary optimization for hardware-aware neural network pruning.
Fundamental Research 4(4), 2024, 941-950. https://doi.org/10.1016/j.fmre.2022.07.013

    --method hamp --set selection=hsr --set surrogate=forest

Written to follow the paper's abstract; details that it does not state are this project's choices. The numbers in the
code are the steps of docs/methods.md: 1 to 4 (groups, genome, decoding, objectives) belong to the problem, 7 and 8
(measuring and fine-tuning the front) to the run.

Choices of this implementation:
    - Portfolio is meant in the financial sense: capital is invested in individuals by the Hypervolume Sharpe-Ratio
      (``selection=hsr``); the other readings are named alternatives of the same switch.
    - Objectives that are cheap and exact, or that the device's model predicts, are used as they are; the surrogate is
      for the error alone: trees over a linear trend, judged by what they did not see.
    - A member's genome is that of its widths, so that what was rounded away is not inherited.
    - The population shrinks with budgets below 100, and generations go on until the budget is spent; with 740
      evaluations that is a population of 20 and 30 generations.
    - Constraints: feasible individuals come first in selection, screening and local search; the others by violation.
    - Children that were evaluated before are bred anew, so that every generation spends what it may.
    - A local search ends at the first step that betters nothing; an end point that was evaluated before gives way to
      its best neighbour that was not.
    - The local search's end points are evaluated before the children: they come first where the budget ends.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import moocore
import numpy as np
import numpy.typing as npt
from pydantic import Field

from hwprune.search.archive import Archive
from hwprune.search.evaluation import SearchContext
from hwprune.search.expected_hypervolume import FreeSpace
from hwprune.search.forecast import Forecaster
from hwprune.search.local_search import Judge, LocalSearch, Score
from hwprune.search.methods.base import MethodSettings, distinct, initial_widths, population_size
from hwprune.search.operators import (
    binary_tournament,
    latin_hypercube,
    polynomial_mutation,
    simulated_binary_crossover,
    stochastic_universal_sampling,
)
from hwprune.search.portfolio import Choice, peel
from hwprune.search.problem import SearchProblem
from hwprune.search.proposal import INFEASIBLE, Pool
from hwprune.search.surrogate import Kind
from hwprune.search.survival import OPERATORS, RULES, OperatorPortfolio, feasible_first

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Settings(MethodSettings):
    """Settings of HAMP; defaults are those of docs/methods.md unless it says otherwise here.

    Attributes:
        pop_size: individuals of the population; none for 20, or less where the budget is small.
        n_gen: generations; none for as many as the budget holds.
        n_offsprings: children a generation; none for ``pop_size``.
        selection: who survives: ``hsr`` (portfolio by Hypervolume Sharpe-Ratio), ``hv_greedy``, ``nsga2``, or
            ``operator_portfolio`` (a portfolio of survival rules).
        encoding: what a gene means, ``group_ratio`` or ``layer_threshold``.
        surrogate: regressor of the error, and of every other objective that is not known beforehand.
        proposal: what proposals are chosen for: the hypervolume that they are expected to gain together
            (``expected_hypervolume``), or investment beside the population and, in the local search, random weights
            (``investment``).
        forest_trees: trees of the forest.
        gaussian_process_max_rows: evaluations that the Gaussian process learns from.
        tau_min: rank correlation from which on the surrogate is believed.
        preselect_factor: children bred for each one that is evaluated; 1 screens none.
        parent_uniform_share: share of the parents drawn uniformly, not by investment.
        ls_starts: local searches a generation; none for a fifth of ``pop_size``, 0 for none.
        ls_steps: most moves of a local search.
        ls_quanta: levels that a local move changes one group by.
        ls_sigma: standard deviation of Gaussian moves, in genes.
        ls_neighbours_max: most neighbours that are predicted a move.
        ls_accept: move to a better neighbour only (``improve``), or to an equal one too (``not_worse``).
        sbx_prob: probability of crossover.
        sbx_eta: its distribution index.
        pm_prob: probability that a gene mutates; none for 1 / number of genes.
        pm_eta: distribution index of the mutation.
        op_window: generations that the credit of survival rules looks back on.
        op_rule: how the next survival rule is chosen.
        ucb_c: weight of the confidence term.
        pm_floor: smallest probability of a survival rule under probability matching.
    """

    pop_size: Annotated[int, Field(ge=4)] | None = None
    n_gen: Count | None = None
    n_offsprings: Count | None = None
    selection: Literal["hsr", "operator_portfolio", "hv_greedy", "nsga2"] = "hsr"
    encoding: Literal["group_ratio", "layer_threshold"] = "group_ratio"
    surrogate: Kind = "gaussian_process"
    proposal: Literal["expected_hypervolume", "investment"] = "expected_hypervolume"
    forest_trees: Annotated[int, Field(ge=5)] = 100
    gaussian_process_max_rows: Annotated[int, Field(ge=10)] = 300
    tau_min: Annotated[float, Field(ge=-1, le=1)] = 0.3
    preselect_factor: Count = 4
    parent_uniform_share: Share = 0.0
    ls_starts: Annotated[int, Field(ge=0)] | None = None
    ls_steps: Count = 20
    ls_quanta: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2, 4)
    ls_sigma: Positive = 0.05
    ls_neighbours_max: Annotated[int, Field(ge=8)] = 256
    ls_accept: Literal["improve", "not_worse"] = "improve"
    sbx_prob: Share = 0.9
    sbx_eta: Positive = 15.0
    pm_prob: Share | None = None
    pm_eta: Positive = 20.0
    op_window: Count = 10
    op_rule: Literal["ucb", "probability_matching"] = "ucb"
    ucb_c: Annotated[float, Field(ge=0)] = 1.0
    pm_floor: Annotated[float, Field(ge=0, le=1 / len(OPERATORS))] = 0.1


@dataclass
class _Population:
    """Survivors: their rows in the archive, best first, and the capital invested in them."""

    rows: IntArray
    investments: FloatArray | None


@dataclass
class _Proposals:
    """What a generation will evaluate truly, and how it was found."""

    widths: IntArray
    origins: list[str]
    tau: float | None = None
    screened: bool = False
    local_steps: int = 0

    @classmethod
    def of(cls, ends: IntArray, children: IntArray, *facts: Any) -> _Proposals:
        """End points of the local search first: they come first where the budget ends."""
        origins = ["local_search"] * len(ends) + ["offspring"] * len(children)
        return cls(np.vstack([ends, children]) if len(ends) else children, origins, *facts)


@dataclass
class _Survival:
    """The selection rule at work; a portfolio of rules is credited with the hypervolume that follows its choices."""

    settings: Settings
    name: str = ""
    portfolio: OperatorPortfolio = field(init=False)
    ref_point: FloatArray | None = None
    volume: float = 0.0

    def __post_init__(self) -> None:
        settings = self.settings
        self.portfolio = OperatorPortfolio(
            window=settings.op_window, rule=settings.op_rule, ucb_c=settings.ucb_c, pm_floor=settings.pm_floor
        )

    def select(self, archive: Archive, rows: IntArray, n: int, random_state: np.random.Generator) -> _Population:
        if self.settings.selection == "operator_portfolio":
            self._turn(archive, random_state)
            rule = OPERATORS[self.name]
        else:
            self.name = self.settings.selection
            rule = RULES[self.name]
        choice = feasible_first(rule, archive.F[rows], archive.CV[rows], n)
        return _Population(rows[choice.rows], choice.investments)

    def _turn(self, archive: Archive, random_state: np.random.Generator) -> None:
        if self.ref_point is None:
            low, high = archive.F.min(axis=0), archive.F.max(axis=0)
            self.ref_point = high + 0.1 * (high - low) + 1e-9
        volume = archive.hypervolume(self.ref_point)
        if self.name:
            self.portfolio.credit(self.name, volume - self.volume)
        self.volume = volume
        self.name = self.portfolio.pick(random_state)


class HAMP:
    """The method; see the module's docstring."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def run(self, context: SearchContext) -> Archive:
        """Evolve until the budget or ``n_gen`` is spent, or nothing new can be proposed."""
        problem = replace(context.problem, space=context.problem.space.encoded(self.settings.encoding))
        with context.until_spent():
            self._evolve(context, problem)
        return context.archive

    def _evolve(self, context: SearchContext, problem: SearchProblem) -> None:
        settings, archive, random_state = self.settings, context.archive, context.random_state
        pop_size = population_size(settings.pop_size, context.budget)
        survival = _Survival(settings)
        forecaster = Forecaster(
            problem,
            settings.surrogate,
            forest_trees=settings.forest_trees,
            gaussian_process_max_rows=settings.gaussian_process_max_rows,
        )
        # 5: start; where earlier searches of this network tell enough, with the dense network alone
        context.recall()
        start = initial_widths(problem.space, pop_size, random_state)
        context.evaluate(start[:1] if len(archive) >= pop_size else start, "initial", 0)
        context.end_generation(0, selection=settings.selection)
        population = survival.select(archive, np.arange(len(archive)), pop_size, random_state)
        # 6: generations
        generations = itertools.count(1) if settings.n_gen is None else range(1, settings.n_gen + 1)
        for generation in generations:
            proposals = self._propose(context, problem, population, forecaster, pop_size)
            if not len(proposals.widths):
                return
            # 6e: evaluate, select
            evaluations = context.evaluate(proposals.widths, proposals.origins, generation)
            context.end_generation(
                generation,
                surrogate_tau=proposals.tau,
                surrogate_used=proposals.screened,
                local_steps=proposals.local_steps,
                selection=survival.name,
            )
            rows = np.concatenate([population.rows, np.setdiff1d(context.rows(evaluations), population.rows)])
            population = survival.select(archive, rows, pop_size, random_state)

    def _propose(
        self,
        context: SearchContext,
        problem: SearchProblem,
        population: _Population,
        forecaster: Forecaster,
        pop_size: int,
    ) -> _Proposals:
        """Steps 6a to 6d: children and end points of the local search, none of them evaluated before."""
        settings, archive = self.settings, context.archive
        n_children = settings.n_offsprings or pop_size
        n_starts = pop_size // 5 if settings.ls_starts is None else settings.ls_starts
        if settings.preselect_factor == 1 and not n_starts:
            return _Proposals.of(archive.widths[:0], self._breed(context, problem, population, n_children))
        ref_point = _limits(context, problem)
        tau = forecaster.fit(archive, context.random_state, ref_point).worst_tau  # 6a
        if tau < settings.tau_min:
            children = self._breed(context, problem, population, n_children + n_starts)
            return _Proposals.of(archive.widths[:0], children, tau)
        if settings.proposal == "expected_hypervolume":
            ends, children, local_steps = self._most_promising(
                context, problem, population, forecaster, ref_point, n_children, n_starts
            )
        else:
            ends, local_steps = self._towards_weights(context, problem, population, forecaster, n_starts)  # 6d
            n_children += n_starts - len(ends)  # an end point that was known before leaves its evaluation to a child
            children = self._breed(context, problem, population, settings.preselect_factor * n_children, avoid=ends)
            if settings.preselect_factor > 1 and len(children) > n_children:
                children = self._screen(archive, population, forecaster, children, n_children)
        return _Proposals.of(ends, children, tau, True, local_steps)

    def _most_promising(
        self,
        context: SearchContext,
        problem: SearchProblem,
        population: _Population,
        forecaster: Forecaster,
        ref_point: FloatArray,
        n_children: int,
        n_starts: int,
    ) -> tuple[IntArray, IntArray, int]:
        """End points and children of largest expected hypervolume gain, and the moves made (6c and 6d at once)."""
        settings, archive = self.settings, context.archive
        pool = Pool(forecaster, FreeSpace.below(ref_point, archive.F[archive.front_rows()]), context.seen)
        n = n_children + n_starts
        children, starts = archive.widths[:0], archive.widths[population.rows[:n_starts]]
        if settings.preselect_factor > 1:
            children = self._breed(context, problem, population, settings.preselect_factor * n)
            if len(children):
                pool.add(children)
                if n_starts:
                    starts = np.vstack([starts, pool.best(KNOBS["extra"])])
        _, local_steps = self._climb(context, problem, starts, pool.judge)
        if settings.preselect_factor == 1:
            ends = pool.best(n_starts)
            children = self._breed(context, problem, population, n - len(ends), avoid=ends)
            return ends, children, local_steps
        chosen = pool.best(n)
        bred = _among(chosen, children)
        ends, offspring = chosen[~bred], chosen[bred]
        if len(chosen) < n:  # nothing else promises anything: those that get most capital
            rest = children[~_among(children, chosen)]
            offspring = np.vstack([offspring, self._screen(archive, population, forecaster, rest, n - len(chosen))])
        return ends, offspring, local_steps

    def _breed(
        self,
        context: SearchContext,
        problem: SearchProblem,
        population: _Population,
        n: int,
        avoid: IntArray | None = None,
    ) -> IntArray:
        """``(m, G)`` distinct children that were not evaluated before, m up to ``n`` (steps 6b and 6c)."""
        settings, space, random_state = self.settings, problem.space, context.random_state
        genomes = space.encode(context.archive.widths[population.rows])
        known = np.empty((0, space.n_var), dtype=np.int64) if avoid is None else avoid
        found = known
        pm_prob = 1 / space.n_var if settings.pm_prob is None else settings.pm_prob
        for attempt in range(20):
            missing = n - (len(found) - len(known))
            if missing <= 0:
                break
            if attempt < 10:
                parents = self._parents(population, 2 * -(-missing // 2), random_state)
                A, B = np.split(genomes[parents], 2)
                X = simulated_binary_crossover(
                    A, B, space.upper, random_state, prob=settings.sbx_prob, eta=settings.sbx_eta
                )
                X = polynomial_mutation(X, space.upper, random_state, prob=pm_prob, eta=settings.pm_eta)
            else:  # the parents' surroundings are exhausted
                X = space.upper * latin_hypercube(missing, space.n_var, random_state)
            widths = space.decode(X)
            found = distinct(np.vstack([found, widths[~context.seen(widths)]]))
        return found[len(known) :][:n]

    def _parents(self, population: _Population, n: int, random_state: np.random.Generator) -> IntArray:
        """``(n,)`` members of the population (step 6b): in proportion to their capital, a share of them uniformly."""
        if population.investments is None:
            return binary_tournament(len(population.rows), n, random_state)
        parents = stochastic_universal_sampling(population.investments, n, random_state)
        uniform = random_state.random(n) < self.settings.parent_uniform_share
        return np.where(uniform, random_state.integers(len(population.rows), size=n), parents)

    def _screen(
        self, archive: Archive, population: _Population, forecaster: Forecaster, children: IntArray, n: int
    ) -> IntArray:
        """The ``n`` children that get most capital beside the population, by their predicted objectives (step 6c)."""
        if len(children) <= n:
            return children
        forecast = forecaster(children)
        members = len(population.rows)
        choice: Choice = feasible_first(
            peel,
            np.vstack([archive.F[population.rows], forecast.F]),
            np.concatenate([archive.CV[population.rows], forecast.CV]),
            members + len(children),
        )
        return children[choice.rows[choice.rows >= members][:n] - members]

    def _towards_weights(
        self,
        context: SearchContext,
        problem: SearchProblem,
        population: _Population,
        forecaster: Forecaster,
        n_starts: int,
    ) -> tuple[IntArray, int]:
        """End points of local searches, each towards random weights, and the moves made (step 6d)."""
        archive = context.archive
        rows = archive.front_rows()
        front = archive.F[rows] if rows.size else archive.F[moocore.is_nondominated(archive.F)]
        weights = context.random_state.dirichlet(np.ones(front.shape[1]), size=n_starts)
        score = Score(weights, front.min(axis=0), front.max(axis=0))

        def judge(widths: IntArray, owner: IntArray) -> FloatArray:
            forecast = forecaster(widths)
            return score(forecast.F, owner) + np.where(forecast.CV > 0, INFEASIBLE * (1 + forecast.CV), 0.0)

        return self._climb(context, problem, archive.widths[population.rows[:n_starts]], judge)

    def _climb(
        self, context: SearchContext, problem: SearchProblem, starts: IntArray, judge: Judge
    ) -> tuple[IntArray, int]:
        """End points of local searches, and the moves made."""
        settings = self.settings
        if not len(starts):
            return starts, 0
        search = LocalSearch(
            settings.ls_steps,
            settings.ls_quanta,
            settings.ls_sigma,
            settings.ls_neighbours_max,
            sideways=settings.ls_accept == "not_worse",
        )
        return search.climb(problem, judge, starts, context.seen, context.random_state)


KNOBS = {"extra": 4}


def _among(widths: IntArray, others: IntArray) -> npt.NDArray[np.bool_]:
    """``(n,)`` mask of the ``(n, G)`` widths that ``(m, G)`` others hold."""
    return np.asarray((widths[:, None] == others[None]).all(axis=2).any(axis=1))


def _limits(context: SearchContext, problem: SearchProblem) -> FloatArray:
    """``(n_obj,)`` values beyond which nothing is of interest: the reference point, or a bound below it."""
    bounds = [problem.bounds.get(name, np.inf) for name in problem.objectives]
    return np.minimum(context.ref_point, bounds)


METHOD = HAMP
