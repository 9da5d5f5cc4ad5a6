"""What a candidate's objective follows in the large: a sum of one curve a group, fitted to few evaluations."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from sklearn.linear_model import RidgeCV

FloatArray = npt.NDArray[np.float64]

#: Exponents of a group's lost share: harm that begins at once, and harm that begins late.
MONOTONE_POWERS = (1, 2, 4)
FREE_POWERS = (1, 2)
#: Weight that a group keeps whose loss seems not to matter.
FLOOR = 0.1
RIDGE_ALPHAS = np.logspace(-4, 3, 15)


class Trend:
    """Sum of one polynomial of every group's lost share.

    A monotone trend can only rise with what is lost (non-negative least squares): what pruning does to an error, and
    what makes thirty groups learnable from as many evaluations. A free one goes either way (ridge regression).
    """

    def __init__(self, *, monotone: bool) -> None:
        self._monotone = monotone
        self._powers = MONOTONE_POWERS if monotone else FREE_POWERS
        self._coefficients: FloatArray = np.zeros(0)
        self._intercept = 0.0
        self._reach: FloatArray = np.ones(1)

    def fit(self, lost: FloatArray, y: FloatArray, weights: FloatArray) -> Trend:
        """Learn from ``(n, G)`` lost shares, ``(n,)`` values and ``(n,)`` weights of the rows."""
        terms = self._terms(lost)
        if self._monotone:
            share = weights / weights.sum()
            mean_terms, mean_y = share @ terms, share @ y
            root = np.sqrt(share)[:, None]
            # A little shrinkage, so that of two groups that were always pruned together both take part of the blame.
            shrink = 1e-2 * np.diag(1e-6 + np.sqrt(share @ (terms - mean_terms) ** 2))
            rows = np.vstack([root * (terms - mean_terms), shrink])
            target = np.concatenate([root[:, 0] * (y - mean_y), np.zeros(terms.shape[1])])
            self._coefficients, _ = nnls(rows, target, maxiter=30 * terms.shape[1])
            self._intercept = float(mean_y - mean_terms @ self._coefficients)
        else:
            scale = terms.std(axis=0) + 1e-9
            ridge = RidgeCV(RIDGE_ALPHAS).fit(terms / scale, y, weights)
            self._coefficients, self._intercept = ridge.coef_ / scale, float(ridge.intercept_)
        self._reach = np.ptp(self._parts(lost), axis=0) + 1e-12
        return self

    def stretched(self, lost: FloatArray) -> FloatArray:
        """``(n, G)`` lost shares, stretched so that equal distances stand for changes of about equal weight."""
        if self._monotone:
            return np.asarray(self._parts(lost) / self._reach.max() + FLOOR * lost)
        return np.asarray(lost * np.maximum(self._reach / self._reach.max(), FLOOR))

    def predict(self, lost: FloatArray) -> FloatArray:
        """``(n,)`` values of the trend."""
        return np.asarray(self._terms(lost) @ self._coefficients + self._intercept)

    def _parts(self, lost: FloatArray) -> FloatArray:
        """``(n, G)`` contributions of the groups."""
        terms = self._terms(lost) * self._coefficients
        parts: FloatArray = terms.reshape(len(lost), len(self._powers), -1).sum(axis=1)
        return parts

    def _terms(self, lost: FloatArray) -> FloatArray:
        return np.hstack([lost**power for power in self._powers])
