"""Gradient boosted trees, several on resampled rows; their disagreement is the spread.

Recipe: ``regressor: boosting``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import BaggingRegressor, GradientBoostingRegressor


class Boosting(BaggingRegressor):  # type: ignore[misc]  # scikit-learn is untyped
    """Bagged boosting whose prediction can come with the standard deviation over bags."""

    def predict(self, X: npt.ArrayLike, return_std: bool = False) -> Any:
        """Mean of the bags, ``(n,)``; with ``return_std`` also their standard deviation."""
        mean = super().predict(X)
        if not return_std:
            return mean
        rows = np.asarray(X, dtype=np.float64)
        members = zip(self.estimators_, self.estimators_features_, strict=True)
        return mean, np.std([member.predict(rows[:, columns]) for member, columns in members], axis=0)


def build(seed: int = 0) -> Boosting:
    """Unfitted bagged boosting."""
    trees = GradientBoostingRegressor(n_estimators=100, learning_rate=0.1, max_depth=4)
    return Boosting(trees, n_estimators=5, random_state=seed)
