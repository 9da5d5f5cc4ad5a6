"""HAMP: hardware-aware multi-objective evolutionary pruning, a memetic algorithm with portfolio-based selection.

Hong, Li, Liu, Yang, Tang. Multi-objective evolutionary optimization for hardware-aware neural network pruning.
Fundamental Research 4(4), 2024, 941-950. https://doi.org/10.1016/j.fmre.2022.07.013

    --method hamp --set selection=hsr --set surrogate=gaussian_process

Written to follow the paper's abstract; details that it does not state are this project's choices. The numbers in the
code are the steps of docs/methods.md: 1 to 4 (groups, genome, decoding, objectives) belong to the problem, 7 and 8
(measuring and fine-tuning the front) to the run.

Choices of this implementation:
    - Portfolio is meant in the financial sense: capital is invested in individuals by the Hypervolume Sharpe-Ratio
      (``selection=hsr``); the other readings are named alternatives of the same switch.
    - What is invested in proposals follows the selection. A return that is only forecast is an expected one: under
      ``hsr`` and ``hv_greedy`` the batch is evaluated that is expected to gain most hypervolume together, and local
      searches climb that gain. Under the other rules, and with ``proposal=investment``, the rule selects among medians,
      and local searches go towards random weights.
    - Objectives that are cheap and exact are used as they are; where the device measures every candidate, its model is
      corrected by what was measured. Everything else has a surrogate, judged by what it did not see: a trend that can
      only rise with the importance that is lost, and a regressor of the rest. Local search and screening rest while one
      of them ranks worse than ``tau_min``.
    - Generations of proposals by expected gain are small (``n_offsprings`` is ``pop_size`` / 5 unless it is set), for
      every evaluation teaches the surrogate; all others have ``pop_size`` children.
    - A member's genome is that of its widths, so that what was rounded away is not inherited.
    - The population shrinks with budgets below 100, and generations go on until the budget is spent.
    - Constraints: feasible individuals come first in selection, screening and local search; the others by violation.
    - Children that were evaluated before are bred anew, so that every generation spends what it may.
    - Neighbours of a local search are also those with one gene drawn anew, which lead from one hill to another.
    - A local search ends at the first step that betters nothing; an end point that was evaluated before gives way to
      its best neighbour that was not.
    - The local search's end points are evaluated before the children: they come first where the budget ends.
    - ``ls_neighbours_max`` is shared by all starts of a local search.
    - With ``recall``, accuracies that earlier searches of the same network left in the store are known from the start,
      on any device. It is off by default, for a search that begins with them is another one than without.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import moocore
import numpy as np
import numpy.typing as npt
from pydantic import Field

from hwprune.search.archive import Archive
from hwprune.search.breeding import Breeder, among
from hwprune.search.evaluation import SearchContext
from hwprune.search.expected_hypervolume import FreeSpace
from hwprune.search.forecast import Forecaster
from hwprune.search.local_search import Judge, LocalSearch, Score
from hwprune.search.methods.base import MethodSettings, initial_widths, population_size
from hwprune.search.operators import binary_tournament, stochastic_universal_sampling
from hwprune.search.proposal import INFEASIBLE, Pool
from hwprune.search.regressors import Kind
from hwprune.search.survival import OPERATORS, Survival, feasible_first

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Proposal = Literal["expected_hypervolume", "investment"]

#: Of what the feasible front spans, added to its worst values where nothing is below the reference point.
LIMITS_MARGIN = 0.1


class Settings(MethodSettings):
    """Settings of HAMP; defaults are those of docs/methods.md unless it says otherwise here.

    Attributes:
        pop_size: individuals of the population; none for 20, or less where the budget is small.
        n_gen: generations; none for as many as the budget holds.
        n_offsprings: children a generation; none for ``pop_size``, or a fifth of it where they are proposed by expected
            gain.
        selection: who survives: ``hsr`` (portfolio by Hypervolume Sharpe-Ratio), ``hv_greedy``, ``nsga2``, or
            ``operator_portfolio`` (a portfolio of survival rules).
        encoding: what a gene means, ``group_ratio`` or ``layer_threshold``.
        surrogate: regressor of the error, and of every other objective that is not known beforehand.
        proposal: what proposals are chosen for: the hypervolume that they are expected to gain together
            (``expected_hypervolume``), or their place in the selection by median forecasts and, in the local search,
            random weights (``investment``); none for the first under ``hsr`` and ``hv_greedy``, else the second.
        forest_trees: trees of the forest.
        gaussian_process_max_rows: evaluations that the Gaussian process learns from.
        tau_min: rank correlation from which on the surrogate is believed.
        preselect_factor: children bred for each one that is evaluated; 1 screens none.
        recall: begin with the accuracies that earlier searches of this network left in the store.
        parent_uniform_share: share of the parents drawn uniformly, not by investment.
        ls_starts: local searches a generation; none for a fifth of ``pop_size``, 0 for none.
        ls_steps: most moves of a local search.
        ls_quanta: levels that a local move changes one group by.
        ls_sigma: standard deviation of Gaussian moves, in genes.
        ls_neighbours_max: most neighbours that are predicted a move, of each search, or of all where they climb a gain.
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
    proposal: Proposal | None = None
    forest_trees: Annotated[int, Field(ge=5)] = 100
    gaussian_process_max_rows: Annotated[int, Field(ge=10)] = 300
    tau_min: Annotated[float, Field(ge=-1, le=1)] = 0.3
    preselect_factor: Count = 4
    recall: bool = False
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
class _Proposals:
    """What a generation will evaluate truly, and how it was found."""

    ends: IntArray
    children: IntArray
    tau: float | None = None
    screened: bool = False
    local_steps: int = 0

    @property
    def widths(self) -> IntArray:
        """End points of the local search first: they come first where the budget ends."""
        return np.vstack([self.ends, self.children])

    @property
    def origins(self) -> list[str]:
        """Who proposed each."""
        return ["local_search"] * len(self.ends) + ["offspring"] * len(self.children)


