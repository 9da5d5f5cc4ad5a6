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
BoolArray = npt.NDArray[np.bool_]

#: Rows that the arrays have room for at first; they double when that is used up.
_ROOM = 64


class Archive:
    """True evaluations by plan key, in the order they were made; failed ones are kept apart.

    Attributes:
        objectives: names of the minimized objectives, the columns of :attr:`F`.
        bounds: upper bounds of constrained objectives by name.
        failures: evaluations that failed; they count in no array.
    """

    def __init__(self, objectives: Sequence[str], bounds: Mapping[str, float] | None = None) -> None:
        self.objectives = tuple(objectives)
        self.bounds = dict(bounds or {})
        self.failures: list[Evaluation] = []
        self._made: list[Evaluation] = []
        self._row: dict[str, int] = {}
        self._plans: dict[str, Any] = {}
        self._widths: IntArray = np.empty((0, 0), dtype=np.int64)
        self._whole: BoolArray = np.empty(0, dtype=bool)
        self._values: dict[str, FloatArray] = {}
        self._front: IntArray | None = None

    def __len__(self) -> int:
        return len(self._made)

    @property
    def evaluations(self) -> list[Evaluation]:
        """The evaluations that succeeded, with the values that their objectives have now."""
        return [self._evaluation(row) for row in range(len(self))]

    def add(self, evaluation: Evaluation, plan: Any = None) -> None:
        """Keep one more evaluation, and the plan that was evaluated."""
        if evaluation.error is not None:
            self.failures.append(evaluation)
            return
        row = len(self._made)
        if row == len(self._widths):
            self._make_room(evaluation)
        self._widths[row] = evaluation.widths
        self._plans[evaluation.plan_key] = plan
        self._row[evaluation.plan_key] = row
        self._made.append(evaluation)
        self._write(row, evaluation)

    def complete(self, evaluation: Evaluation) -> None:
        """Put an evaluation on the whole split in the place of the same candidate's on a part of it."""
        row = self._row[evaluation.plan_key]
        self._made[row] = evaluation
        self._write(row, evaluation)

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
        front = {self._made[row].plan_key for row in self.front_rows()}
        self._plans = {key: plan for key, plan in self._plans.items() if key in front}

    def revise(self, name: str, values: FloatArray) -> None:
        """Replace one objective of all evaluations by ``(n,)`` values, after its model has learnt more."""
        self._values[name][: len(self)] = values
        self._front = None

    @property
    def widths(self) -> IntArray:
        """``(n, G)`` kept channels."""
        return self._widths[: len(self)].copy()

    @property
    def F(self) -> FloatArray:  # noqa: N802 (the field's name of the objective matrix)
        """``(n, n_obj)`` objective values, minimized."""
        return np.column_stack([self.values(name) for name in self.objectives])

    @property
    def CV(self) -> FloatArray:  # noqa: N802 (the field's name of the constraint violation)
        """``(n,)`` constraint violations relative to the bounds, summed; 0 where all are kept."""
        return violation({name: self.values(name) for name in self.bounds}, self.bounds, len(self))

    @property
    def whole(self) -> BoolArray:
        """``(n,)`` mask of the evaluations on the whole validation split; the others were given up early."""
        return self._whole[: len(self)].copy()

    def bar(self, costs: Mapping[str, float]) -> float:
        """Lowest error on the whole split that a feasible evaluation has at no higher ``costs``; inf where none has.

        A candidate of these costs whose error is higher is dominated.

        Args:
            costs: every minimized objective but the error, by name.
        """
        names = [name for name in self.objectives if name != "error"]
        if len(names) == len(self.objectives) or not len(self):
            return float("inf")
        as_cheap = self.whole & (self.CV <= 0)
        for name in names:
            as_cheap &= self.values(name) <= costs[name]
        return float(self.values("error")[as_cheap].min(initial=float("inf")))

    def values(self, name: str) -> FloatArray:
        """``(n,)`` values of one objective, minimized or only constrained."""
        return self._values[name][: len(self)].copy() if self._made else np.empty(0)

    def front_rows(self) -> IntArray:
        """Rows of the feasible non-dominated evaluations on the whole split, each objective vector once."""
        if self._front is None:
            self._front = self._non_dominated(self.whole)
        return self._front.copy()

    def unsettled(self) -> list[Evaluation]:
        """Evaluations that were given up early, and that nothing dominates since latencies were revised."""
        if self.whole.all():
            return []
        rows = self._non_dominated(np.ones(len(self), dtype=bool))
        return [self._evaluation(row) for row in rows if not self._whole[row]]

    def front(self) -> list[Evaluation]:
        """The feasible non-dominated evaluations, by rising first objective."""
        rows = self.front_rows()
        return [self._evaluation(row) for row in rows[np.lexsort(self.F[rows].T[::-1])]]

    def hypervolume(self, ref_point: npt.ArrayLike) -> float:
        """Volume that the feasible evaluations dominate below an ``(n_obj,)`` ``ref_point``; larger is better."""
        rows = self.front_rows()
        if not rows.size:
            return 0.0
        return float(moocore.hypervolume(self.F[rows], ref=np.asarray(ref_point, dtype=np.float64)))

    def _non_dominated(self, among: BoolArray) -> IntArray:
        feasible = np.flatnonzero((self.CV <= 0) & among)
        if not feasible.size:
            return feasible
        front: IntArray = feasible[moocore.is_nondominated(self.F[feasible])]
        return front

    def _make_room(self, like: Evaluation) -> None:
        """Arrays of twice the rows, or the first ones, for evaluations ``like`` this one."""
        rows = max(_ROOM, 2 * len(self._widths))
        if not len(self):
            self._widths = np.empty((0, len(like.widths)), dtype=np.int64)
            self._values = {name: np.empty(0) for name in like.objectives}
        for column in (self._widths, self._whole, *self._values.values()):
            column.resize((rows, *column.shape[1:]), refcheck=False)

    def _write(self, row: int, evaluation: Evaluation) -> None:
        for name, column in self._values.items():
            column[row] = evaluation.objectives[name]
        self._whole[row] = evaluation.images is None
        self._front = None

    def _evaluation(self, row: int) -> Evaluation:
        values = {name: float(column[row]) for name, column in self._values.items()}
        made = self._made[row]
        return made if values == made.objectives else replace(made, objectives=values)


def violation(values: Mapping[str, FloatArray], bounds: Mapping[str, float], n: int) -> FloatArray:
    """``(n,)`` sums of the relative amounts by which ``values`` exceed their upper ``bounds``; 0 where none does."""
    total = np.zeros(n)
    for name, bound in bounds.items():
        total += np.maximum(values[name] - bound, 0) / max(abs(bound), 1e-12)
    return total
