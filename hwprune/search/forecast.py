"""What every objective of a candidate is expected to be, and whether that may be believed (step 6a).

An objective that is cheap and exact is what it is. One that is predicted by the device's model and measured afterwards
is corrected by what was measured. Anything else has a surrogate of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau

from hwprune.search.archive import Archive, violation
from hwprune.search.problem import SearchProblem
from hwprune.search.regressors import Kind
from hwprune.search.surrogate import FOLDS, QUANTILES, Joint, Surrogate

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

#: Relative difference up to which a cheap value is what a true evaluation says.
_SAME = 1e-9


@dataclass(frozen=True)
class Forecast:
    """Expected objectives of n candidates.

    Attributes:
        values: for each objective ``(n, Q)`` equally likely values; Q is 1 where the value is known.
        F: ``(n, n_obj)`` medians.
        CV: ``(n,)`` constraint violations of the medians.
    """

    values: tuple[FloatArray, ...]
    F: FloatArray
    CV: FloatArray


class JointForecast:
    """Expected objectives of n candidates that may be evaluated together."""

    def __init__(self, columns: list[FloatArray | Joint]) -> None:
        self._columns = columns

    @property
    def values(self) -> tuple[FloatArray, ...]:
        """For each objective ``(n, Q)`` equally likely values."""
        return tuple(column.values if isinstance(column, Joint) else column for column in self._columns)

    def assume(self, row: int) -> FloatArray:
        """Take a candidate for evaluated; its ``(n_obj,)`` values."""
        taken = np.array([column[row, column.shape[1] // 2] for column in self.values])
        for column in self._columns:
            if isinstance(column, Joint):
                column.assume(row)
        return taken


class Forecaster:
    """Surrogates of all objectives of a problem.

    Attributes:
        n_var: number of genes.
        tau: by objective, the rank correlation of forecasts with true values that they did not see, in [-1, 1]; 1 where
            the value is known.
    """

    def __init__(
        self,
        problem: SearchProblem,
        kind: Kind = "gaussian_process",
        *,
        forest_trees: int = 100,
        gaussian_process_max_rows: int = 300,
    ) -> None:
        self._problem = problem
        self.n_var = problem.space.n_var
        self._names = tuple(dict.fromkeys([*problem.objectives, *problem.bounds]))
        cheap = problem.cheap(problem.space.sizes[None])
        self._learnt = {
            name: Surrogate(
                problem,
                name,
                kind,
                forest_trees=forest_trees,
                gaussian_process_max_rows=gaussian_process_max_rows,
            )
            for name in self._names
            if name not in cheap
        }
        self._corrections: dict[str, FloatArray] = {}
        self.tau: dict[str, float] = {}

    @property
    def worst_tau(self) -> float:
        """The smallest of all objectives' tau: what the whole forecast is worth."""
        return min(self.tau.values(), default=0.0)

    def fit(
        self, archive: Archive, random_state: np.random.Generator, ref_point: FloatArray | None = None
    ) -> Forecaster:
        """Learn from all true evaluations so far.

        Args:
            archive: the evaluations.
            random_state: source of randomness.
            ref_point: ``(n_obj,)`` values beyond which candidates are of no interest.
        """
        limits = dict(zip(self._problem.objectives, [] if ref_point is None else ref_point.tolist(), strict=False))
        widths = archive.widths
        cheap = self._problem.cheap(widths)
        for name in self._names:
            values = archive.values(name)
            if name in self._learnt:
                surrogate = self._learnt[name]
                surrogate.fit(widths, values, random_state, limits.get(name, np.inf))
                self.tau[name] = surrogate.tau
            else:
                self._compare(name, cheap[name], values)
        return self

    def __call__(self, widths: IntArray) -> Forecast:
        """Forecast of ``(n, G)`` widths."""
        cheap = self._problem.cheap(widths)
        values = {name: self._values(name, widths, cheap) for name in self._names}
        medians = {name: column[:, column.shape[1] // 2] for name, column in values.items()}
        objectives = self._problem.objectives
        return Forecast(
            tuple(values[name] for name in objectives),
            np.column_stack([medians[name] for name in objectives]),
            violation(medians, self._problem.bounds, len(widths)),
        )

    def joint(self, widths: IntArray) -> JointForecast:
        """Forecast of ``(n, G)`` widths that may be evaluated together."""
        cheap = self._problem.cheap(widths)
        return JointForecast(
            [
                self._learnt[name].joint(widths) if name in self._learnt else self._values(name, widths, cheap)
                for name in self._problem.objectives
            ]
        )

    def _values(self, name: str, widths: IntArray, cheap: dict[str, FloatArray]) -> FloatArray:
        if name in self._learnt:
            return self._learnt[name].predict(widths)
        return cheap[name][:, None] * self._corrections[name]

    def _compare(self, name: str, cheap: FloatArray, values: FloatArray) -> None:
        """How far true values lie from the cheap ones: not at all, or by a factor and a spread around it."""
        self.tau[name] = 1.0
        self._corrections[name] = np.ones(1)
        if np.allclose(cheap, values, rtol=_SAME, atol=0) or len(values) < 2 * FOLDS or (cheap <= 0).any():
            return
        ratios = np.log(np.maximum(values, 1e-300) / cheap)
        middle = np.median(ratios)
        spread = 1.4826 * np.median(np.abs(ratios - middle))  # a few disturbed measurements do not widen it
        self._corrections[name] = np.exp(middle + spread * QUANTILES)
        tau = kendalltau(cheap, values).statistic
        self.tau[name] = 0.0 if np.isnan(tau) else float(tau)
