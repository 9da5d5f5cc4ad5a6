"""Regressors of what a trend leaves over: of its middle, and of how sure they are."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor
from sklearn.linear_model import RidgeCV

from hwprune.search.gaussian_process import GaussianProcess
from hwprune.search.trend import RIDGE_ALPHAS

FloatArray = npt.NDArray[np.float64]
Kind = Literal["forest", "boosting", "gaussian_process", "ridge"]


class Rest(Protocol):
    """Regressor of what a trend leaves over."""

    def fit(self, Z: FloatArray, y: FloatArray, weights: FloatArray) -> Rest:
        """Learn from ``(n, d)`` rows, ``(n,)`` values and weights."""
        ...

    def predict(self, Z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Means and relative standard deviations, two ``(n,)`` arrays."""
        ...

    def covariance(self, Z: FloatArray) -> FloatArray:
        """``(n, n)`` relative covariances."""
        ...


def build(kind: Kind, seed: int, trees: int, like: Rest | None = None) -> Rest:
    """Regressor of this kind.

    Args:
        kind: its name.
        seed: of what is random in it.
        trees: of a forest.
        like: one of the same kind whose hyperparameters are to be taken, where they are chosen from the data.
    """
    if kind == "gaussian_process":
        return GaussianProcess(like if isinstance(like, GaussianProcess) else None)
    if kind == "forest":
        return Regressor(ExtraTreesRegressor(trees, max_features=1 / 3, min_samples_leaf=2, random_state=seed))
    if kind == "boosting":
        return Regressor(GradientBoostingRegressor(max_depth=3, subsample=0.7, max_features=1 / 3, random_state=seed))
    return Regressor(RidgeCV(RIDGE_ALPHAS))


class Regressor:
    """One of scikit-learn's regressors, equally sure everywhere."""

    def __init__(self, regressor: Any) -> None:
        self._regressor = regressor

    def fit(self, Z: FloatArray, y: FloatArray, weights: FloatArray) -> Regressor:
        """Learn from ``(n, d)`` rows, ``(n,)`` values and weights."""
        self._regressor.fit(Z, y, weights)
        return self

    def predict(self, Z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Means and relative standard deviations, two ``(n,)`` arrays."""
        if isinstance(self._regressor, ExtraTreesRegressor):
            # The forest's own predict spends most of a small batch on checks and on starting a thread pool.
            rows = np.ascontiguousarray(Z, dtype=np.float32)
            mean = np.mean([tree.tree_.predict(rows)[:, 0] for tree in self._regressor.estimators_], axis=0)
        else:
            mean = self._regressor.predict(Z)
        return mean, np.ones(len(Z))

    def covariance(self, Z: FloatArray) -> FloatArray:
        """``(n, n)`` correlations of errors that nobody tells: the nearer two candidates, the more alike."""
        distances = cdist(Z, Z)
        return np.asarray(np.exp(-distances / max(float(np.median(distances)), 1e-12)))
