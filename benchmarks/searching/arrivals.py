"""When a search arrives: true evaluations until its hypervolume reaches shares of the best that is known."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import moocore
import numpy as np
import numpy.typing as npt

from hwprune.records import Score
from hwprune.search.evaluation import SearchContext
from hwprune.search.events import Progress
from hwprune.search.methods.base import Method
from hwprune.search.problem import SearchProblem
from searching.analytic import Target

#: Shares of the reference hypervolume that are waited for.
SHARES = (0.90, 0.95, 0.98)


class Arrived(Exception):  # noqa: N818 (a signal, no error)
    """The last share is reached; ends a search from within."""


@dataclass(frozen=True)
class Arrival:
    """One run.

    Attributes:
        evaluations: by share in percent, the evaluations that it took; None where the run ended before.
        spent: evaluations when it ended.
        hypervolume: share of the reference then, in [0, 1] and above where the run found better.
        seconds: wall time.
    """

    evaluations: dict[str, int | None]
    spent: int
    hypervolume: float
    seconds: float


class Watch:
    """Follows the hypervolume of a search, evaluation by evaluation.

    Attributes:
        front: ``(n, n_obj)`` best points so far below the reference point.
        evaluations: see :class:`Arrival`.
        share: of the reference hypervolume so far.
    """

    def __init__(self, target: Target, shares: Sequence[float] = SHARES) -> None:
        self._target = target
        self._shares = shares
        self.front = np.empty((0, len(target.ref_point)))
        self.evaluations: dict[str, int | None] = {f"{100 * share:g}": None for share in shares}
        self.share = 0.0

    def add(self, F: npt.NDArray[np.float64], spent: int) -> None:
        """Take ``(n, n_obj)`` points that were known after ``spent`` evaluations.

        Raises:
            Arrived: nothing more is to be waited for.
        """
        points = F[(self._target.ref_point > F).all(axis=1)]
        if len(self.front) and len(points):
            points = points[~(self.front[None] <= points[:, None]).all(axis=2).any(axis=1)]
        if not len(points):
            return
        front = np.vstack([self.front, points])
        self.front = front[moocore.is_nondominated(front)]
        self.share = moocore.hypervolume(self.front, ref=self._target.ref_point) / self._target.hypervolume
        for share in self._shares:
            name = f"{100 * share:g}"
            if self.evaluations[name] is None and self.share >= share:
                self.evaluations[name] = spent
        if None not in self.evaluations.values():
            raise Arrived


def run(target: Target, method: Method, seed: int, cap: int, shares: Sequence[float] = SHARES) -> Arrival:
    """Search until the last share is reached, or ``cap`` evaluations are spent."""
    return _search(target, method, seed, cap, shares)[0]


def one_after_the_other(
    targets: Sequence[Target], method: Callable[[], Method], seed: int, cap: int
) -> Iterator[Arrival]:
    """Search one network for several devices; every search is told the accuracies that those before it paid for."""
    known: dict[tuple[int, ...], Any] = {}
    for target in targets:
        problem = replace(target.problem, judge=_Remembers(target.problem, dict(known)))
        arrival, archive = _search(replace(target, problem=problem), method(), seed, cap, SHARES[:2])
        for evaluation in archive.evaluations:
            known[evaluation.widths] = evaluation.metric
        yield arrival


class _Remembers:
    """A judge that knows the metrics of earlier searches."""

    def __init__(self, problem: SearchProblem, known: dict[tuple[int, ...], float]) -> None:
        self._problem, self._known = problem, known

    def scores(self, plans: Sequence[Any], bars: Sequence[float]) -> Iterator[Score]:
        return (Score(self._problem.accuracy(plan)) for plan in plans)

    def known(self) -> list[tuple[tuple[int, ...], str, Score]]:
        plan = self._problem.plan
        return [(widths, plan(np.array(widths)).key, Score(metric)) for widths, metric in self._known.items()]


def _search(target: Target, method: Method, seed: int, cap: int, shares: Sequence[float]) -> tuple[Arrival, Any]:
    watch, started, seen = Watch(target, shares), time.perf_counter(), 0

    def progress(step: Progress) -> None:
        nonlocal seen
        F = context.archive.F
        new, seen = F[seen:], len(F)
        watch.add(new, step.spent)

    context = SearchContext(target.problem, cap, np.random.default_rng(seed), progress=progress)
    with contextlib.suppress(Arrived):
        method.run(context)
    return Arrival(watch.evaluations, context.spent, watch.share, time.perf_counter() - started), context.archive
