"""NSGA-II, pymoo's own, under the same start, budget and evaluation as HAMP: the first control.

Deb, Pratap, Agarwal, Meyarivan. A fast and elitist multiobjective genetic algorithm: NSGA-II. IEEE Transactions on
Evolutionary Computation 6(2), 2002, 182-197. https://doi.org/10.1109/4235.996017

    --method nsga2 --set pop_size=20

Choices of this implementation: children that decode to a plan which was evaluated before are bred anew; failed
evaluations do not enter the population; constraints are handled by pymoo, feasibility first.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field
from pymoo.algorithms.moo import nsga2 as pymoo_nsga2
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.problem import Problem
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM

from hwprune.search.archive import Archive
from hwprune.search.evaluation import SearchContext
from hwprune.search.methods.base import MethodSettings, initial_widths, population_size
from hwprune.search.space import SearchSpace

FloatArray = npt.NDArray[np.float64]


class Settings(MethodSettings):
    """Settings of NSGA-II.

    Attributes:
        pop_size: individuals of a population; none for 20, or less where the budget is small.
        n_offsprings: children a generation; none for ``pop_size``.
        sbx_prob: probability of crossover.
        sbx_eta: its distribution index.
        pm_prob: probability that a gene mutates; none for 1 / number of genes.
        pm_eta: distribution index of the mutation.
    """

    pop_size: Annotated[int, Field(ge=4)] | None = None
    n_offsprings: Annotated[int, Field(ge=1)] | None = None
    sbx_prob: Annotated[float, Field(ge=0, le=1)] = 0.9
    sbx_eta: Annotated[float, Field(gt=0)] = 15.0
    pm_prob: Annotated[float, Field(ge=0, le=1)] | None = None
    pm_eta: Annotated[float, Field(gt=0)] = 20.0


class NSGA2:
    """pymoo's NSGA-II, asked and told.

    Attributes:
        algorithm: pymoo's class; another one of its genetic algorithms can stand in for NSGA-II.
    """

    algorithm: type[Any] = pymoo_nsga2.NSGA2

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def run(self, context: SearchContext) -> Archive:
        """Breed until the budget is spent, or nothing new can be bred."""
        algorithm = self._algorithm(context)
        with context.until_spent():
            for generation in itertools.count():
                infills = algorithm.ask()
                if infills is None or not len(infills):
                    break
                widths = context.problem.space.decode(infills.get("X"))
                evaluations = context.evaluate(widths, "offspring" if generation else "initial", generation)
                context.end_generation(generation, selection="nsga2", may_settle=True)
                rows = [context.archive.row(evaluation.plan_key) for evaluation in evaluations]
                evaluated = infills[[row is not None for row in rows]]
                if not len(evaluated):
                    continue
                evaluated.set("row", [row for row in rows if row is not None])
                F, CV = context.archive.F, context.archive.CV
                # The population's values, too: the latency model may have learnt since they were told.
                for pop in (evaluated, [] if algorithm.pop is None else algorithm.pop):
                    for individual in pop:
                        row = individual.get("row")
                        individual.set("F", F[row]).set("G", CV[[row]])
                        individual.evaluated = {"F", "G"}
                algorithm.tell(infills=evaluated)
        return context.archive

    def _algorithm(self, context: SearchContext) -> Any:
        settings, space = self.settings, context.problem.space
        pop_size = population_size(settings.pop_size, context.affordable)
        algorithm = self.algorithm(
            pop_size=pop_size,
            n_offsprings=settings.n_offsprings or pop_size,
            sampling=space.encode(initial_widths(space, pop_size, context.random_state)),
            crossover=SBX(prob=settings.sbx_prob, eta=settings.sbx_eta),
            mutation=PM(prob_var=settings.pm_prob, eta=settings.pm_eta),
            eliminate_duplicates=_SamePlan(context),
        )
        problem = Problem(
            n_var=space.n_var, n_obj=len(context.problem.objectives), n_ieq_constr=1, xl=0.0, xu=space.upper
        )
        algorithm.setup(problem, seed=int(context.random_state.integers(2**31)), termination=NoTermination())
        return algorithm


class _SamePlan(DuplicateElimination):  # type: ignore[misc]
    """Individuals whose widths are the same, or were evaluated before, are duplicates."""

    def __init__(self, context: SearchContext) -> None:
        super().__init__()
        self._context = context

    def _do(self, pop: Any, other: Any, is_duplicate: Any) -> Any:
        space: SearchSpace = self._context.problem.space
        widths = space.decode(pop.get("X"))
        is_duplicate[self._context.seen(widths)] = True
        known = set() if other is None else {row.tobytes() for row in space.decode(other.get("X"))}
        for index, row in enumerate(widths):
            key = row.tobytes()
            is_duplicate[index] |= key in known
            if other is None:
                known.add(key)
        return is_duplicate


METHOD = NSGA2
