"""Gaussian process on standardized features; its posterior deviation is the spread.

Recipe: ``regressor: gaussian_process``. Smooth, so it fits the lines better than the stairs; at its best with few rows.
"""

from __future__ import annotations

import warnings

import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


class GaussianProcess(GaussianProcessRegressor):  # type: ignore[misc]  # scikit-learn is untyped
    """Gaussian process that takes the best hyperparameters found without a word."""

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> GaussianProcess:
        """Fit on ``(n, n_features)`` and ``(n,)`` arrays."""
        with warnings.catch_warnings():
            # Rows without noise put the optimum on a bound, and scikit-learn warns; there is nothing to do about it.
            warnings.simplefilter("ignore", ConvergenceWarning)
            super().fit(X, y)
        return self


def build(seed: int = 0) -> Pipeline:
    """An unfitted Gaussian process."""
    kernel = ConstantKernel(1.0, (1e-3, 1e3)) * Matern(5.0, (0.1, 1e3), nu=2.5) + WhiteKernel(0.01, (1e-6, 1.0))
    return make_pipeline(StandardScaler(), GaussianProcess(kernel, normalize_y=True, random_state=seed))
