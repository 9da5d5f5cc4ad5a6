from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwprune.search.archive import Archive
from hwprune.search.evaluation import SearchContext
from hwprune.search.expected_hypervolume import FreeSpace
from hwprune.search.forecast import Forecaster
from hwprune.search.methods.base import initial_widths
from hwprune.search.problem import SearchProblem
from hwprune.search.proposal import Pool
from hwprune.search.synthetic import staircase_problem

PROBLEM = staircase_problem(blocks_per_stage=3)


def evaluated(problem: SearchProblem, n: int = 60) -> SearchContext:
    context = SearchContext(problem, n, np.random.default_rng(0))
    context.evaluate(initial_widths(problem.space, n, context.random_state), "initial", 0)
    return context


def fitted(problem: SearchProblem) -> tuple[Forecaster, Archive]:
    archive = evaluated(problem).archive
    return Forecaster(problem).fit(archive, np.random.default_rng(0)), archive


def some_widths(n: int = 40, seed: int = 5) -> np.ndarray:
    return PROBLEM.space.decode(PROBLEM.space.upper * np.random.default_rng(seed).random((n, PROBLEM.space.n_var)))


def test_exact_objectives_are_exact_and_the_error_alone_is_learnt() -> None:
    forecaster, _ = fitted(PROBLEM)
    forecast, cheap = forecaster(some_widths()), PROBLEM.cheap(some_widths())
    assert [values.shape[1] for values in forecast.values] == [7, 1, 1]
    assert np.array_equal(forecast.F[:, 1], cheap["latency"])
    assert np.array_equal(forecast.F[:, 2], cheap["peak_memory"])
    assert forecaster.tau["latency"] == forecaster.tau["peak_memory"] == 1.0
    assert forecaster.worst_tau == forecaster.tau["error"] > 0.5


class Slower:
    """A device whose networks take 1.2 times what the model says, and some noise."""

    def __init__(self) -> None:
        self.noise = np.random.default_rng(0)

    def __call__(self, plan: Any) -> Mapping[str, float]:
        modelled = PROBLEM.cheap(np.array([plan.widths]))["latency"].item()
        return {"latency": 1.2 * modelled * float(np.exp(0.02 * self.noise.normal()))}


def test_measured_latency_corrects_the_model_and_tells_how_sure_it_is() -> None:
    forecaster, _ = fitted(replace(PROBLEM, exact=Slower()))
    values = forecaster(some_widths()).values[1]
    ratio = values / PROBLEM.cheap(some_widths())["latency"][:, None]
    assert np.median(ratio) == pytest.approx(1.2, rel=0.01)
    assert np.ptp(np.log(ratio), axis=1) == pytest.approx(2 * 1.465 * 0.02, rel=0.3)
    assert 0.9 < forecaster.tau["latency"] < 1.0


def test_latency_model_without_rank_quality_is_not_believed() -> None:
    noise = np.random.default_rng(0)
    forecaster, _ = fitted(replace(PROBLEM, exact=lambda plan: {"latency": float(noise.uniform(1, 2))}))
    assert forecaster.worst_tau == forecaster.tau["latency"] < 0.3


def test_objective_that_nothing_is_known_of_is_learnt() -> None:
    def exact(plan: Any) -> dict[str, float]:
        return {"roughness": float(((np.array(plan.widths) / PROBLEM.space.sizes - 0.5) ** 2).sum())}

    problem = replace(PROBLEM, objectives=("roughness", "latency"), exact=exact)
    forecaster, _ = fitted(problem)
    told = forecaster(some_widths()).F[:, 0]
    true = [exact(PROBLEM.plan(widths))["roughness"] for widths in some_widths()]
    assert np.corrcoef(told, true)[0, 1] > 0.75


def test_constraints_are_foreseen() -> None:
    dense = PROBLEM.cheap(PROBLEM.space.sizes[None])["latency"].item()
    forecaster, _ = fitted(replace(PROBLEM, bounds={"latency": 0.5 * dense}))
    over = PROBLEM.cheap(some_widths())["latency"] / (0.5 * dense) - 1
    assert pytest.approx(np.maximum(over, 0)) == forecaster(some_widths()).CV


def test_assumed_candidate_makes_its_neighbours_surer_and_moves_no_middle() -> None:
    forecaster, _ = fitted(PROBLEM)
    joint = forecaster.joint(some_widths())
    before = joint.values[0]
    joint.assume(3)
    after = joint.values[0]
    assert np.ptp(after[3]) < 1e-3 * np.ptp(before[3])
    assert (np.ptp(after, axis=1) <= np.ptp(before, axis=1) + 1e-9).all()
    assert np.allclose(after[:, 3], before[:, 3])


def pool_of(context: SearchContext) -> Pool:
    forecaster = Forecaster(context.problem).fit(context.archive, np.random.default_rng(0))
    front = context.archive.F[context.archive.front_rows()]
    return Pool(forecaster, FreeSpace.below(context.ref_point, front), context.seen)


def test_batch_is_new_distinct_and_starts_with_what_promises_most() -> None:
    context = evaluated(PROBLEM)
    pool = pool_of(context)
    widths = np.vstack([context.archive.widths[:10], some_widths(200)])
    gains = pool.add(widths)
    pool.add(widths[:50])
    batch = pool.best(8)
    assert len(np.unique(batch, axis=0)) == len(batch) > 0
    assert not context.seen(batch).any()
    new = ~context.seen(widths)
    assert np.array_equal(batch[0], widths[new][gains[new].argmax()])


def test_batch_holds_nothing_that_breaks_a_constraint() -> None:
    problem = staircase_problem(blocks_per_stage=3, latency_step=2)
    dense = problem.cheap(problem.space.sizes[None])["latency"].item()
    context = evaluated(replace(problem, bounds={"latency": 0.9 * dense}))
    pool = pool_of(context)
    widths = problem.space.decode(0.4 * np.random.default_rng(5).random((300, problem.space.n_var)))
    pool.add(widths)
    batch = pool.best(10)
    assert len(batch)
    assert (problem.cheap(widths)["latency"] > 0.9 * dense).any()
    assert (problem.cheap(batch)["latency"] <= 0.9 * dense).all()


def test_pool_without_candidates_proposes_none() -> None:
    assert len(pool_of(evaluated(PROBLEM)).best(3)) == 0
