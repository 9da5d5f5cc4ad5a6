from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwprune.records import Evaluation
from hwprune.search import methods
from hwprune.search.evaluation import BudgetExhausted, NothingEvaluatedError, SearchContext
from hwprune.search.events import Generation, Progress
from hwprune.search.journal import Journal
from hwprune.search.problem import SearchProblem
from hwprune.search.synthetic import reference_point, staircase_problem

WIDTHS = np.array([[16, 32, 64], [8, 16, 32], [4, 8, 16], [2, 4, 8]])


def context_of(budget: int = 10, problem: SearchProblem | None = None, **more: Any) -> SearchContext:
    return SearchContext(problem or staircase_problem(blocks_per_stage=1), budget, np.random.default_rng(0), **more)


def test_same_widths_are_evaluated_once() -> None:
    context = context_of()
    first = context.evaluate(WIDTHS[[0, 1, 0]], "initial", 0)
    again = context.evaluate(WIDTHS[:2], "offspring", 1)
    assert (context.spent, context.repeated, len(context.archive)) == (2, 3, 2)
    assert again == first[:2]
    assert context.seen(WIDTHS).tolist() == [True, True, False, False]


def test_budget_is_spent_exactly_and_then_ends_the_block() -> None:
    context = context_of(budget=3)
    with context.until_spent():
        context.evaluate(WIDTHS, "initial", 0)
        raise AssertionError("the budget does not hold the fourth")
    assert (context.spent, context.remaining, len(context.archive)) == (3, 0, 3)
    with pytest.raises(BudgetExhausted):
        context.evaluate(WIDTHS[3:], "initial", 0)
    context.evaluate(WIDTHS[:3], "initial", 0)  # what is known stays free


def test_minutes_end_a_search_too() -> None:
    context = context_of(minutes=0.0)
    with context.until_spent():
        context.evaluate(WIDTHS, "initial", 0)
    assert context.spent == 0


def test_progress_tells_every_true_evaluation() -> None:
    told: list[Progress] = []
    context_of(progress=told.append).evaluate(WIDTHS[[0, 1, 1]], "initial", 0)
    assert [(step.spent, step.budget, step.replayed) for step in told] == [(1, 10, False), (2, 10, False)]
    assert told[0].evaluation.widths == (16, 32, 64)


def test_failed_evaluation_counts_and_stays_out_of_the_archive() -> None:
    problem = staircase_problem(blocks_per_stage=1)
    accuracy = problem.accuracy

    def fragile(plan: Any) -> float:
        if plan.widths[0] == 8:
            raise RuntimeError("does not run")
        return accuracy(plan)

    context = context_of(problem=replace(problem, accuracy=fragile))
    evaluations = context.evaluate(WIDTHS, "initial", 0)
    assert context.spent == 4
    assert len(context.archive) == 3
    assert evaluations[1].error == "RuntimeError: does not run"
    assert context.rows(evaluations).tolist() == [0, 1, 2]
    assert context.seen(WIDTHS).all()


def test_search_in_which_everything_fails_stops_and_says_why() -> None:
    def broken(plan: Any) -> float:
        raise RuntimeError("no such operator")

    problem = replace(staircase_problem(blocks_per_stage=1), accuracy=broken)
    context = context_of(problem=problem)
    context.evaluate(WIDTHS, "initial", 0)
    with pytest.raises(NothingEvaluatedError, match=r"none of the first 4.*no such operator"):
        context.end_generation(0)
    short = context_of(2, problem)
    with pytest.raises(NothingEvaluatedError), short.until_spent():
        short.evaluate(WIDTHS, "initial", 0)


def test_generations_are_reported_with_their_times() -> None:
    told: list[Generation] = []
    context = context_of(report=told.append)
    context.evaluate(WIDTHS, "initial", 0)
    context.end_generation(0, selection="hsr", surrogate_tau=0.5)
    context.end_generation(1)
    assert [(step.number, step.spent, step.selection) for step in told] == [(0, 4, "hsr"), (1, 4, "")]
    assert told[0].surrogate_tau == 0.5
    assert told[0].seconds >= told[0].evaluating_s > 0
    assert told[1].evaluating_s == 0
    assert told[0].front_size == len(context.archive.front())
    assert told[0].hypervolume == context.hypervolume


