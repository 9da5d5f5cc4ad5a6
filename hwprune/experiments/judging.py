"""Who scores a search's candidates: opened before it, with all that it needs on every worker."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass

from hwprune.accuracy.build import facts_of
from hwprune.accuracy.judge import AccuracyJudge
from hwprune.accuracy.scorer import Look, Protocol
from hwprune.config import Problem
from hwprune.errors import HwpruneError
from hwprune.executors import Team, open_team
from hwprune.experiments.progress import Console
from hwprune.experiments.workbench import Workbench
from hwprune.pruning.plan import PruningPlan
from hwprune.records import Score
from hwprune.store.accuracies import Accuracies

#: Share of a standard error (of a percent, where there is none) that a number format may move the dense metric by.
NOISE = 0.5


@dataclass(frozen=True)
class Crew:
    """Where candidates are scored.

    Attributes:
        workers: processes on this machine; 1 scores in this one.
        scheduler: address of a Dask scheduler, whose workers take their place; None for this machine.
    """

    workers: int = 1
    scheduler: str | None = None

    def team(self, problem: Problem) -> AbstractContextManager[Team]:
        """The executor, with the problem's threads for each call as far as the cores allow.

        Raises:
            ConfigError: the cluster cannot be used.
        """
        return open_team(self.workers, self.scheduler, problem.evaluation.threads)


ALONE = Crew()


def open_judge(
    bench: Workbench, executor: Executor, accuracies: Accuracies | None, console: Console
) -> AccuracyJudge | None:
    """What scores the candidates of a problem; None where only its task itself can, one by one.

    The number format that ``auto`` stands for is settled here: the processor's fast one if it leaves the dense
    network's metric within half a standard error, else float32.

    Args:
        bench: the problem.
        executor: what scores.
        accuracies: of earlier searches, and where new ones go.
        console: who is told.

    Raises:
        HwpruneError: the dense network cannot be scored.
    """
    if bench.scorer is None or bench.parcel is None:
        console.info("candidates are scored one by one: the task is no BaseTask, or its images are too many to be kept")
        return None
    if isinstance(executor, Team):
        executor.send(bench.parcel)
    facts = facts_of(bench.problem, bench.data, bench.task, bench.dense, bench.scorer)
    train = [len(images) for images, _ in bench.scorer.train]
    val = [len(images) for images, _ in bench.scorer.val] if bench.scorer.counts else []

    def apart(plan: PruningPlan, protocol: Protocol, looks: Sequence[Look]) -> Score:
        scorer = bench.scorer_for(plan)
        assert scorer is not None  # the bench has one
        return scorer.score(plan, protocol, looks)

    told = (train, val, executor, accuracies, bench.scorer.sharing, apart)
    judge = AccuracyJudge(bench.parcel, facts, bench.protocol, *told)
    dense, name = PruningPlan.dense(bench.groups), bench.task.metric.name
    exact = _metric(next(judge.exact([dense])))
    console.info(f"the dense network: {name} {exact:.4f} on the validation split")
    if bench.dtype is None or bench.problem.evaluation.dtype != "auto":
        return judge
    moved, noise = abs(_metric(next(judge.scores([dense], [math.inf]))) - exact), _noise(exact, sum(val))
    if moved <= noise:
        console.info(f"scoring in bfloat16, which moves the dense {name} by {moved:.4f} (noise {noise:.4f})")
        return judge
    console.warn(f"bfloat16 would move the dense {name} by {moved:.4f} (noise {noise:.4f}): scoring in float32")
    bench.float32 = True
    return AccuracyJudge(bench.parcel, facts, bench.protocol, *told)


def _metric(score: Score) -> float:
    if score.metric is None:
        raise HwpruneError(f"the dense network cannot be scored ({score.error}): check network, weights and data")
    return score.metric


def _noise(metric: float, images: int) -> float:
    """How far a metric may move: half a standard error of a share of images, half a percent of anything else."""
    if images and 0 <= metric <= 1:
        return NOISE * math.sqrt(max(metric * (1 - metric), 1 / images) / images)
    return 0.01 * NOISE * abs(metric)
