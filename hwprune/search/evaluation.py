"""What a method has at hand while it runs: the problem, the budget of true evaluations, the archive they end up in."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwprune.errors import HwpruneError
from hwprune.records import Evaluation
from hwprune.search.archive import Archive
from hwprune.search.journal import Journal
from hwprune.search.problem import CANDIDATE_FAILURES, ERROR_MARGIN, SearchProblem

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class BudgetExhausted(Exception):  # noqa: N818 (a signal between context and method, no error)
    """All true evaluations are spent; ends a method, whose result is in the archive."""


class NothingEvaluatedError(HwpruneError):
    """Not one of the first candidates could be evaluated, the dense network among them."""


@dataclass(frozen=True)
class Progress:
    """One true evaluation has ended.

    Attributes:
        evaluation: the evaluation.
        spent: evaluations so far, this one included.
        budget: evaluations in all.
        replayed: it was answered by the journal and cost nothing.
    """

    evaluation: Evaluation
    spent: int
    budget: int
    replayed: bool


@dataclass(frozen=True)
class Generation:
    """One generation has ended.

    Attributes:
        number: from 0, the initial population.
        spent: evaluations so far.
        front_size: feasible non-dominated evaluations.
        surrogate_tau: rank correlation of the error's surrogate with held-out evaluations, in [-1, 1]; None without.
        surrogate_used: proposals were screened by the surrogate.
        local_steps: moves that the local search made.
        selection: rule that selected the survivors.
        seconds: wall time, evaluations included.
        evaluating_s: part of it that went into true evaluations.
    """

    number: int
    spent: int
    front_size: int
    surrogate_tau: float | None
    surrogate_used: bool
    local_steps: int
    selection: str
    seconds: float
    evaluating_s: float


class SearchContext:
    """A problem with a budget: evaluates, never the same plan twice, and remembers.

    Resuming is running the same method again with the same seed and the journal of the run that was cut short: what
    the journal knows is not evaluated again, so that the run goes on where it stopped and ends with the same archive.

    Attributes:
        problem: what is searched.
        budget: true evaluations that may be spent; one is one accuracy evaluation of a distinct plan, failed or not.
            The argument ``minutes`` bounds the time that they take, too.
        random_state: the only source of randomness.
        archive: every true evaluation so far.
        spent: true evaluations so far.
        repeated: requests for plans that were evaluated before; they are free.
        evaluating_s: wall time spent in true evaluations.
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
    ) -> None:
        self.problem = problem
        self.budget = budget
        self.random_state = random_state
        self.archive = Archive(problem.objectives, problem.bounds)
        self.spent = 0
        self.repeated = 0
        self.evaluating_s = 0.0
        self._seconds_left = np.inf if minutes is None else 60 * minutes
        self._journal = Journal() if journal is None else journal  # an empty journal is false
        self._progress = progress or (lambda _: None)
        self._report = report or (lambda _: None)
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
    def remaining(self) -> int:
        """True evaluations that are left."""
        return self.budget - self.spent

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
        self._measure_ahead(rows)
        origins = [origin] * len(rows) if isinstance(origin, str) else origin
        return [self._evaluate(row, origin, generation) for row, origin in zip(rows, origins, strict=True)]

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
    ) -> None:
        """Close a generation: let the latency model be corrected, then report.

        The correction is journaled, so that a resumed run repeats it with the same numbers.

        Raises:
            NothingEvaluatedError: every evaluation so far has failed.
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
                surrogate_tau,
                surrogate_used,
                local_steps,
                selection,
                now - then,
                self.evaluating_s - evaluating_s,
            )
        )

    @contextlib.contextmanager
    def until_spent(self) -> Iterator[None]:
        """Block that ends quietly when the budget is spent.

        Raises:
            NothingEvaluatedError: every evaluation has failed.
        """
        with contextlib.suppress(BudgetExhausted):
            yield
        self._check()

    def _check(self) -> None:
        if self.archive.failures and not len(self.archive):
            reason = self.archive.failures[0].error
            raise NothingEvaluatedError(
                f"none of the first {self.spent} candidates could be evaluated ({reason}): mend that, then start anew"
            )

    def _measure_ahead(self, rows: IntArray) -> None:
        """Have the plans measured that are about to be evaluated truly."""
        if self.problem.measure_ahead is None or self._seconds_left <= 0:
            return
        plans = {plan.key: plan for plan in map(self.problem.plan, rows)}
        new = [plan for key, plan in plans.items() if key not in self._known and not self._journal.evaluation(key)]
        started = time.perf_counter()
        with contextlib.suppress(*CANDIDATE_FAILURES):  # the candidate that fails will fail again, and be told apart
            self.problem.measure_ahead(new[: self.remaining])
        elapsed_s = time.perf_counter() - started
        self.evaluating_s += elapsed_s
        self._seconds_left -= elapsed_s

    def _evaluate(self, widths: IntArray, origin: str, generation: int) -> Evaluation:
        plan = self.problem.plan(widths)
        known = self._known.get(plan.key)
        if known is not None:
            self.repeated += 1
            return known
        if self.spent >= self.budget or self._seconds_left <= 0:
            raise BudgetExhausted
        recorded = self._journal.evaluation(plan.key)
        evaluation = recorded
        if evaluation is None:
            started = time.perf_counter()
            evaluation = self.problem.evaluate(plan, widths, origin, generation)
            self.evaluating_s += time.perf_counter() - started
            self._journal.add_evaluation(evaluation)
        self._seconds_left -= evaluation.seconds  # as recorded, so that a resumed run ends where this one would
        self._known[plan.key] = evaluation
        self._asked.add(widths.tobytes())
        self.archive.add(evaluation)
        self.spent += 1
        self._progress(Progress(evaluation, self.spent, self.budget, recorded is not None))
        return evaluation

    def _refine(self, generation: int) -> None:
        refiner = self.problem.refiner
        if refiner is None or not len(self.archive):
            return
        data = self._journal.refinement(generation)
        if data is None:
            data = refiner.measure(self.archive.front())
            self._journal.add_refinement(generation, data)
        if data:
            refiner.apply(data)
            self.archive.revise("latency", self.problem.cheap(self.archive.widths)["latency"])
