"""From the sum of kernels to the whole network: a linear correction fitted on a few networks measured whole.

A network is not the sum of its kernels measured alone: calls cost, weights that a kernel alone keeps in a cache are
gone when other layers ran in between, and some layers suffer more from that than others. The correction is linear in
those amounts and Bayesian, each term small a priori, so three networks move it a little and a hundred a lot; nothing
has to be selected. Residuals are relative, and networks far off the others count for little.

Choices of this implementation: prior sizes and noise are averaged over a grid by their evidence (Bishop: Pattern
Recognition and Machine Learning, 2006, section 3.5). Intervals are conformal (Vovk, Gammerman, Shafer: Algorithmic
Learning in a Random World, 2005): as wide as the residuals of networks left out of the fit say. Ten of these alone
would leave the width to the worst of them, so a few residuals as Student's t has them are counted with them; among a
hundred networks they no longer matter.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, stats
from scipy.linalg import cho_factor, cho_solve

from latency_models.features import FloatArray
from latency_models.footprint import CACHE_BYTES, cold_shares
from latency_models.shapes import LayerShape

#: Prior standard deviation of the factor on the sum of kernels, around 1.
_FACTOR_STD = 0.3
#: Candidates for the share of the latency that a physical term may explain.
_TERM_SHARES = (0.002, 0.01, 0.03, 0.1, 0.3)
#: Candidates for how much a single template may deviate from the common factor.
TEMPLATE_STDS = (0.0, 0.02, 0.06)
#: The same where the kernels are another device's.
TRANSFER_STDS = (0.03, 0.1, 0.3)
#: Candidates for the relative noise of a whole measurement.
_NOISES = (0.002, 0.004, 0.007, 0.012, 0.02, 0.04, 0.08, 0.16)
#: Belief about that noise before any network was measured, and the networks that belief counts for.
_PRIOR_NOISE, _PRIOR_NETWORKS = 0.005, 2.0
#: Residuals of the predicted size assumed beside those of the networks left out; the widest interval, in deviations.
_ASSUMED, _RADIUS_MAX = 8.0, 100.0
#: Residuals beyond this many standard deviations are outliers.
_OUTLIER = 2.5
#: Beliefs this much less plausible than the best are dropped.
_NEGLIGIBLE = 1e-3

#: Names of the coefficients before those of the templates.
TERMS = (
    *("constant", "calls", "weight_bytes", "activation_bytes"),
    *(f"cold_bytes_of_{size >> 10}_kib" for size in CACHE_BYTES),
    "kernels",
)


@dataclass(frozen=True)
class NetworkTerms:
    """What the latency of n networks is linear in.

    Attributes:
        templates: the K templates they consist of.
        by_template_ms: ``(n, K)`` sum of the kernels of each template.
        kernel_std_ms: ``(n,)`` standard deviation of the sum of all kernels.
        amounts: ``(n, len(TERMS) - 1)`` of what else takes time, as :data:`TERMS` names it.
    """

    templates: tuple[LayerShape, ...]
    by_template_ms: FloatArray
    kernel_std_ms: FloatArray
    amounts: FloatArray

    def scaled(self, factor: float) -> NetworkTerms:
        """The terms of a device whose kernels all take ``factor`` times as long."""
        return replace(self, by_template_ms=factor * self.by_template_ms, kernel_std_ms=factor * self.kernel_std_ms)

    @property
    def sum_ms(self) -> FloatArray:
        """Sum of all kernels, ``(n,)``."""
        return np.asarray(self.by_template_ms.sum(axis=1), dtype=np.float64)

    def relative_to(self, templates: tuple[LayerShape, ...]) -> FloatArray:
        """Design matrix over the sum of kernels, ``(n, len(TERMS) + len(templates))``."""
        known = np.zeros((len(self.amounts), len(templates)))
        column = {template: index for index, template in enumerate(templates)}
        for own, template in enumerate(self.templates):
            if template in column:
                known[:, column[template]] = self.by_template_ms[:, own]
        return np.column_stack([self.amounts, self.sum_ms, known]) / self.sum_ms[:, None]

    def unknown_share(self, templates: tuple[LayerShape, ...]) -> FloatArray:
        """Root sum of squares of the shares of the templates not among ``templates``, ``(n,)``, in [0, 1]."""
        known = set(templates)
        strange = [own for own, template in enumerate(self.templates) if template not in known]
        squares = np.sum((self.by_template_ms[:, strange] / self.sum_ms[:, None]) ** 2, axis=1)
        return np.asarray(np.sqrt(squares), dtype=np.float64)


def amounts(calls: int, weight_bytes: FloatArray, activation_bytes: FloatArray) -> FloatArray:
    """What takes time beside the kernels alone, ``(n, len(TERMS) - 1)``.

    A layer whose weights fit a cache finds them there when it is called again and again, but not in a network whose
    weights do not fit: of those bytes, the share that the cache cannot hold is cold.

    Args:
        calls: kernels called, of each of n networks.
        weight_bytes: ``(n, calls)`` weights of each kernel.
        activation_bytes: ``(n,)`` activations read and written.
    """
    total = weight_bytes.sum(axis=1)
    columns = [np.ones(len(total)), np.full(len(total), float(calls)), total, activation_bytes]
    largest = weight_bytes.max(initial=0.0)
    for size, cold in zip(CACHE_BYTES, cold_shares(total).T, strict=True):
        columns.append((total if largest <= size else np.minimum(weight_bytes, size).sum(axis=1)) * cold)
    return np.stack(columns, axis=1)


def concatenate(parts: list[NetworkTerms]) -> NetworkTerms:
    """Terms of several sets of networks as one, over the union of their templates."""
    templates = tuple(dict.fromkeys(template for part in parts for template in part.templates))
    column = {template: index for index, template in enumerate(templates)}
    by_template = np.zeros((sum(len(part.amounts) for part in parts), len(templates)))
    start = 0
    for part in parts:
        rows = slice(start, start := start + len(part.amounts))
        by_template[rows, [column[template] for template in part.templates]] = part.by_template_ms
    kernel_std_ms = np.concatenate([part.kernel_std_ms for part in parts])
    return NetworkTerms(templates, by_template, kernel_std_ms, np.concatenate([part.amounts for part in parts]))


@dataclass(frozen=True)
class Calibration:
    """Fitted correction.

    Attributes:
        templates: those with a deviation of their own.
        coefficients: ``(len(TERMS) + len(templates),)`` in ms a unit; those of kernels are factors.
        covariance: of the coefficients.
        template_std: prior deviation of a template that no measured network contains.
        noise: relative standard deviation of a whole network's residual.
        left_out: ``(n,)`` sorted sizes of the residuals of networks left out, in predicted deviations; the intervals.
        typical_std: predicted deviation of a network left out, as a share of its latency, in the middle.
        spread_scale: factor on every predicted deviation, from these.
        networks: measured networks it was fitted on.
    """

    templates: tuple[LayerShape, ...]
    coefficients: FloatArray
    covariance: FloatArray
    template_std: float
    noise: float
    left_out: FloatArray
    typical_std: float
    spread_scale: float
    networks: int

    def predict(self, terms: NetworkTerms) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the latency in ms, two ``(n,)`` arrays."""
        X = terms.relative_to(self.templates)
        total = terms.sum_ms
        variance = np.einsum("ij,ij->i", X @ self.covariance, X)
        variance += (self.template_std * terms.unknown_share(self.templates)) ** 2
        variance += (terms.kernel_std_ms / total) ** 2 + self.noise**2
        # Terms may be negative; a latency may not, however far the candidate lies from the measured networks.
        mean_ms = total * np.maximum(X @ self.coefficients, 0.1)
        return mean_ms, self.spread_scale * total * np.sqrt(variance)

    def interval_factor(self, level: float) -> float:
        """Half-width of the interval that holds a share ``level`` of networks, in standard deviations.

        Args:
            level: in (0, 1).
        """
        n = len(self.left_out)
        scaled = self.left_out / self.spread_scale

        def excess(radius: float) -> float:
            assumed = 2 * stats.t.cdf(radius, n + _PRIOR_NETWORKS) - 1
            return float(np.sum(scaled <= radius) + _ASSUMED * assumed - level * (n + _ASSUMED))

        # Residuals that are hardly there (equal measurements) leave an interval all the same.
        least = 0.5 * float(stats.t.ppf(0.5 + level / 2, n + _PRIOR_NETWORKS))
        return least if excess(least) >= 0 else float(optimize.brentq(excess, least, _RADIUS_MAX, xtol=1e-6))


