"""Gaussian process regression on few rows, in milliseconds: hyperparameters from a grid, then refined a column each.

Rasmussen and Williams. Gaussian processes for machine learning. MIT Press 2006, chapters 2 and 5.

scikit-learn's own takes a second for a hundred rows, most of it in the optimizer of the likelihood; a search fits one
every few evaluations. One eigendecomposition a length scale gives the likelihood of every noise level at once, and the
signal's variance in closed form. From the best of the grid a few steps along the likelihood's gradient find out which
columns matter more than whoever scaled them thought, and which less.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

FloatArray = npt.NDArray[np.float64]

#: Length scales, in median distances between rows.
LENGTHS = (0.35, 0.7, 1.4, 2.8, 5.6)
#: Variances of the noise, in variances of the signal.
NOISES = (1e-6, 1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
#: Standard deviation of what a column's scale is believed to be off by, as a logarithm, before anything is seen.
SCALE_SPREAD = 1.0
#: Steps along the gradient: the first ones find most.
STEPS = 15


class GaussianProcess:
    """Zero-mean Gaussian process with a Matern 5/2 kernel and noise.

    Length, noise and scales are those of ``like`` where there is one.

    Attributes:
        length: length scale that the likelihood prefers.
        scales: ``(d,)`` factors of the columns.
        noise: variance of the noise over that of the signal.
        variance: of the signal.
    """

    def __init__(self, like: GaussianProcess | None = None) -> None:
        self._like = like
        self.length = 1.0
        self.scales: FloatArray = np.ones(1)
        self.noise = 1.0
        self.variance = 0.0

    def fit(self, Z: FloatArray, y: FloatArray, weights: FloatArray) -> GaussianProcess:
        """Learn from ``(n, d)`` rows, ``(n,)`` values about zero, and weights; one of 1/2 doubles a row's noise."""
        self._root = np.sqrt(weights)
        target = self._root * y
        if self._like is None:
            self._choose(cdist(Z, Z), target)
            self._refine(Z, target)
        else:
            self.length, self.noise, self.scales = self._like.length, self._like.noise, self._like.scales
        self._Z = Z * self.scales
        K = self._weighted(cdist(self._Z, self._Z)) + self.noise * np.eye(len(y))
        self._factor = cho_factor(K, lower=True)
        self._alpha = cho_solve(self._factor, target)
        self.variance = float(target @ self._alpha / len(y)) + 1e-12
        return self

    def predict(self, Z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Means and standard deviations of the function, without noise, two ``(n,)`` arrays."""
        cross = _matern(cdist(Z * self.scales, self._Z) / self.length) * self._root
        explained = solve_triangular(self._factor[0], cross.T, lower=True)
        variance = self.variance * np.maximum(1 - (explained**2).sum(axis=0), 1e-9)
        return cross @ self._alpha, np.sqrt(variance)

    def covariance(self, Z: FloatArray) -> FloatArray:
        """``(n, n)`` covariances of the function at ``(n, d)`` rows."""
        scaled = Z * self.scales
        cross = _matern(cdist(scaled, self._Z) / self.length) * self._root
        explained = solve_triangular(self._factor[0], cross.T, lower=True)
        return np.asarray(self.variance * (_matern(cdist(scaled, scaled) / self.length) - explained.T @ explained))

    def _choose(self, distances: FloatArray, target: FloatArray) -> None:
        """Take the hyperparameters of largest marginal likelihood, the signal's variance profiled out."""
        apart = distances[np.triu_indices(len(target), 1)]
        unit = float(np.median(apart)) if apart.size and np.median(apart) > 0 else 1.0
        noises = np.array(NOISES)[:, None]
        best = -np.inf
        for length in LENGTHS:
            self.length = length * unit
            eigenvalues, vectors = np.linalg.eigh(self._weighted(distances))
            spread = np.maximum(eigenvalues, 0) + noises
            variance = ((vectors.T @ target) ** 2 / spread).mean(axis=1)
            likelihoods = -len(target) * np.log(variance + 1e-300) - np.log(spread).sum(axis=1)
            if likelihoods.max() > best:
                best, chosen = likelihoods.max(), (self.length, float(noises[likelihoods.argmax(), 0]))
        self.length, self.noise = chosen

    def _refine(self, Z: FloatArray, target: FloatArray) -> None:
        """Let every column's scale, and the noise, follow the marginal likelihood from where the grid has left them."""
        low, high = np.log(NOISES[0]), np.log(NOISES[-1])
        start = np.append(np.zeros(Z.shape[1]), np.log(self.noise))
        bounds = [(-3 * SCALE_SPREAD, 3 * SCALE_SPREAD)] * Z.shape[1] + [(low, high)]
        cost = functools.partial(self._cost, Z / self.length, target)
        found = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS})
        self.scales, self.noise = np.exp(found.x[:-1]), float(np.exp(found.x[-1]))

    def _cost(self, Z: FloatArray, target: FloatArray, x: FloatArray) -> tuple[float, FloatArray]:
        """Negative logarithm of likelihood and belief at scales and noise (their logarithms), and its gradient."""
        Z, noise, n = Z * np.exp(x[:-1]), float(np.exp(x[-1])), len(target)
        distances = cdist(Z, Z)
        pairs = self._root[:, None] * self._root
        factor = cho_factor(_matern(distances) * pairs + noise * np.eye(n), lower=True)
        inverse = cho_solve(factor, np.eye(n))
        alpha = inverse @ target
        variance = float(target @ alpha / n) + 1e-300
        cost = n / 2 * np.log(variance) + np.log(factor[0].diagonal()).sum() + (x[:-1] ** 2).sum() / 2 / SCALE_SPREAD**2
        by_entry = (inverse - np.outer(alpha, alpha) / variance) / 2
        # Of an entry by a column's logarithm: this slope times the squared distance along the column.
        slope = by_entry * pairs * -5 / 3 * (1 + np.sqrt(5) * distances) * np.exp(-np.sqrt(5) * distances)
        by_scale = 2 * slope.sum(axis=1) @ Z**2 - 2 * (Z * (slope @ Z)).sum(axis=0) + x[:-1] / SCALE_SPREAD**2
        return float(cost), np.append(by_scale, by_entry.trace() * noise)

    def _weighted(self, distances: FloatArray) -> FloatArray:
        return np.asarray(_matern(distances / self.length) * self._root[:, None] * self._root)


def _matern(distances: FloatArray) -> FloatArray:
    scaled = np.sqrt(5) * distances
    return np.asarray((1 + scaled + scaled**2 / 3) * np.exp(-scaled))