class HAMP:
    """The method; see the module's docstring."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def run(self, context: SearchContext) -> Archive:
        """Evolve until the budget or ``n_gen`` is spent, or nothing new can be proposed."""
        with context.until_spent():
            _Evolution(self.settings, context).run()
        return context.archive


class _Evolution:
    """One run of HAMP."""

    def __init__(self, settings: Settings, context: SearchContext) -> None:
        problem = replace(context.problem, space=context.problem.space.encoded(settings.encoding))
        self.settings = settings
        self.context = context
        self.problem = problem
        self.archive = context.archive
        self.random_state = context.random_state
        self.pop_size = population_size(settings.pop_size, context.affordable)
        self.n_starts = self.pop_size // 5 if settings.ls_starts is None else settings.ls_starts
        by_gain = "expected_hypervolume" if settings.selection in ("hsr", "hv_greedy") else "investment"
        self.by_gain = (settings.proposal or by_gain) == "expected_hypervolume"
        self.screens = settings.preselect_factor > 1
        uses_surrogate = self.screens or self.n_starts > 0
        small = self.by_gain and uses_surrogate
        self.n_children = settings.n_offsprings or (max(1, self.pop_size // 5) if small else self.pop_size)
        self.breeder = Breeder(settings.sbx_prob, settings.sbx_eta, settings.pm_prob, settings.pm_eta)
        self.survival = Survival(
            settings.selection,
            window=settings.op_window,
            op_rule=settings.op_rule,
            ucb_c=settings.ucb_c,
            pm_floor=settings.pm_floor,
        )
        self.forecaster = None
        if uses_surrogate:
            self.forecaster = Forecaster(
                problem,
                settings.surrogate,
                forest_trees=settings.forest_trees,
                gaussian_process_max_rows=settings.gaussian_process_max_rows,
            )
        self.rows: IntArray = np.empty(0, dtype=np.int64)
        self.investments: FloatArray | None = None

    def run(self) -> None:
        """Steps 5 and 6."""
        # 5: start; where earlier searches of this network tell enough, with the dense network alone
        if self.settings.recall:
            self.context.recall()
        start = initial_widths(self.problem.space, self.pop_size, self.random_state)
        self.context.evaluate(start[:1] if len(self.archive) >= self.pop_size else start, "initial", 0)
        self.context.end_generation(0, selection=self.settings.selection)
        self._select(np.arange(len(self.archive)))
        # 6: generations
        generations = itertools.count(1) if self.settings.n_gen is None else range(1, self.settings.n_gen + 1)
        for generation in generations:
            proposals = self._propose()
            if not len(proposals.widths):
                return
            # 6e: evaluate, select
            evaluations = self.context.evaluate(proposals.widths, proposals.origins, generation)
            self.context.end_generation(
                generation,
                surrogate_tau=proposals.tau,
                surrogate_used=proposals.screened,
                local_steps=proposals.local_steps,
                selection=self.survival.name,
                may_settle=True,
            )
            new = np.setdiff1d(self.context.rows(evaluations), self.rows)
            self._select(np.concatenate([self.rows, new]))

    def _select(self, rows: IntArray) -> None:
        choice = self.survival.select(self.archive, rows, self.pop_size, self.random_state)
        self.rows, self.investments = choice.rows, choice.investments

    def _propose(self) -> _Proposals:
        """Steps 6a to 6d: children and end points of the local search, none of them evaluated before."""
        none = self.archive.widths[:0]
        if self.forecaster is None:
            return _Proposals(none, self._breed(self.n_children))
        tau = self.forecaster.fit(self.archive, self.random_state, self._limits()).worst_tau  # 6a
        if tau < self.settings.tau_min:
            return _Proposals(none, self._breed(self.n_children + self.n_starts), tau)
        propose = self._by_gain if self.by_gain else self._by_investment
        ends, children, local_steps = propose(self.forecaster)
        return _Proposals(ends, children, tau, True, local_steps)

    def _by_gain(self, forecaster: Forecaster) -> tuple[IntArray, IntArray, int]:
        """End points and children that promise most hypervolume together, and the moves made (6c and 6d)."""
        archive, seen = self.archive, self.context.seen
        pool = Pool(forecaster, FreeSpace.below(self._limits(), archive.F[archive.front_rows()]), seen)
        n = self.n_children + self.n_starts
        starts, children = archive.widths[self.rows[: self.n_starts]], archive.widths[:0]
        if self.screens:
            children = self._breed(self.settings.preselect_factor * n)
            pool.add(children)
            # Half from the most invested members, half from the children that promise most.
            promising = pool.best(self.n_starts // 2)
            starts = np.vstack([starts[: self.n_starts - len(promising)], promising])
        _, local_steps = self._climb(starts, pool.judge)
        if not self.screens:
            ends = pool.best(self.n_starts)
            return ends, self._breed(n - len(ends), avoid=ends), local_steps
        chosen = pool.best(n)
        bred = among(chosen, children)
        rest = self._screen(forecaster, children[~among(children, chosen)], n - len(chosen))
        return chosen[~bred], np.vstack([chosen[bred], rest]), local_steps

    def _by_investment(self, forecaster: Forecaster) -> tuple[IntArray, IntArray, int]:
        """End points towards random weights (6d), children that the selection would keep (6c), and the moves made."""
        archive = self.archive
        rows = archive.front_rows()
        front = archive.F[rows] if rows.size else archive.F[moocore.is_nondominated(archive.F)]
        weights = self.random_state.dirichlet(np.ones(front.shape[1]), size=self.n_starts)
        score = Score(weights, front.min(axis=0), front.max(axis=0))

        def judge(widths: IntArray, owner: IntArray) -> FloatArray:
            forecast = forecaster(widths)
            return score(forecast.F, owner) + np.where(forecast.CV > 0, INFEASIBLE * (1 + forecast.CV), 0.0)

        ends, local_steps = self._climb(archive.widths[self.rows[: self.n_starts]], judge)
        n = self.n_children + self.n_starts - len(ends)  # an end point that was known leaves its evaluation to a child
        children = self._breed(self.settings.preselect_factor * n, avoid=ends)
        return ends, self._screen(forecaster, children, n), local_steps

    def _screen(self, forecaster: Forecaster, children: IntArray, n: int) -> IntArray:
        """The ``n`` children that the selection would keep beside the population, by their median forecasts."""
        if len(children) <= n or n < 1:
            return children[: max(n, 0)]
        forecast, members = forecaster(children), len(self.rows)
        choice = feasible_first(
            self.survival.rule,
            np.vstack([self.archive.F[self.rows], forecast.F]),
            np.concatenate([self.archive.CV[self.rows], forecast.CV]),
            members + len(children),
        )
        return children[choice.rows[choice.rows >= members][:n] - members]

    def _climb(self, starts: IntArray, judge: Judge) -> tuple[IntArray, int]:
        """End points of local searches, and the moves made."""
        settings = self.settings
        if not len(starts) or not self.n_starts:
            return starts[:0], 0
        # By gain, all starts share the neighbours: where they overlap they compete for the same few evaluations.
        sharing = len(starts) if self.by_gain else 1
        search = LocalSearch(
            settings.ls_steps,
            settings.ls_quanta,
            settings.ls_sigma,
            max(8, settings.ls_neighbours_max // sharing),
            sideways=settings.ls_accept == "not_worse",
        )
        return search.climb(self.problem, judge, starts, self.context.seen, self.random_state)

    def _breed(self, n: int, avoid: IntArray | None = None) -> IntArray:
        """``(m, G)`` distinct children that were not evaluated before, m up to ``n`` (steps 6b and 6c)."""

        def seen(widths: IntArray) -> BoolArray:
            known = self.context.seen(widths)
            return known if avoid is None else known | among(widths, avoid)

        members = self.archive.widths[self.rows]
        return self.breeder.children(self.problem.space, members, self._parents, n, seen, self.random_state)

    def _parents(self, n: int) -> IntArray:
        """``(n,)`` members of the population (step 6b): in proportion to their capital, a share of them uniformly."""
        if self.investments is None:
            return binary_tournament(len(self.rows), n, self.random_state)
        parents = stochastic_universal_sampling(self.investments, n, self.random_state)
        uniform = self.random_state.random(n) < self.settings.parent_uniform_share
        return np.where(uniform, self.random_state.integers(len(self.rows), size=n), parents)

    def _limits(self) -> FloatArray:
        """``(n_obj,)`` values beyond which nothing is of interest: the reference point, or a bound below it.

        Where bounds leave nothing that the reference point is worse than (four times fewer multiply-adds may cost more
        error than that), everything feasible is of interest.
        """
        bounds = np.array([self.problem.bounds.get(name, np.inf) for name in self.problem.objectives])
        limits: FloatArray = self.context.ref_point
        feasible = self.archive.F[self.archive.front_rows()]
        if self.problem.bounds and len(feasible) and not (feasible <= limits).all(axis=1).any():
            worst = feasible.max(axis=0)
            limits = np.maximum(limits, worst + LIMITS_MARGIN * (worst - feasible.min(axis=0)))
        return np.asarray(np.minimum(limits, bounds))


METHOD = HAMP