def fit_calibration(
    terms: NetworkTerms | None, latency_ms: FloatArray, template_stds: Sequence[float] = TEMPLATE_STDS
) -> Calibration:
    """Fit the correction on networks measured whole.

    Args:
        terms: of n networks; None for none, which leaves the sum as it is with a wide spread.
        latency_ms: ``(n,)`` measured latencies.
        template_stds: candidates for how much a single template may deviate from the common factor.
    """
    if terms is None or not len(latency_ms):
        prior = np.zeros(len(TERMS))
        prior[-1] = _FACTOR_STD
        return Calibration(
            templates=(),
            coefficients=(prior > 0).astype(float),
            covariance=np.diag(prior**2),
            template_std=TEMPLATE_STDS[-1],
            noise=2 * _PRIOR_NOISE,
            left_out=np.empty(0),
            typical_std=2 * _PRIOR_NOISE,
            spread_scale=1.0,
            networks=0,
        )
    X = terms.relative_to(terms.templates)
    excess = latency_ms / terms.sum_ms - 1
    kernels = (terms.kernel_std_ms / terms.sum_ms) ** 2
    weights, beliefs, inflation = _weigh(X, excess, kernels, template_stds)
    coefficients, covariance = _posterior(X, excess, kernels, weights, beliefs, inflation)
    coefficients[len(TERMS) - 1] += 1
    residual, variance = _left_out(X, excess, kernels, weights, beliefs, inflation)
    # The variance of an outlier is inflated so that it moves nothing; as a residual it counts in full.
    left_out = np.sort(np.abs(residual) / np.sqrt(variance / inflation))
    return Calibration(
        terms.templates,
        coefficients,
        covariance,
        template_std=float(np.sqrt(weights @ [belief.template_std**2 for belief in beliefs])),
        noise=float(np.sqrt(weights @ [belief.noise**2 for belief in beliefs])),
        left_out=left_out,
        typical_std=float(np.median(np.sqrt(variance / inflation))),
        spread_scale=_spread_scale(left_out),
        networks=len(excess),
    )


