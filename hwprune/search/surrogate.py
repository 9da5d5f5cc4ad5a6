"""One objective of a candidate, predicted from its widths: screens proposals, never stands in a result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit
from scipy.stats import kendalltau, norm

from hwprune.search.features import WidthFeatures
from hwprune.search.problem import SearchProblem
from hwprune.search.regressors import Kind, Rest, build
from hwprune.search.trend import Trend

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

FOLDS = 5
#: Share of rows that must be new before hyperparameters are chosen anew.
_MORE = 0.1
#: Equally likely values that a prediction consists of, in standard deviations from its middle.
QUANTILES: FloatArray = norm.ppf((np.arange(7) + 0.5) / 7)


@dataclass(frozen=True)
class Rows:
    """What regressors learn from or predict.

    Attributes:
        lost: ``(n, G)`` lost importance of every group.
        features: ``(n, n_features)`` everything else that is known of the widths; empty where it is not asked for.
    """

    lost: FloatArray
    features: FloatArray

    def take(self, rows: IntArray) -> Rows:
        """Some of the rows."""
        return Rows(self.lost[rows], self.features[rows])


@dataclass
class Joint:
    """Normal distribution of one objective over n candidates, on the scale that it is learnt on.

    Attributes:
        mean: ``(n,)`` middles.
        covariance: ``(n, n)`` matrix.
        unscaled: from that scale to the objective's.
    """

    mean: FloatArray
    covariance: FloatArray
    unscaled: Callable[[FloatArray], FloatArray]

    @property
    def values(self) -> FloatArray:
        """``(n, Q)`` equally likely values."""
        spread = np.sqrt(np.maximum(self.covariance.diagonal(), 0))
        return self.unscaled(self.mean[:, None] + spread[:, None] * QUANTILES)

    def assume(self, row: int) -> None:
        """Take a candidate for evaluated, with its median for an outcome: the others become surer, none better."""
        column = self.covariance[:, row].copy()
        self.covariance -= np.outer(column, column) / max(float(column[row]), 1e-12)


class Surrogate:
    """A trend over lost importance, and a regressor of what it leaves over, judged by what they did not see.

    Five models that each leave out a fifth of the archive are fitted beside the one that is used: the rank correlation
    of their held-out predictions says whether the surrogate may be believed, their errors how sure it is.

    Errors in (0, 1) are learnt on the logit scale, where the last tenths of a percent count as much as the first, and
    can only rise with what is lost. Candidates beyond what is of interest say little about those within: they count
    less, the further away they are.

    Attributes:
        tau: Kendall's tau of held-out predictions, in [-1, 1]; 0 before :meth:`fit` and where it is undefined.
        mean_absolute_error: of held-out predictions, in the objective's unit.
    """

    def __init__(
        self,
        problem: SearchProblem,
        objective: str = "error",
        kind: Kind = "gaussian_process",
        *,
        forest_trees: int = 100,
        gaussian_process_max_rows: int = 300,
    ) -> None:
        self._space = problem.space
        self._is_error = objective == "error"
        self._kind = kind
        self._forest_trees = forest_trees
        self._rows_max = gaussian_process_max_rows if kind == "gaussian_process" else None
        self._features: Callable[[IntArray], FloatArray] = (
            (lambda widths: np.empty((len(widths), 0))) if kind == "gaussian_process" else WidthFeatures(problem)
        )
        self._logit = False
        self._model: _Model | None = None
        self._scale = 1.0
        self._chosen_at = 0
        self.tau = 0.0
        self.mean_absolute_error = float("nan")

    def fit(
        self, widths: IntArray, values: FloatArray, random_state: np.random.Generator, limit: float = np.inf
    ) -> Surrogate:
        """Learn from ``(n, G)`` widths and their ``(n,)`` true values; with too few rows ``tau`` stays 0.

        Args:
            widths: evaluated candidates.
            values: the objective of each.
            random_state: source of randomness.
            limit: value beyond which candidates are of no interest.
        """
        before, self._model, self.tau = self._model, None, 0.0
        if len(values) < 2 * FOLDS:
            return self
        self._logit = self._is_error and bool((values >= 0).all() and (values <= 1).all())
        weights = _interest(values, limit)
        if self._rows_max is not None and len(values) > self._rows_max:
            # Of the most interesting rows the latest: they lie where the search is now.
            chosen = np.sort(np.lexsort((-np.arange(len(values)), -weights))[: self._rows_max])
            widths, values, weights = widths[chosen], values[chosen], weights[chosen]
        rows, y = self._rows(widths), self._scaled(values)
        seed = int(random_state.integers(2**31))
        if before is None or len(values) >= (1 + _MORE) * self._chosen_at:
            before, self._chosen_at = None, len(values)
        self._model = self._build(seed, self._forest_trees, like=before).fit(rows, y, weights)
        held_out, spread = np.empty(len(y)), np.empty(len(y))
        fold = random_state.permutation(len(y)) % FOLDS
        for left_out in range(FOLDS):
            train, test = np.flatnonzero(fold != left_out), np.flatnonzero(fold == left_out)
            model = self._build(seed, -(-self._forest_trees // FOLDS), like=self._model)
            model.fit(rows.take(train), y[train], weights[train])
            held_out[test], spread[test] = model.predict(rows.take(test))
        self._scale = float(np.sqrt(np.average(((held_out - y) / spread) ** 2, weights=weights)))
        tau = kendalltau(held_out, y).statistic
        self.tau = 0.0 if np.isnan(tau) else float(tau)
        self.mean_absolute_error = float(np.abs(self._unscaled(held_out) - values).mean())
        return self

    def predict(self, widths: IntArray) -> FloatArray:
        """``(n, Q)`` equally likely values of ``(n, G)`` widths, rising; the middle one is the median.

        Needs a :meth:`fit` to enough rows.
        """
        assert self._model is not None  # tau is 0 without, and nobody asks
        mean, spread = self._model.predict(self._rows(widths))
        return self._unscaled(mean[:, None] + self._scale * spread[:, None] * QUANTILES)

    def joint(self, widths: IntArray) -> Joint:
        """What :meth:`predict` says of ``(n, G)`` widths, and how what is learnt of one would change the others."""
        assert self._model is not None
        rows = self._rows(widths)
        return Joint(self._model.predict(rows)[0], self._scale**2 * self._model.covariance(rows), self._unscaled)

    def _rows(self, widths: IntArray) -> Rows:
        return Rows(self._space.lost_importance(widths), self._features(widths))

    def _scaled(self, values: FloatArray) -> FloatArray:
        return np.asarray(logit(np.clip(values, 1e-4, 1 - 1e-4))) if self._logit else values

    def _unscaled(self, y: FloatArray) -> FloatArray:
        return np.asarray(expit(y)) if self._logit else y

    def _build(self, seed: int, trees: int, like: _Model | None = None) -> _Model:
        rest = build(self._kind, seed, trees, None if like is None else like.rest)
        return _Model(Trend(monotone=self._is_error), rest, by_trend=self._kind == "gaussian_process")


def _interest(values: FloatArray, limit: float) -> FloatArray:
    """``(n,)`` weights of evaluations in (0, 1]: 1 up to ``limit``, then falling with the distance to it."""
    best = float(values.min())
    if not np.isfinite(limit) or limit <= best:
        return np.ones(len(values))
    return np.asarray((1 + np.maximum(values - limit, 0) / (limit - best)) ** -2.0)


class _Model:
    """A trend and a regressor of the rest.

    Attributes:
        rest: the regressor; it sees what the trend makes of each group (``by_trend``), or all features, standardised.
    """

    def __init__(self, trend: Trend, rest: Rest, *, by_trend: bool = False) -> None:
        self.rest = rest
        self._trend = trend
        self._by_trend = by_trend
        self._centre = self._unit = np.zeros(0)

    def fit(self, rows: Rows, y: FloatArray, weights: FloatArray) -> _Model:
        self._trend.fit(rows.lost, y, weights)
        if not self._by_trend:
            columns = self._columns(rows)
            self._centre, self._unit = columns.mean(axis=0), np.maximum(columns.std(axis=0), 1e-12)
        self.rest.fit(self._inputs(rows), y - self._trend.predict(rows.lost), weights)
        return self

    def predict(self, rows: Rows) -> tuple[FloatArray, FloatArray]:
        mean, spread = self.rest.predict(self._inputs(rows))
        return self._trend.predict(rows.lost) + mean, spread

    def covariance(self, rows: Rows) -> FloatArray:
        return self.rest.covariance(self._inputs(rows))

    def _inputs(self, rows: Rows) -> FloatArray:
        if self._by_trend:
            return self._trend.stretched(rows.lost)
        return np.asarray((self._columns(rows) - self._centre) / self._unit)

    def _columns(self, rows: Rows) -> FloatArray:
        return np.hstack([rows.lost, rows.features])
