"""Extremely randomized trees; their disagreement is the spread.

Recipe: ``regressor: forest``. The default: on the staircase of one layer these were the best of the trees (alignment
features brought 2.7 % error down to 1.2 %), and they fit in a fraction of a second.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import ExtraTreesRegressor


class Forest(ExtraTreesRegressor):  # type: ignore[misc]  # scikit-learn is untyped
    """Extra trees whose prediction can come with the standard deviation over trees."""

    def predict(self, X: npt.ArrayLike, return_std: bool = False) -> Any:
        """Mean of the trees, ``(n,)``; with ``return_std`` also their standard deviation."""
        mean = super().predict(X)
        if not return_std:
            return mean
        rows = np.asarray(X, dtype=np.float32)
        return mean, np.std([tree.predict(rows) for tree in self.estimators_], axis=0)


def build(seed: int = 0) -> Forest:
    """An unfitted forest."""
    return Forest(n_estimators=100, min_samples_leaf=1, max_features=0.6, random_state=seed)
