"""Searches whose candidates a judge scores: some are given up, some were known before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwprune.records import Evaluation, Score
from hwprune.search import methods
from hwprune.search.archive import Archive
from hwprune.search.evaluation import SearchContext
from hwprune.search.journal import Journal
from hwprune.search.problem import SearchProblem
from hwprune.search.synthetic import WidthPlan, staircase_problem

PROBLEM = staircase_problem(blocks_per_stage=1)
DENSE, HALF, THIN = (16, 32, 64), (8, 16, 32), (4, 8, 16)


class Half:
    """Gives up whoever is worse than its bar, on half of 100 images, where it seems a little worse than it is."""

    def __init__(self, known: Sequence[tuple[tuple[int, ...], str, Score]] = ()) -> None:
        self.asked: list[tuple[tuple[int, ...], float]] = []
        self._known = known

    def scores(self, plans: Sequence[Any], bars: Sequence[float]) -> Iterator[Score]:
        for plan, bar in zip(plans, bars, strict=True):
            self.asked.append((plan.widths, bar))
            metric = PROBLEM.accuracy(plan)
            yield Score(metric - 0.01, images=50) if 1 - metric > bar else Score(metric)

    def known(self) -> Sequence[tuple[tuple[int, ...], str, Score]]:
        return self._known


def context_of(judge: Half, budget: int = 60, journal: Journal | None = None, **changes: Any) -> SearchContext:
    problem = replace(PROBLEM, judge=judge, **changes)
    return SearchContext(problem, budget, np.random.default_rng(0), journal=journal)


def told(context: SearchContext) -> list[Evaluation]:
    return [replace(found, seconds=0.0) for found in context.archive.evaluations]


def evaluation(key: str, error: float, latency: float, images: int | None = None) -> Evaluation:
    return Evaluation(key, (1,), {"error": error, "latency": latency}, 1 - error, "initial", 0, 0.0, images=images)


def test_bar_is_the_lowest_whole_error_at_no_higher_cost() -> None:
    archive = Archive(("error", "latency"), {"latency": 5.0})
    assert archive.bar({"latency": 1.0}) == np.inf
    for found in (
        evaluation("a", 0.3, 1.0),
        evaluation("b", 0.2, 2.0),
        evaluation("part", 0.1, 2.0, images=50),
        evaluation("infeasible", 0.01, 6.0),
    ):
        archive.add(found)
    assert [archive.bar({"latency": latency}) for latency in (0.9, 1.0, 2.0, 7.0)] == [np.inf, 0.3, 0.2, 0.2]
    assert Archive(("latency",)).bar({"latency": 1.0}) == np.inf


def test_all_bars_of_a_generation_are_those_before_it() -> None:
    judge = Half()
    context = context_of(judge)
    context.evaluate(np.array([DENSE, HALF]), "initial", 0)
    assert [bar for _, bar in judge.asked] == [np.inf, np.inf]
    context.evaluate(np.array([THIN, HALF, THIN]), "offspring", 1)
    assert [widths for widths, _ in judge.asked] == [DENSE, HALF, THIN]  # once each
    assert judge.asked[-1][1] == np.inf  # nothing is cheaper in everything


def test_evaluations_tell_who_was_given_up_and_fronts_hold_none_of_them() -> None:
    context = context_of(Half())
    methods.build("nsga2").run(context)
    partial = [found for found in context.archive.evaluations if found.images is not None]
    assert context.given_up == len(partial) > 0
    assert all(found.images is None for found in context.archive.front())
    assert context.archive.unsettled() == []


class Interrupted(Half):
    """Somebody presses Ctrl-C in the middle of a generation."""

    def scores(self, plans: Sequence[Any], bars: Sequence[float]) -> Iterator[Score]:
        for score in super().scores(plans, bars):
            if len(self.asked) == 30:
                raise KeyboardInterrupt
            yield score


def test_a_judged_search_goes_on_where_it_was_interrupted_and_ends_the_same(tmp_path: Path) -> None:
    whole = context_of(Half())
    methods.build("nsga2").run(whole)
    journal = Journal(tmp_path / "journal.jsonl")
    with pytest.raises(KeyboardInterrupt):
        methods.build("nsga2").run(context_of(Interrupted(), journal=journal))
    journal.close()
    journal = Journal(tmp_path / "journal.jsonl")
    judge = Half()
    resumed = context_of(judge, journal=journal)
    methods.build("nsga2").run(resumed)
    journal.close()
    assert told(resumed) == told(whole)
    assert len(judge.asked) == 60 - 29
    assert resumed.given_up == whole.given_up


class Reversed:
    """A device on which, it turns out, what seemed slow is fast."""

    def __init__(self) -> None:
        self.sign = 1.0

    def measure(self, front: Sequence[Evaluation]) -> dict[str, Any]:
        return {"sign": -1.0}

    def apply(self, data: dict[str, Any]) -> None:
        self.sign = data["sign"]


def reversed_context(judge: Half, journal: Journal) -> SearchContext:
    """Two objectives; latency turns round after the first generation, so that who was dominated is so no longer."""
    refiner = Reversed()

    def costs(widths: np.ndarray) -> dict[str, np.ndarray]:
        return {"latency": refiner.sign * (100.0 + widths[:, 0] - 0.5 * widths[:, 2])}

    return context_of(judge, 10, journal, costs=costs, objectives=("error", "latency"), refiner=refiner)


def test_who_was_given_up_and_comes_to_the_front_sees_the_whole_split(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    found = []
    for asked in (4, 0):
        judge = Half()
        context = reversed_context(judge, journal)
        context.evaluate(np.array([DENSE]), "initial", 0)
        context.evaluate(np.array([(16, 32, 8), (8, 8, 8)]), "offspring", 1)
        assert [each.images for each in context.archive.evaluations] == [None, 50, 50]
        context.end_generation(1)
        assert len(judge.asked) == asked
        assert context.spent == 3
        front = context.archive.front()
        assert {each.widths for each in front} == {DENSE, (16, 32, 8)}
        assert all(each.images is None for each in front)
        found.append(told(context))
        journal.close()
        journal = Journal(tmp_path / "journal.jsonl")
    assert found[0] == found[1]


def known_of(*widths: tuple[int, ...], key: str | None = None) -> list[tuple[tuple[int, ...], str, Score]]:
    plans = [WidthPlan(row) for row in widths]
    metrics = [PROBLEM.accuracy(plan) if len(plan.widths) == len(DENSE) else 0.5 for plan in plans]
    return [
        (plan.widths, key or plan.key, Score(metric, stored=True)) for plan, metric in zip(plans, metrics, strict=True)
    ]


def test_recall_takes_over_what_fits_and_costs_nothing() -> None:
    judge = Half([*known_of(HALF, THIN), *known_of((16, 32)), *known_of((8, 16, 31)), *known_of(DENSE, key="another")])
    context = context_of(judge)
    recalled = context.recall()
    assert [found.widths for found in recalled] == [HALF, THIN]
    assert {found.origin for found in recalled} == {"recalled"}
    assert (context.spent, len(context.archive), judge.asked) == (0, 2, [])
    context.evaluate(np.array([HALF]), "initial", 0)
    assert (context.spent, context.repeated) == (0, 1)
    costs = {name: value.item() for name, value in PROBLEM.cheap(np.array([HALF])).items()}
    assert recalled[0].objectives == {**costs, "error": pytest.approx(1 - PROBLEM.accuracy(WidthPlan(HALF)))}


def test_what_was_recalled_is_recalled_once() -> None:
    context = context_of(Half(known_of(HALF, THIN)))
    context.recall()
    context.recall()
    assert len(context.archive) == 2


def test_a_resumed_search_recalls_what_it_did_when_it_began() -> None:
    journal = Journal()
    context_of(Half(known_of(HALF)), journal=journal).recall()
    later = context_of(Half(known_of(HALF, THIN)), journal=journal)
    assert [found.widths for found in later.recall()] == [HALF]


def test_nothing_is_recalled_where_every_latency_is_measured() -> None:
    def measure(plan: Any) -> Any:
        raise AssertionError("nothing is measured for it")

    assert context_of(Half(known_of(HALF)), measure=measure).recall() == []


def test_failing_costs_and_failing_scores_are_told_apart_from_good_ones() -> None:
    def exact(plan: Any) -> dict[str, float]:
        if plan.widths == HALF:
            raise RuntimeError("no plan of its memory")
        return {}

    class Refusing(Half):
        def scores(self, plans: Sequence[Any], bars: Sequence[float]) -> Iterator[Score]:
            for plan, score in zip(plans, super().scores(plans, bars), strict=True):
                yield Score(None, error="MemoryError: too large") if plan.widths == DENSE else score

    judge = Refusing()
    problem: SearchProblem = replace(PROBLEM, judge=judge, exact=exact)
    context = SearchContext(problem, 10, np.random.default_rng(0))
    found = context.evaluate(np.array([DENSE, HALF, THIN]), "initial", 0)
    assert [each.error for each in found] == ["MemoryError: too large", "RuntimeError: no plan of its memory", None]
    assert [widths for widths, _ in judge.asked] == [DENSE, THIN]
