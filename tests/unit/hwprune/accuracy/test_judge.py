"""One archive, whoever scores: one process or several, this search or an earlier one."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hwprune.accuracy.judge import AccuracyJudge
from hwprune.accuracy.scorer import Protocol
from hwprune.config import Problem
from hwprune.executors import Alone, Processes
from hwprune.experiments.judging import open_judge
from hwprune.experiments.progress import Silent
from hwprune.experiments.run import search_problem
from hwprune.experiments.workbench import Workbench
from hwprune.records import Score
from hwprune.search import methods
from hwprune.search.evaluation import SearchContext
from hwprune.store import Accuracies, Store


@pytest.fixture
def accuracies(tmp_path: Path) -> Iterator[Accuracies]:
    with Store.open(tmp_path / "store.db", tmp_path / "artifacts") as store:
        yield store.accuracies


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    with Processes(2, 1) as team:
        yield team


def judge_of(bench: Workbench, executor: Executor, accuracies: Accuracies | None = None) -> AccuracyJudge:
    judge = open_judge(bench, executor, accuracies, Silent())
    assert judge is not None
    return judge


def searched(
    bench: Workbench, judge: AccuracyJudge, budget: int = 32, method: str = "nsga2", seed: int = 0, recall: bool = False
) -> SearchContext:
    told = search_problem(bench, None, None, {}, 2, judge)
    context = SearchContext(told, budget, np.random.default_rng(seed))
    if recall:
        context.recall()
    methods.build(method).run(context)
    return context


def told_of(context: SearchContext) -> list[Any]:
    """All that a search has found out, but not when."""
    return [replace(found, seconds=0.0, stored=False) for found in context.archive.evaluations]


@pytest.fixture(scope="module")
def alone(bench: Workbench) -> SearchContext:
    """A search whose candidates this process scores."""
    return searched(bench, judge_of(bench, Alone()))


def test_two_processes_find_every_bit_of_what_one_finds(
    bench: Workbench, processes: Processes, alone: SearchContext
) -> None:
    together = searched(bench, judge_of(bench, processes))
    assert told_of(alone) == told_of(together)
    assert 0 < alone.given_up == together.given_up < 32


class Murderer(Processes):
    """Kills one of its processes after some calls."""

    submitted = 0

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        self.submitted += 1
        if self.submitted == 12:
            os.kill(next(iter(self._pool._processes)), signal.SIGKILL)
        return super().submit(*args, **kwargs)


def test_a_process_killed_in_mid_search_changes_nothing(bench: Workbench, alone: SearchContext) -> None:
    with Murderer(2, 1) as team:
        assert told_of(searched(bench, judge_of(bench, team))) == told_of(alone)
        assert team.submitted > 12


def test_who_is_given_up_is_dominated_and_what_is_kept_saw_every_image(bench: Workbench, alone: SearchContext) -> None:
    archive, judge = alone.archive, judge_of(bench, Alone())
    plans = [bench.plan(found.widths) for found in archive.evaluations]
    whole = np.array([score.metric for score in judge.scores(plans, [math.inf] * len(plans))])
    raced = ~archive.whole
    assert raced.any()
    assert whole[~raced].tolist() == [found.metric for found in archive.evaluations if found.images is None]
    F = archive.F.copy()
    F[:, archive.objectives.index("error")] = 1 - whole
    for row in np.flatnonzero(raced):
        better = (F[row] >= F).all(axis=1) & (F[row] > F).any(axis=1)
        assert better.any()
    assert all(found.images is None for found in archive.front())


def test_a_later_search_is_served_from_the_store_whatever_its_method(bench: Workbench, accuracies: Accuracies) -> None:
    first = searched(bench, judge_of(bench, Alone(), accuracies))
    again = searched(bench, judge_of(bench, Alone(), accuracies))
    # Where bfloat16 is the fast format, the dense network was scored in it before the search.
    assert (first.stored, again.stored) == (bench.dtype is not None, again.spent)
    assert told_of(first) == told_of(again)
    uniform = searched(bench, judge_of(bench, Alone(), accuracies), 10, "uniform")
    assert 0 < uniform.stored < uniform.spent


def test_the_store_tells_a_part_only_where_it_would_be_given_up_again(bench: Workbench, accuracies: Accuracies) -> None:
    judge = judge_of(bench, Alone(), accuracies)
    plan = bench.plan(np.maximum(1, bench.groups.sizes // 5))
    (early,) = judge.scores([plan], [0.01])
    assert early.images in (120, 240)
    assert list(judge.scores([plan], [0.01])) == [replace(early, stored=True)]
    assert list(judge.scores([plan], [0.02])) == [replace(early, stored=True)]
    (whole,) = judge.scores([plan], [math.inf])
    assert (whole.images, whole.stored) == (None, False)
    assert list(judge.scores([plan], [0.01])) == [replace(whole, stored=True)]


def test_other_weights_another_protocol_and_float32_are_not_mixed_up(
    problem: Problem, bench: Workbench, accuracies: Accuracies
) -> None:
    judge = judge_of(bench, Alone(), accuracies)
    plan = bench.plan(np.maximum(1, bench.groups.sizes // 2))
    list(judge.scores([plan], [math.inf]))
    assert not next(iter(judge.exact([plan]))).stored
    assert next(iter(judge.exact([plan]))).stored
    fewer = problem.model_copy(update={"evaluation": problem.evaluation.model_copy(update={"search_bn_images": 256})})
    other = judge_of(Workbench.open(fewer), Alone(), accuracies)
    # In float32 and with all of BatchNorm's images it is the protocol of what is returned.
    assert next(iter(other.scores([plan], [math.inf]))).stored is (bench.dtype is None)


def test_a_search_begins_with_what_others_have_found_out(bench: Workbench, accuracies: Accuracies) -> None:
    first = searched(bench, judge_of(bench, Alone(), accuracies))
    judge = judge_of(bench, Alone(), accuracies)
    second = searched(bench, judge, 10, "random", seed=5, recall=True)
    recalled = [found for found in second.archive.evaluations if found.origin == "recalled"]
    assert len(recalled) == first.archive.whole.sum()
    assert second.spent == 10  # what is recalled costs nothing
    ref_point = second.archive.F.max(axis=0)
    assert second.archive.hypervolume(ref_point) >= first.archive.hypervolume(ref_point)


def test_the_number_format_is_checked_on_the_dense_network(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Told(Silent):
        def info(self, message: str) -> None:
            said.append(message)

        def warn(self, message: str) -> None:
            said.append(message)

    open_judge(bench, Alone(), None, Told())
    assert said[0].startswith("the dense network: top1 0.9")
    if bench.dtype is None:
        pytest.skip("float32 is this processor's fastest format")
    assert said[1].startswith("scoring in bfloat16, which moves the dense top1 by 0.00")
    monkeypatch.setattr("hwprune.experiments.judging.NOISE", -1.0)
    judge = open_judge(bench, Alone(), None, Told())
    assert said[-1].startswith("bfloat16 would move the dense top1")
    assert bench.dtype is None
    assert judge is not None
    plan = bench.plan(np.maximum(1, bench.groups.sizes // 2))
    assert bench.scorer is not None
    expected = bench.scorer.score(plan, Protocol(torch.float32, 1))
    assert list(judge.scores([plan], [math.inf])) == [expected]
    bench.float32 = False


def test_scores_come_in_the_order_of_the_plans(bench: Workbench, processes: Processes) -> None:
    widths = [np.maximum(1, (share * bench.groups.sizes).astype(int)) for share in (0.3, 1.0, 0.5, 0.8, 0.4)]
    plans = [bench.plan(row) for row in widths]
    judge = judge_of(bench, processes)
    assert bench.scorer is not None
    expected = [bench.scorer.score(plan, bench.protocol) for plan in plans]
    assert list(judge.scores(plans, [math.inf] * 5)) == expected
    begun: Iterator[Score] = judge.scores(plans, [math.inf] * 5)
    assert next(begun) == expected[0]
    del begun  # the others are cancelled