@dataclass(frozen=True)
class _Belief:
    """Prior variances of all coefficients and the relative noise of a whole measurement."""

    variances: FloatArray
    template_std: float
    noise: float

    def factor(self, X: FloatArray, kernels: FloatArray, inflation: FloatArray) -> tuple[FloatArray, bool]:
        """Cholesky factor of the covariance of the relative excess of n networks."""
        noise = (kernels + self.noise**2) * inflation
        lower, is_lower = cho_factor((X * self.variances) @ X.T + np.diag(noise), lower=True)
        return lower, is_lower

    def evidence(self, factor: tuple[FloatArray, bool], excess: FloatArray) -> float:
        """Logarithm of the odds of this belief, up to a constant."""
        ratio = (_PRIOR_NOISE / self.noise) ** 2
        belief_in_noise = 0.5 * _PRIOR_NETWORKS * (np.log(ratio) - ratio)
        fit = -0.5 * excess @ cho_solve(factor, excess) - np.sum(np.log(np.diag(factor[0])))
        return float(fit + belief_in_noise)


def _beliefs(X: FloatArray, template_stds: Sequence[float]) -> list[_Belief]:
    typical = X[:, : len(TERMS) - 1].mean(axis=0)
    beliefs = []
    for share, template_std, noise in itertools.product(_TERM_SHARES, template_stds, _NOISES):
        terms = np.divide(share, typical, out=np.zeros_like(typical), where=typical > 0)
        templates = np.full(X.shape[1] - len(TERMS), template_std)
        variances = np.concatenate([terms, [_FACTOR_STD], templates]) ** 2
        beliefs.append(_Belief(variances, template_std, noise))
    return beliefs


def _weigh(
    X: FloatArray, excess: FloatArray, kernels: FloatArray, template_stds: Sequence[float]
) -> tuple[FloatArray, list[_Belief], FloatArray]:
    """The beliefs worth keeping, their posterior weights, and the inflation of each network's noise as an outlier."""
    off = np.abs(excess - np.median(excess))
    # A gross outlier would pass for noise in the first round, so it is marked beforehand.
    inflation = np.maximum(1.0, off / np.maximum(6 * np.median(off), 0.1)) ** 4
    for _ in range(4):
        beliefs = _beliefs(X, template_stds)
        evidence = np.array([belief.evidence(belief.factor(X, kernels, inflation), excess) for belief in beliefs])
        weights = np.exp(evidence - evidence.max())
        beliefs = [belief for belief, weight in zip(beliefs, weights, strict=True) if weight > _NEGLIGIBLE]
        weights = weights[weights > _NEGLIGIBLE]
        weights /= weights.sum()
        residual, variance = _left_out(X, excess, kernels, weights, beliefs, inflation)
        inflation = np.maximum(1.0, np.abs(residual) / np.sqrt(variance / inflation) / _OUTLIER) ** 2
    return weights, beliefs, inflation


def _posterior(
    X: FloatArray,
    excess: FloatArray,
    kernels: FloatArray,
    weights: FloatArray,
    beliefs: list[_Belief],
    inflation: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Mean and covariance of the coefficients, over all beliefs."""
    means, covariance = [], np.zeros((X.shape[1], X.shape[1]))
    for weight, belief in zip(weights, beliefs, strict=True):
        scaled = X * belief.variances
        gain = cho_solve(belief.factor(X, kernels, inflation), scaled).T
        means.append(gain @ excess)
        covariance += weight * (np.diag(belief.variances) - gain @ scaled)
    mean = weights @ np.array(means)
    between = np.array(means) - mean
    return mean, covariance + (between.T * weights) @ between


def _left_out(
    X: FloatArray,
    excess: FloatArray,
    kernels: FloatArray,
    weights: FloatArray,
    beliefs: list[_Belief],
    inflation: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Residual and its variance for each network predicted by the others, two ``(n,)`` arrays, in closed form."""
    residual, variance = np.zeros(len(excess)), np.zeros(len(excess))
    for weight, belief in zip(weights, beliefs, strict=True):
        inverse = cho_solve(belief.factor(X, kernels, inflation), np.eye(len(excess)))
        residual += weight * (inverse @ excess) / np.diag(inverse)
        variance += weight / np.diag(inverse)
    return residual, variance


def _spread_scale(left_out: FloatArray) -> float:
    """Factor that puts predicted deviations on the scale of the residuals left out.

    Ten of these may be small by luck, so a few as large as predicted are counted with them.
    """
    squares = np.minimum(left_out, _OUTLIER) ** 2
    return float(np.sqrt((_ASSUMED + squares.sum()) / (_ASSUMED + len(squares))))
