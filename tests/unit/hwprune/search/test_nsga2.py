from dataclasses import dataclass
from typing import Any

import moocore
import numpy as np
import pytest
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.optimize import minimize

from hwprune.search import methods
from hwprune.search.evaluation import SearchContext
from hwprune.search.problem import SearchProblem
from hwprune.search.space import SearchSpace

LEVELS, GENES = 1000, 6


@dataclass(frozen=True)
class Point:
    """A plan that keeps the widths it was made from."""

    widths: tuple[int, ...]

    @property
    def key(self) -> str:
        return str(self.widths)


def zdt1(X: np.ndarray) -> np.ndarray:
    """ZDT1 on genes in [0, 0.9], stretched to [0, 1]."""
    X = X / 0.9
    g = 1 + 9 * X[:, 1:].mean(axis=1)
    return np.column_stack([X[:, 0], g * (1 - np.sqrt(X[:, 0] / g))])


def zdt1_problem() -> SearchProblem:
    """ZDT1 with the first objective cheap and the second one truly evaluated."""
    space = SearchSpace.of([LEVELS] * GENES, round_to=1, pruning_ratio_max=0.9)
    return SearchProblem(
        space=space,
        objectives=("latency", "error"),
        costs=lambda widths: {"latency": zdt1(space.encode(widths))[:, 0]},
        plan=lambda widths: Point(tuple(widths.tolist())),
        accuracy=lambda plan: float(zdt1(space.encode(np.array([plan.widths])))[0, 1]),
        error=lambda metric: metric,
    )


def pymoos_own(seed: int, generations: int) -> float:
    class Plain(Problem):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(n_var=GENES, n_obj=2, xl=0.0, xu=0.9)

        def _evaluate(self, x: np.ndarray, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            out["F"] = zdt1(x)

    result = minimize(Plain(), NSGA2(20), ("n_gen", generations), seed=seed)
    return float(moocore.hypervolume(result.F, ref=[1.1, 7.0]))


def test_nsga2_is_as_good_as_pymoos_own_on_zdt1() -> None:
    own, ours = [], []
    for seed in range(5):
        context = SearchContext(zdt1_problem(), 600, np.random.default_rng(seed))
        ours.append(methods.build("nsga2", {"pop_size": 20}).run(context).hypervolume([1.1, 7.0]))
        own.append(pymoos_own(seed, 30))
    assert np.median(ours) == pytest.approx(np.median(own), rel=0.03)


def test_nsga2_approaches_the_known_front_of_zdt1() -> None:
    context = SearchContext(zdt1_problem(), 1500, np.random.default_rng(0))
    archive = methods.build("nsga2").run(context)
    first, second = archive.F[archive.front_rows()].T
    assert np.abs(second - (1 - np.sqrt(first))).mean() < 0.1


def test_failed_candidates_do_not_enter_the_population() -> None:
    problem = zdt1_problem()
    good = problem.accuracy

    def fragile(plan: Point) -> float:
        if plan.widths[0] % 3 == 0:
            raise RuntimeError("does not run")
        return good(plan)

    from dataclasses import replace

    context = SearchContext(replace(problem, accuracy=fragile), 80, np.random.default_rng(0))
    archive = methods.build("nsga2").run(context)
    assert len(archive.failures) > 0
    assert len(archive) + len(archive.failures) == context.spent == 80
