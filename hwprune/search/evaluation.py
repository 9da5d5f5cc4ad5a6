"""What a method has at hand while it runs: the problem, the budget of true evaluations, the archive they end up in."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict
from typing import Any

import moocore
import numpy as np
import numpy.typing as npt

from hwprune.errors import HwpruneError
from hwprune.records import Evaluation, Score
from hwprune.search.archive import Archive
from hwprune.search.compute import Compute, Part
from hwprune.search.events import Generation, Progress
from hwprune.search.journal import Journal
from hwprune.search.problem import CANDIDATE_FAILURES, ERROR_MARGIN, Plan, SearchProblem

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

#: Budget in evaluations of a search that ends by the clock.
UNLIMITED = 1_000_000
#: A front has settled when its hypervolume has grown by less than this share over a number of evaluations.
SETTLED_GAIN = 1e-3
#: Origin of evaluations that were taken over from earlier searches.
RECALLED = "recalled"


class BudgetExhausted(Exception):  # noqa: N818 (a signal between context and method, no error)
    """All true evaluations are spent; ends a method, whose result is in the archive.

    Raised with words where the budget was too small for what the method would have done next.
    """


class Settled(BudgetExhausted):
    """The hypervolume grows no more; ends a method as a spent budget does."""


class NothingEvaluatedError(HwpruneError):
    """Not one of the first candidates could be evaluated, the dense network among them."""


class SearchContext:
    """A problem with a budget: evaluates, never the same plan twice, and remembers.

    Resuming is running the same method again with the same seed and the journal of the run that was cut short: what
    the journal knows is not evaluated again, so that the run goes on where it stopped and ends with the same archive.

    Attributes:
        problem: what is searched.
        budget: true evaluations that may be spent; one is one accuracy evaluation of a distinct plan, failed or not.
            The argument ``minutes`` bounds the time that they take, too.
        passes: multiply-adds that may be spent, in passes of the dense network over the validation images; as many as
            ``budget`` evaluations of the dense network take, unless the argument ``dense_passes`` says otherwise.
        random_state: the only source of randomness.
        archive: every true evaluation so far.
        spent: true evaluations so far.
        compute: multiply-adds so far, of true evaluations and of what a method evaluates or trains beside them.
        executor: does parts of the search side by side; None for one after the other.
        repeated: requests for plans that were evaluated before; they are free.
        stored: true evaluations whose metric was known from an earlier search: they count, and take no time.
        given_up: candidates that were surely dominated before they had seen the whole validation split.
        evaluating_s: wall time spent in true evaluations, and in parts of the search.
        measuring_s: wall time spent in measuring networks for the latency model.
        shortage: what the budget was too small for, as ``too small to ...``; "" where the method could do all it does.
        settled: the search has ended because its hypervolume grew no more. The argument ``settle_after`` says over how
            many evaluations it must have grown by less than :data:`SETTLED_GAIN`; None never ends a search.
    """

    def __init__(
        self,
        problem: SearchProblem,
        budget: int,
        random_state: np.random.Generator,
        *,
        journal: Journal | None = None,
        progress: Callable[[Progress], None] | None = None,
        report: Callable[[Generation], None] | None = None,
        minutes: float | None = None,
        dense_passes: float | None = None,
        working: Callable[[float, str], None] | None = None,
        settle_after: int | None = None,
        executor: Executor | None = None,
    ) -> None:
        self.problem = problem
        self.budget = budget
        self.random_state = random_state
        self.archive = Archive(problem.objectives, problem.bounds)
        self._dense_passes = problem.passes(problem.plan(problem.space.sizes))
        self.passes = budget * self._dense_passes if dense_passes is None else dense_passes
        self.compute = Compute()
        self.executor = executor
        self.spent = 0
        self.repeated = 0
        self.stored = 0
        self.given_up = 0
        self.evaluating_s = 0.0
        self.measuring_s = 0.0
        self.settled = False
        self.shortage = ""
        self._settle_after = settle_after
        self._rows_at: list[tuple[int, int]] = []
        self._seconds_left = np.inf if minutes is None else 60 * minutes
        self._journal = Journal() if journal is None else journal  # an empty journal is false
        self._progress = progress or (lambda _: None)
        self._report = report or (lambda _: None)
        self._told = 0.0
        self._working = working or (lambda passes, note: None)
        self._known: dict[str, Evaluation] = {}
        self._asked: set[bytes] = set()
        self._marked = (time.perf_counter(), 0.0)

    @property
    def ref_point(self) -> FloatArray:
        """``(n_obj,)`` reference of the hypervolume: the problem's own, or the dense network's values and some error.

        Where the dense network could not be evaluated, the worst values so far.
        """
        if self.problem.ref_point is not None:
            return np.array(self.problem.ref_point)
        F = self.archive.F
        dense = np.flatnonzero((self.archive.widths == self.problem.space.sizes).all(axis=1))
        reference: FloatArray = F[dense[0]].copy() if dense.size else F.max(axis=0)
        for column, name in enumerate(self.problem.objectives):
            if name == "error":
                reference[column] += ERROR_MARGIN * max(1.0, abs(float(reference[column])))
        return reference

    @property
    def hypervolume(self) -> float:
        """Share of the box between nothing and the reference point that the front dominates; larger is better."""
        return self._hypervolume(len(self.archive)) if len(self.archive) else 0.0

    @property
    def remaining(self) -> int:
        """True evaluations that are left."""
        return self.budget - self.spent

    @property
    def bounded(self) -> bool:
        """Whether the budget is a number of evaluations."""
        return self.budget < UNLIMITED

    @property
    def passes_left(self) -> float:
        """Multiply-adds that are left, in passes of the dense network over the validation images."""
        return self.passes - self.compute.total

    @property
    def affordable(self) -> int:
        """True evaluations that the budget still holds, if each costs what the dense network's does."""
        return min(self.remaining, int(self.passes_left / self._dense_passes + 1e-6))

    def seen(self, widths: IntArray) -> npt.NDArray[np.bool_]:
        """``(n,)`` mask of the ``(n, G)`` widths that were asked for before, and so cost nothing and tell nothing."""
        return np.array([row.tobytes() in self._asked for row in np.ascontiguousarray(widths, np.int64)], dtype=bool)

    def evaluate(self, widths: IntArray, origin: str | Sequence[str], generation: int) -> list[Evaluation]:
        """Evaluate ``(n, G)`` widths truly, each distinct plan once.

        Args:
            widths: kept channels.
            origin: who proposed them: ``initial``, ``offspring``, ``local_search``, ...; one for all, or one each.
            generation: number of the generation, from 0.

        Raises:
            BudgetExhausted: before the first plan that the budget does not hold; those before it are in the archive.
        """
        rows = np.ascontiguousarray(widths, np.int64)
        return self.evaluate_plans([self.problem.plan(row) for row in rows], origin, generation)

    def evaluate_plans(self, plans: Sequence[Plan], origin: str | Sequence[str], generation: int) -> list[Evaluation]:
        """Evaluate plans truly that need not be those of widths alone, each distinct one once.

        Raises:
            BudgetExhausted: before the first plan that the budget does not hold; those before it are in the archive.
        """
        new = self._new(plans)
        self._measure_ahead(new)
        origins = [origin] * len(plans) if isinstance(origin, str) else origin
        by_key = {plan.key: name for plan, name in zip(plans, origins, strict=True)}
        with contextlib.closing(self._evaluations(new, by_key, generation)) as made:
            return [self._take(plan, made) for plan in plans]

    def part(self, name: str, work: Callable[[], Part]) -> dict[str, Any]:
        """Do a part of the search that is no true evaluation; a resumed run is told by the journal what it found.

        ``work`` must not draw from :attr:`random_state`: it is not called where the journal answers.

        Raises:
            BudgetExhausted: nothing is left to spend on it.
        """
        return self.parts({name: work})[name]

    def parts(self, works: Mapping[str, Callable[[], Part]]) -> dict[str, dict[str, Any]]:
        """The same for several parts that need nothing of each other, side by side where there is an executor.

        ``works`` that go to other processes must be such that these can read them.

        Raises:
            BudgetExhausted: nothing is left to spend on them.
        """
        self._check_budget(2e-6 * self.passes)
        started = time.perf_counter()
        todo = [name for name in works if self._journal.part(name) is None]
        if self.executor is None or len(todo) < 2:
            made: Iterator[Part] = map(_call, (works[name] for name in todo))
        else:
            made = self.executor.map(_call, [works[name] for name in todo])
        for name, part in zip(todo, made, strict=True):
            seconds = time.perf_counter() - started
            self._journal.add_part(
                name, {"found": dict(part.data), "compute": asdict(part.compute), "seconds": seconds}
            )
            self.evaluating_s += seconds
            started = time.perf_counter()
        found: dict[str, dict[str, Any]] = {}
        for name in works:
            known = self._journal.part(name)
            assert known is not None
            compute = Compute(**known["compute"])
            self.compute += compute
            self.tell(max(compute.total - self._told, 0.0), name)
            self._told = 0.0
            self._seconds_left -= known["seconds"]
            found[name] = known["found"]
        return found

    def charge(self, compute: Compute) -> None:
        """Count multiply-adds that a method has spent outside of evaluations and parts."""
        self.compute += compute

    def tell(self, passes: float, note: str) -> None:
        """Let the user know that a part of the search has spent ``passes`` more, and what it is at."""
        self._told += passes
        self._working(passes, note)

    def recall(self) -> list[Evaluation]:
        """Take over, at no cost to the budget, what earlier searches of this network found out, on any device.

        Metrics come from the store; costs are this problem's, computed. Nothing is taken over where every latency is
        measured. A resumed run takes over what it did when it began.
        """
        problem, known = self.problem, [found for found in self._journal.evaluations if found.origin == RECALLED]
        if not len(self._journal) and problem.judge is not None and problem.measure is None:
            for widths, plan_key, score in problem.judge.known():
                row = np.array(widths, dtype=np.int64)
                if not problem.space.holds(row) or (plan := problem.plan(row)).key != plan_key:
                    continue
                costs, reason = problem.costs_of(plan, row)
                if reason is None:
                    known.append(problem.evaluation(plan, row, costs, score, RECALLED, 0, 0.0))
                    self._journal.add_evaluation(known[-1])
        for evaluation in known:
            if evaluation.plan_key in self._known:
                continue
            self._remember(evaluation, problem.plan(np.array(evaluation.widths, dtype=np.int64)))
        return known

    def rows(self, evaluations: list[Evaluation]) -> IntArray:
        """Rows of the archive that hold ``evaluations``; failed ones have none."""
        rows = [self.archive.row(evaluation.plan_key) for evaluation in evaluations]
        return np.unique(np.array([row for row in rows if row is not None], dtype=np.int64))

    def end_generation(
        self,
        number: int,
        *,
        surrogate_tau: float | None = None,
        surrogate_used: bool = False,
        local_steps: int = 0,
        selection: str = "",
        may_settle: bool = False,
    ) -> None:
        """Close a generation: let the latency model be corrected, then report.

        The correction is journaled, so that a resumed run repeats it with the same numbers. A method whose every
        generation searches the whole space says that it ``may_settle``: it ends when its hypervolume grows no more.

        Raises:
            NothingEvaluatedError: every evaluation so far has failed.
            BudgetExhausted: the front has settled.
        """
        self._check()
        self._refine(number)
        now, (then, evaluating_s) = time.perf_counter(), self._marked
        self._marked = now, self.evaluating_s
        self._report(
            Generation(
                number,
                self.spent,
                len(self.archive.front_rows()),
                self.hypervolume,
                surrogate_tau,
                surrogate_used,
                local_steps,
                selection,
                now - then,
                self.evaluating_s - evaluating_s,
            )
        )
        self._rows_at.append((self.spent, len(self.archive)))
        if may_settle:
            self._stop_if_settled()

    @contextlib.contextmanager
    def until_spent(self) -> Iterator[None]:
        """Block that ends quietly when the budget is spent.

        Raises:
            NothingEvaluatedError: every evaluation has failed.
        """
        try:
            yield
        except BudgetExhausted as end:
            self.shortage = str(end)
        self._check()

    def _check(self) -> None:
        if self.archive.failures and not len(self.archive):
            reason = self.archive.failures[0].error
            raise NothingEvaluatedError(
                f"none of the first {self.spent} candidates could be evaluated ({reason}): mend that, then start anew"
            )

    def _hypervolume(self, rows: int) -> float:
        """Hypervolume of the first ``rows`` evaluations, as their objectives are known now."""
        ref_point, archive = self.ref_point, self.archive
        good = np.flatnonzero((archive.CV <= 0) & archive.whole & (np.arange(len(archive)) < rows))
        volume = moocore.hypervolume(archive.F[good], ref=ref_point) if good.size else 0.0
        return float(volume / np.prod(np.maximum(np.abs(ref_point), 1e-300)))

    def _stop_if_settled(self) -> None:
        if self._settle_after is None:
            return
        before = [rows for spent, rows in self._rows_at if spent <= self.spent - self._settle_after]
        then = self._hypervolume(before[-1]) if before else 0.0
        if then > 0 and self.hypervolume <= (1 + SETTLED_GAIN) * then:
            self.settled = True
            raise Settled

    def _check_budget(self, passes: float) -> None:
        # A budget of N evaluations of the dense network must hold N of them, whatever floats add up to.
        rounding = 1e-6 * self.passes
        if self.spent >= self.budget or passes > self.passes_left + rounding or self._seconds_left <= 0:
            raise BudgetExhausted

    def _new(self, plans: Sequence[Plan]) -> list[Plan]:
        """Plans that must be evaluated, each once, as far as the budget reaches."""
        if self._seconds_left <= 0:
            return []
        unknown = {plan.key: plan for plan in plans if plan.key not in self._known}
        reached = list(unknown.values())[: self.remaining]
        return [plan for plan in reached if self._journal.evaluation(plan.key) is None]

    def _measure_ahead(self, plans: Sequence[Plan]) -> None:
        """Have the plans measured that are about to be evaluated truly."""
        if self.problem.measure_ahead is None or not plans:
            return
        started = time.perf_counter()
        with contextlib.suppress(*CANDIDATE_FAILURES):  # the candidate that fails will fail again, and be told apart
            self.problem.measure_ahead(plans)
        elapsed_s = time.perf_counter() - started
        self.evaluating_s += elapsed_s
        self._seconds_left -= elapsed_s

    def _evaluations(
        self, new: Sequence[Plan], origins: Mapping[str, str], generation: int
    ) -> Generator[Evaluation, None, None]:
        """Evaluations of plans, made as they are asked for; who may be given up early is settled at once.

        The bars are those before the generation, of which a resumed run finds a part in its journal.
        """
        started = time.perf_counter()
        problem, rows = self.problem, [np.array(plan.widths, dtype=np.int64) for plan in new]
        costs = [problem.costs_of(plan, row) for plan, row in zip(new, rows, strict=True)]
        sound = [index for index, (_, reason) in enumerate(costs) if reason is None]
        bars = [self.archive.bar(costs[index][0]) for index in sound]

        def made(started: float) -> Generator[Evaluation, None, None]:
            scores = problem.scores([new[index] for index in sound], bars)
            for plan, row, (values, reason) in zip(new, rows, costs, strict=True):
                score = next(scores) if reason is None else Score(None, error=reason)
                now = time.perf_counter()
                yield problem.evaluation(plan, row, values, score, origins[plan.key], generation, now - started)
                started = time.perf_counter()  # what is done with an evaluation is no part of the next one

        return made(started)

    def _take(self, plan: Plan, made: Iterator[Evaluation]) -> Evaluation:
        known = self._known.get(plan.key)
        if known is not None:
            self.repeated += 1
            return known
        self._check_budget(self.problem.passes(plan))
        recorded = self._journal.evaluation(plan.key)
        evaluation = recorded or next(made)
        if recorded is None:
            self.evaluating_s += evaluation.seconds
            self._journal.add_evaluation(evaluation)
        self._seconds_left -= evaluation.seconds  # as recorded, so that a resumed run ends where this one would
        self.spent += 1
        self.stored += evaluation.stored
        self.given_up += evaluation.images is not None
        self.compute += Compute(self.problem.passes(plan))
        self._remember(evaluation, plan)
        self._progress(Progress(evaluation, self.spent, self.budget, recorded is not None))
        return evaluation

    def _remember(self, evaluation: Evaluation, plan: Plan) -> None:
        self._known[evaluation.plan_key] = evaluation
        self._asked.add(np.array(evaluation.widths, dtype=np.int64).tobytes())
        self.archive.add(evaluation, plan)

    def _settle(self) -> None:
        """Let candidates that were given up, and that a revised latency brought to the front, see the whole split."""
        failed: set[str] = set()
        while unsettled := [found for found in self.archive.unsettled() if found.plan_key not in failed]:
            for found in unsettled:
                evaluation = self._journal.completion(found.plan_key)
                if evaluation is None:
                    evaluation = self._again(found)
                    self.evaluating_s += evaluation.seconds
                    self._journal.add_completion(evaluation)
                self._seconds_left -= evaluation.seconds
                if evaluation.error is not None:
                    failed.add(found.plan_key)  # never on the front: what it was given up with stays in the archive
                    continue
                self._known[found.plan_key] = evaluation
                self.archive.complete(evaluation)

    def _again(self, found: Evaluation) -> Evaluation:
        widths = np.array(found.widths, dtype=np.int64)
        return self.problem.evaluate(self.archive.plan(found.plan_key), widths, found.origin, found.generation)

    def _refine(self, generation: int) -> None:
        refiner = self.problem.refiner
        if refiner is None or not len(self.archive):
            return
        data = self._journal.refinement(generation)
        if data is None:
            started = time.perf_counter()
            data = refiner.measure(self.archive.front())
            self.measuring_s += time.perf_counter() - started
            self._journal.add_refinement(generation, data)
        if data:
            refiner.apply(data)
            self.archive.revise("latency", self.problem.cheap(self.archive.widths)["latency"])
            self._settle()


def _call(work: Callable[[], Part]) -> Part:
    return work()
