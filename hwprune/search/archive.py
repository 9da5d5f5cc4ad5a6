"""Every true evaluation of a search, as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import moocore
import numpy as np
import numpy.typing as npt

from hwprune.records import Evaluation

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class Archive:
    """True evaluations by plan key, in the order they were made; failed ones are kept apart.

    Attributes:
        objectives: names of the minimized objectives, the columns of :attr:`F`.
        bounds: upper bounds of constrained objectives by name.
        evaluations: the evaluations that succeeded.
        failures: those that failed; they count in no array.
    """

    def __init__(self, objectives: Sequence[str], bounds: Mapping[str, float] | None = None) -> None:
        self.objectives = tuple(objectives)
        self.bounds = dict(bounds or {})
        self.evaluations: list[Evaluation] = []
        self.failures: list[Evaluation] = []
        self._row: dict[str, int] = {}
        self._plans: dict[str, Any] = {}
        self._arrays: tuple[IntArray, FloatArray, FloatArray] | None = None

    def __len__(self) -> int:
        return len(self.evaluations)

    def add(self, evaluation: Evaluation, plan: Any = None) -> None:
        """Keep one more evaluation, and the plan that was evaluated."""
        if evaluation.error is not None:
            self.failures.append(evaluation)
            return
        self._plans[evaluation.plan_key] = plan
        self._row[evaluation.plan_key] = len(self.evaluations)
        self.evaluations.append(evaluation)
        self._arrays = None

    def complete(self, evaluation: Evaluation) -> None:
        """Put an evaluation on the whole split in the place of the same candidate's on a part of it."""
        self.evaluations[self._row[evaluation.plan_key]] = evaluation
        self._arrays = None

    def row(self, plan_key: str) -> int | None:
        """Row of a plan in the arrays; None where it failed or was never evaluated."""
        return self._row.get(plan_key)

    def plan(self, plan_key: str) -> Any:
        """The plan of an evaluation that succeeded.

        Raises:
            KeyError: there is none of this key, or it was dropped.
        """
        return self._plans[plan_key]

    def drop_dominated_plans(self) -> None:
        """Forget the plans of dominated evaluations: where a plan is a million bits, only those of the front are kept.

        Only for searches whose objectives are never revised.
        """
        front = {self.evaluations[row].plan_key for row in self.front_rows()}
        self._plans = {key: plan for key, plan in self._plans.items() if key in front}

    def revise(self, name: str, values: FloatArray) -> None:
        """Replace one objective of all evaluations by ``(n,)`` values, after its model has learnt more."""
        self.evaluations = [
            replace(evaluation, objectives={**evaluation.objectives, name: float(value)})
            for evaluation, value in zip(self.evaluations, values, strict=True)
        ]
        self._arrays = None

    @property
    def widths(self) -> IntArray:
        """``(n, G)`` kept channels."""
        return self._columns()[0]

    @property
    def F(self) -> FloatArray:  # noqa: N802 (the field's name of the objective matrix)
        """``(n, n_obj)`` objective values, minimized."""
        return self._columns()[1]

    @property
    def CV(self) -> FloatArray:  # noqa: N802 (the field's name of the constraint violation)
        """``(n,)`` constraint violations relative to the bounds, summed; 0 where all are kept."""
        return self._columns()[2]

    @property
    def whole(self) -> npt.NDArray[np.bool_]:
        """``(n,)`` mask of the evaluations on the whole validation split; the others were given up early."""
        return np.array([evaluation.images is None for evaluation in self.evaluations], dtype=bool)

    def bar(self, costs: Mapping[str, float]) -> float:
        """Lowest error on the whole split that a feasible evaluation has at no higher ``costs``; inf where none has.

        A candidate of these costs whose error is higher is dominated.

        Args:
            costs: every minimized objective but the error, by name.
        """
        names = [name for name in self.objectives if name != "error"]
        if len(names) == len(self.objectives) or not self.evaluations:
            return float("inf")
        others = np.array([index for index, name in enumerate(self.objectives) if name != "error"], dtype=np.int64)
        as_cheap = (self.F[:, others] <= [costs[name] for name in names]).all(axis=1)
        errors = self.F[:, self.objectives.index("error")]
        return float(errors[as_cheap & (self.CV <= 0) & self.whole].min(initial=float("inf")))

    def values(self, name: str) -> FloatArray:
        """``(n,)`` values of one objective, minimized or only constrained."""
        return np.array([evaluation.objectives[name] for evaluation in self.evaluations], dtype=np.float64)

    def front_rows(self) -> IntArray:
        """Rows of the feasible non-dominated evaluations on the whole split, each objective vector once."""
        return self._non_dominated(self.whole)

    def unsettled(self) -> list[Evaluation]:
        """Evaluations that were given up early, and that nothing dominates since latencies were revised."""
        rows = self._non_dominated(np.ones(len(self), dtype=bool))
        return [self.evaluations[row] for row in rows if self.evaluations[row].images is not None]

    def _non_dominated(self, among: npt.NDArray[np.bool_]) -> IntArray:
        feasible = np.flatnonzero((self.CV <= 0) & among)
        if not feasible.size:
            return feasible
        front: IntArray = feasible[moocore.is_nondominated(self.F[feasible])]
        return front

    def front(self) -> list[Evaluation]:
        """The feasible non-dominated evaluations, by rising first objective."""
        rows = self.front_rows()
        return [self.evaluations[row] for row in rows[np.lexsort(self.F[rows].T[::-1])]]

    def hypervolume(self, ref_point: npt.ArrayLike) -> float:
        """Volume that the feasible evaluations dominate below an ``(n_obj,)`` ``ref_point``; larger is better."""
        rows = self.front_rows()
        if not rows.size:
            return 0.0
        return float(moocore.hypervolume(self.F[rows], ref=np.asarray(ref_point, dtype=np.float64)))

    def _columns(self) -> tuple[IntArray, FloatArray, FloatArray]:
        if self._arrays is None:
            widths = np.array([evaluation.widths for evaluation in self.evaluations], dtype=np.int64)
            F = np.column_stack([self.values(name) for name in self.objectives])
            self._arrays = widths, F, violation({name: self.values(name) for name in self.bounds}, self.bounds, len(F))
        return self._arrays


def violation(values: Mapping[str, FloatArray], bounds: Mapping[str, float], n: int) -> FloatArray:
    """``(n,)`` sums of the relative amounts by which ``values`` exceed their upper ``bounds``; 0 where none does."""
    total = np.zeros(n)
    for name, bound in bounds.items():
        total += np.maximum(values[name] - bound, 0) / max(abs(bound), 1e-12)
    return total