def test_reference_point_is_the_dense_network_with_some_error_more() -> None:
    context = context_of()
    context.evaluate(context.problem.space.sizes[None], "initial", 0)
    assert np.array_equal(context.ref_point, reference_point(context.problem))
    other = context_of(problem=replace(context.problem, ref_point=(0.5, 2.0, 3.0)))
    assert other.ref_point.tolist() == [0.5, 2.0, 3.0]


def test_search_ends_when_its_hypervolume_has_settled() -> None:
    context = context_of(budget=60, settle_after=10, problem=staircase_problem(blocks_per_stage=1, latency_step=2))
    space = context.problem.space
    with context.until_spent():
        context.evaluate(space.sizes[None], "initial", 0)
        context.evaluate(np.array([[12, 24, 48]]), "initial", 0)
        assert context.hypervolume > 0
        for generation in range(1, 9):  # nothing of it is any good
            context.evaluate(np.array([[2 * generation, 4, 8], [2 * generation, 6, 8]]), "offspring", generation)
            context.end_generation(generation, may_settle=True)
    assert context.settled
    assert context.spent == 14


def test_search_whose_hypervolume_grows_goes_on() -> None:
    context = context_of(budget=60, settle_after=30, problem=staircase_problem(blocks_per_stage=2, latency_step=2))
    methods.build("hamp").run(context)
    assert not context.settled
    assert context.spent == 60


class Doubling:
    """A device that is twice as slow as its model says; counts how often it is asked."""

    def __init__(self) -> None:
        self.factor = 1.0
        self.asked = 0

    def measure(self, front: Sequence[Evaluation]) -> dict[str, Any]:
        self.asked += 1
        return {"factor": 2.0, "of": front[0].plan_key} if self.asked == 1 else {}

    def apply(self, data: dict[str, Any]) -> None:
        self.factor *= data["factor"]


def refined() -> tuple[SearchProblem, Doubling]:
    problem, refiner = staircase_problem(blocks_per_stage=1), Doubling()
    costs = problem.costs

    def corrected(widths: np.ndarray) -> dict[str, np.ndarray]:
        values = dict(costs(widths))
        return {**values, "latency": refiner.factor * values["latency"]}

    return replace(problem, costs=corrected, refiner=refiner), refiner


def test_refined_model_revises_the_archives_latencies_and_nothing_else() -> None:
    problem, _ = refined()
    context = context_of(problem=problem)
    context.evaluate(WIDTHS, "initial", 0)
    before = context.archive.F.copy()
    context.end_generation(0)
    context.end_generation(1)
    assert np.array_equal(context.archive.F, before * [1, 2, 1])


def test_refinements_are_replayed_and_not_measured_again() -> None:
    journal = Journal()
    fronts = []
    for asked in (2, 0):
        problem, refiner = refined()
        context = context_of(problem=problem, journal=journal)
        context.evaluate(WIDTHS, "initial", 0)
        context.end_generation(0)
        context.end_generation(1)  # nothing new was measured, and that is remembered too
        assert refiner.asked == asked
        fronts.append(context.archive.F.tolist())
    assert fronts[0] == fronts[1]


def test_journaled_evaluations_count_but_are_not_made_again() -> None:
    journal = Journal()
    context_of(journal=journal).evaluate(WIDTHS[:2], "initial", 0)
    told: list[Progress] = []
    context = context_of(budget=3, journal=journal, progress=told.append)
    with context.until_spent():
        context.evaluate(WIDTHS, "initial", 0)
    assert [step.replayed for step in told] == [True, True, False]
    assert context.spent == 3


def test_what_a_generation_evaluates_anew_is_measured_ahead_once_and_within_the_budget() -> None:
    asked: list[list[tuple[int, ...]]] = []
    problem = replace(
        staircase_problem(blocks_per_stage=1),
        measure_ahead=lambda plans: asked.append([tuple(int(width) for width in plan.widths) for plan in plans]),
    )
    context = context_of(budget=3, problem=problem)
    context.evaluate(WIDTHS[[0, 1, 0]], "initial", 0)
    with context.until_spent():
        context.evaluate(WIDTHS[1:], "offspring", 1)
    assert asked == [[(16, 32, 64), (8, 16, 32)], [(4, 8, 16)]]


def test_measuring_ahead_that_fails_leaves_the_failure_to_the_candidate() -> None:
    def broken(plans: Sequence[Any]) -> None:
        raise RuntimeError("one of them does not compile")

    context = context_of(problem=replace(staircase_problem(blocks_per_stage=1), measure_ahead=broken))
    assert len(context.evaluate(WIDTHS, "initial", 0)) == 4
