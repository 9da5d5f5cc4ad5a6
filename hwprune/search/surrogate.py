"""The error of a candidate, predicted from its widths: screens proposals, never stands in a result."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.linear_model import RidgeCV

from hwprune.objectives.macs import layer_macs
from hwprune.search.operators import latin_hypercube
from hwprune.search.problem import SearchProblem

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Kind = Literal["forest", "boosting", "gaussian_process", "ridge"]

FOLDS = 5
RIDGE_ALPHAS = np.logspace(-3, 4, 15)


class WidthFeatures:
    """Features of widths (step 6a): what is kept, how it aligns with the device's step, what it costs layer by layer.

    Kept widths, ``ceil(width / step)``, ``width mod step``, multiply-adds and channel products of every layer, and all
    multiply-adds together, which trees cannot sum themselves. Columns that say the same as an earlier one for every
    candidate are dropped: where only one side of each layer is pruned, most of them do.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self._problem = problem
        space = problem.space
        genomes = latin_hypercube(64, space.n_var, np.random.default_rng(0))
        columns = self._all(space.decode(space.upper * genomes))
        centred = columns - columns.mean(axis=0)
        norms = np.linalg.norm(centred, axis=0)
        varying = norms > 1e-9 * (1 + np.abs(columns).max(axis=0))
        directions = centred / np.where(varying, norms, 1.0)
        alike = np.abs(directions.T @ directions) > 1 - 1e-9
        self._kept = np.flatnonzero(varying & ~np.triu(alike, 1).any(axis=0))

    def __call__(self, widths: IntArray) -> FloatArray:
        """``(n, n_features)`` features of ``(n, G)`` widths."""
        return self._all(widths)[:, self._kept]

    def _all(self, widths: IntArray) -> FloatArray:
        step = self._problem.channel_step
        columns: list[npt.NDArray[Any]] = [widths, -(-widths // step), widths % step]
        if self._problem.shapes is not None:
            shapes = self._problem.shapes(widths)
            macs = layer_macs(shapes)
            columns += [macs.sum(axis=1, keepdims=True), macs, shapes.in_channels * shapes.out_channels]
        return np.hstack(columns).astype(np.float64)


class ErrorSurrogate:
    """Regressor of the error, as the mean of five models that each left out a fifth of the archive.

    What a model left out is what it is judged on: the rank correlation of these held-out predictions says whether the
    surrogate may be believed, and costs no fit of its own.

    Errors in (0, 1) are learnt on the logit scale, where the last tenths of a percent count as much as the first.

    Attributes:
        tau: Kendall's tau of held-out predictions, in [-1, 1]; 0 before :meth:`fit` and where it is undefined.
        mean_absolute_error: of held-out predictions, in the error's unit.
    """

    def __init__(
        self,
        features: Callable[[IntArray], FloatArray],
        kind: Kind = "forest",
        *,
        forest_trees: int = 100,
        gaussian_process_max_rows: int = 300,
    ) -> None:
        self._features = features
        self._kind = kind
        self._forest_trees = forest_trees
        self._gaussian_process_max_rows = gaussian_process_max_rows
        self._models: list[Any] = []
        self._logit = True
        self._centre = self._scale = np.zeros(0)
        self.tau = 0.0
        self.mean_absolute_error = float("nan")

    def fit(self, widths: IntArray, errors: FloatArray, random_state: np.random.Generator) -> ErrorSurrogate:
        """Learn from ``(n, G)`` widths and their ``(n,)`` true errors; with too few rows ``tau`` stays 0."""
        self._models, self.tau = [], 0.0
        if len(errors) < 2 * FOLDS:
            return self
        self._logit = bool((errors >= 0).all() and (errors <= 1).all())
        features = self._features(widths)
        self._centre = features.mean(axis=0)
        self._scale = np.maximum(features.std(axis=0), 1e-12)
        X, y = self._standardised(features), self._scaled(errors)
        fold = random_state.permutation(len(y)) % FOLDS
        held_out = np.empty(len(y))
        for left_out in range(FOLDS):
            rows = np.flatnonzero(fold != left_out)
            if self._kind == "gaussian_process" and len(rows) > self._gaussian_process_max_rows:
                rows = random_state.choice(rows, self._gaussian_process_max_rows, replace=False)
            model = self._build(int(random_state.integers(2**31)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # a kernel at its bounds still predicts
                model.fit(X[rows], y[rows])
            self._models.append(model)
            test = fold == left_out
            held_out[test] = model.predict(X[test])
        tau = kendalltau(held_out, y).statistic
        self.tau = 0.0 if np.isnan(tau) else float(tau)
        self.mean_absolute_error = float(np.abs(self._unscaled(held_out) - errors).mean())
        return self

    def predict(self, widths: IntArray) -> FloatArray:
        """``(n,)`` predicted errors of ``(n, G)`` widths."""
        X = self._standardised(self._features(widths))
        return self._unscaled(np.mean([model.predict(X) for model in self._models], axis=0))

    def _standardised(self, features: FloatArray) -> FloatArray:
        return np.asarray((features - self._centre) / self._scale)

    def _scaled(self, errors: FloatArray) -> FloatArray:
        if not self._logit:
            return errors
        inside = np.clip(errors, 1e-4, 1 - 1e-4)
        return np.asarray(np.log(inside / (1 - inside)))

    def _unscaled(self, y: FloatArray) -> FloatArray:
        return np.asarray(1 / (1 + np.exp(-y))) if self._logit else y

    def _build(self, seed: int) -> Any:
        if self._kind == "forest":
            return _TrendForest(-(-self._forest_trees // FOLDS), seed)
        if self._kind == "boosting":
            return GradientBoostingRegressor(max_depth=3, subsample=0.7, max_features=1 / 3, random_state=seed)
        if self._kind == "ridge":
            return RidgeCV(RIDGE_ALPHAS)
        kernel = ConstantKernel() * Matern(length_scale=10.0, nu=2.5) + WhiteKernel(0.1, (1e-4, 10.0))
        return GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed)


class _TrendForest:
    """Extremely randomized trees on what a linear trend leaves over.

    A hundred evaluations are too few for trees to add up the small harms of thirty groups; a line does that, and the
    trees learn where it bends.
    """

    def __init__(self, trees: int, seed: int) -> None:
        self._trend = RidgeCV(RIDGE_ALPHAS)
        self._forest = ExtraTreesRegressor(trees, max_features=1 / 3, min_samples_leaf=2, random_state=seed)

    def fit(self, X: FloatArray, y: FloatArray) -> _TrendForest:
        """Learn the trend, then what it leaves over."""
        self._trend.fit(X, y)
        self._forest.fit(X, y - self._trend.predict(X))
        return self

    def predict(self, X: FloatArray) -> FloatArray:
        """``(n,)`` predictions."""
        # The regressors' own predict spends most of a small batch on checks and on starting a thread pool.
        rows = np.ascontiguousarray(X, dtype=np.float32)
        rest = np.mean([tree.tree_.predict(rows)[:, 0] for tree in self._forest.estimators_], axis=0)
        return np.asarray(X @ self._trend.coef_ + self._trend.intercept_ + rest)
