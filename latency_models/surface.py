"""The latency of one layer over its two widths: a staircase and a line, plus what they leave over.

The mean is bilinear in the widths, each rounded up to whole blocks of its step (1 where the kernel takes any width
exactly): ``b0 + b1 u + b2 v + b3 u v`` with no negative term, for a kernel reads, computes and writes. On the
logarithm of the rest sits a Gaussian process in octaves of width (cache limits bend the surface), plus roughness that
is known only where it was measured. At a measured width the prediction is thus the measurement, weighed by its own
spread; beside it, an interpolation; far away, the mean with a wide spread.

References:
    Rasmussen, Williams: Gaussian Processes for Machine Learning, 2006, chapters 2 and 5.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, eigh
from scipy.optimize import nnls

from latency_models.features import FloatArray
from latency_models.shapes import IntArray
from latency_models.stairs import Step, padded

#: Logarithm of milliseconds at ``(n,)`` input and ``(n,)`` output channels.
LogMean = Callable[[IntArray, IntArray], FloatArray]

#: Octaves of width over which the rest is alike.
_LENGTHS = (0.5, 1.5, 4.0)
#: Share of roughness and noise in the rest, relative to its smooth part.
_RATIOS = (0.003, 0.03, 0.3, 3.0)
#: The only lengths and ratios that a handful of rows is tried with.
_STIFF = (_LENGTHS[-1:], _RATIOS[:1])
#: Rows that the prior belief about the size of the rest counts for.
_PRIOR_ROWS = 3.0
#: Spread of a measurement that came without one, as a fraction.
_UNKNOWN_SPREAD = 0.005
#: A step other than the expected one must explain the rows better by this much (natural logarithm of the odds).
_STEP_EVIDENCE = 2.0
_CHUNK = 1 << 15


@dataclass(frozen=True)
class Bilinear:
    """The mean of a surface.

    Attributes:
        in_step: input channels are computed in blocks of this many.
        out_step: output channels likewise.
        coefficients_ms: ``(4,)`` of 1, u, v and u v; none negative.
    """

    in_step: Step
    out_step: Step
    coefficients_ms: FloatArray

    def __call__(self, in_channels: IntArray, out_channels: IntArray) -> FloatArray:
        """Logarithm of milliseconds, ``(n,)``."""
        basis = _basis(padded(in_channels, self.in_step), padded(out_channels, self.out_step))
        return np.asarray(np.log(np.maximum(basis @ self.coefficients_ms, 1e-9)), dtype=np.float64)


@dataclass(frozen=True)
class Surface:
    """Fitted latency of one template; see the module.

    Attributes:
        in_step: channel step of the input side.
        out_step: channel step of the output side.
        mean: logarithm of the mean.
        lengths: octaves over which the rest is alike, input and output side.
        variance: of the smooth rest.
        roughness: variance that only measuring at the very width removes.
        points: ``(n, 2)`` measured widths.
        factor: Cholesky factor of the rest's covariance at the points.
        solved: ``(n,)`` inverse covariance times the measured rest.
    """

    in_step: Step
    out_step: Step
    mean: LogMean
    lengths: tuple[float, float]
    variance: float
    roughness: float
    points: IntArray
    factor: tuple[FloatArray, bool]
    solved: FloatArray

    def predict(self, in_channels: IntArray, out_channels: IntArray) -> tuple[FloatArray, FloatArray]:
        """Mean in ms and standard deviation in ms at each pair of widths, two ``(n,)`` arrays."""
        pairs = np.stack([in_channels, out_channels], axis=1)
        blocks = np.stack([padded(in_channels, self.in_step), padded(out_channels, self.out_step)], axis=1)
        # Widths on one tread share their prediction, so a stair is computed once.
        distinct, tread = np.unique(blocks, axis=0, return_inverse=True)
        rest, variance = self._posterior(distinct, None)
        rest, variance = rest[tread.ravel()], variance[tread.ravel()]
        rows = np.flatnonzero(_contained(pairs, self.points))
        if len(rows):
            rest[rows], variance[rows] = self._posterior(blocks[rows], pairs[rows])
        mean_ms = np.exp(self.mean(in_channels, out_channels) + rest)
        return mean_ms, mean_ms * np.sqrt(variance)

    def _posterior(self, blocks: IntArray, exact: IntArray | None) -> tuple[FloatArray, FloatArray]:
        """Mean and variance of the rest at whole blocks; ``exact`` widths share the roughness of their measurement."""
        corners = _coordinates(self.points, self.in_step, self.out_step)
        rest, variance = np.empty(len(blocks)), np.empty(len(blocks))
        for start in range(0, len(blocks), _CHUNK):
            part = slice(start, start + _CHUNK)
            covariance = self.variance * _matern(_octaves(blocks[part]), corners, self.lengths)
            if exact is not None:
                covariance += self.roughness * (exact[part][:, None, :] == self.points[None, :, :]).all(axis=2)
            rest[part] = covariance @ self.solved
            known = np.einsum("ij,ji->i", covariance, cho_solve(self.factor, covariance.T))
            variance[part] = self.variance + self.roughness - known
        return rest, np.maximum(variance, 1e-10)


def fit_surface(
    points: IntArray,
    latency_ms: FloatArray,
    spread_ms: FloatArray,
    steps: Sequence[tuple[Step, Step]],
    mean: LogMean | None = None,
    prior_std: float = 0.02,
) -> Surface:
    """Fit the surface of one template.

    Args:
        points: ``(n, 2)`` measured input and output channels, each pair once.
        latency_ms: ``(n,)`` measurements.
        spread_ms: ``(n,)`` their standard errors; 0 where unknown.
        steps: pairs of input and output steps to choose from by evidence, the expected pair first.
        mean: used instead of the bilinear mean, where the rows are too few to fit one; they move it as a whole.
        prior_std: expected relative size of the rest before seeing any row.
    """
    relative = np.where(spread_ms > 0, spread_ms / latency_ms, _UNKNOWN_SPREAD)
    fits = []
    for index, pair in enumerate(steps):
        candidate = mean or Bilinear(*pair, _bilinear_coefficients(points, latency_ms, *pair))
        rest = np.log(latency_ms) - candidate(points[:, 0], points[:, 1])
        coordinates = _coordinates(points, *pair)
        found = _fit_rest(coordinates, rest, prior_std, *((_LENGTHS, _RATIOS) if mean is None else _STIFF))
        fits.append((found.evidence - _STEP_EVIDENCE * (index > 0), -index, pair, candidate, found))
    _, _, pair, chosen, fitted = max(fits, key=lambda fit: fit[:2])
    roughness = max(fitted.nugget - float(np.mean(relative**2)), 1e-8)
    coordinates = _coordinates(points, *pair)
    covariance = fitted.variance * _matern(coordinates, coordinates, fitted.lengths)
    covariance += np.diag(roughness + relative**2)
    factor = cho_factor(covariance, lower=True)
    solved = cho_solve(factor, np.log(latency_ms) - chosen(points[:, 0], points[:, 1]))
    return Surface(*pair, chosen, fitted.lengths, fitted.variance, roughness, points, factor, solved)


@dataclass(frozen=True)
class _Rest:
    """Most plausible covariance of what the mean leaves over."""

    evidence: float
    lengths: tuple[float, float]
    variance: float
    nugget: float


def _fit_rest(
    coordinates: FloatArray, rest: FloatArray, prior_std: float, side_lengths: Sequence[float], ratios: Sequence[float]
) -> _Rest:
    """Maximize the marginal likelihood over a small grid; the scale has a closed form."""
    n = len(rest)
    fits = []
    for lengths in itertools.product(side_lengths, side_lengths):
        eigenvalues, vectors = eigh(_matern(coordinates, coordinates, lengths))
        projected = (vectors.T @ rest) ** 2
        for ratio in ratios:
            spectrum = np.maximum(eigenvalues, 0) + ratio
            scale = (np.sum(projected / spectrum) + _PRIOR_ROWS * prior_std**2) / (n + _PRIOR_ROWS)
            evidence = float(-0.5 * (np.sum(np.log(spectrum)) + (n + _PRIOR_ROWS) * np.log(scale)))
            fits.append(_Rest(evidence, lengths, float(scale), float(scale * ratio)))
    return max(fits, key=lambda fit: fit.evidence)


def _bilinear_coefficients(points: IntArray, latency_ms: FloatArray, in_step: Step, out_step: Step) -> FloatArray:
    """Coefficients of the least relative error, none negative."""
    basis = _basis(padded(points[:, 0], in_step), padded(points[:, 1], out_step))
    scale = np.maximum(basis.max(axis=0), 1.0)
    coefficients, _ = nnls(basis / scale / latency_ms[:, None], np.ones(len(points)))
    return np.asarray(coefficients / scale, dtype=np.float64)


def _basis(u: IntArray, v: IntArray) -> FloatArray:
    return np.stack([np.ones(len(u)), u, v, u * v], axis=1).astype(np.float64)


def _octaves(blocks: IntArray) -> FloatArray:
    return np.asarray(np.log2(np.maximum(blocks, 1)), dtype=np.float64)


def _coordinates(points: IntArray, in_step: Step, out_step: Step) -> FloatArray:
    return _octaves(np.stack([padded(points[:, 0], in_step), padded(points[:, 1], out_step)], axis=1))


def _matern(A: FloatArray, B: FloatArray, lengths: tuple[float, float]) -> FloatArray:
    """Matern covariance of smoothness 5/2 and variance 1, ``(len(A), len(B))``."""
    squares = sum(((A[:, None, side] - B[None, :, side]) / lengths[side]) ** 2 for side in range(2))
    distance = np.sqrt(5 * squares)
    return np.asarray((1 + distance + distance**2 / 3) * np.exp(-distance), dtype=np.float64)


def _contained(pairs: IntArray, points: IntArray) -> npt.NDArray[np.bool_]:
    """Whether each pair is one of ``points``, ``(len(pairs),)``."""
    base = int(max(pairs.max(initial=0), points.max(initial=0))) + 1
    return np.isin(pairs[:, 0] * base + pairs[:, 1], points[:, 0] * base + points[:, 1])
