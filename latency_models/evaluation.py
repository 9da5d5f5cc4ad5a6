"""How good a latency model is: errors, ranks, coverage, and splits that do not leak."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import stats

from latency_models.features import FloatArray
from latency_models.shapes import IntArray, LayerShape

#: A whole network as it was measured: its layers and its latency in ms.
MeasuredNetwork = tuple[tuple[LayerShape, ...], float]


class NetworkPredictor(Protocol):
    """Whatever predicts whole networks."""

    def predict_networks(self, networks: Sequence[tuple[LayerShape, ...]]) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of each network's latency in ms, two ``(n,)`` arrays."""
        ...

    def interval_factor(self, level: float = 0.9) -> float:
        """Half-width of the intervals that hold a share ``level`` of networks, in standard deviations."""
        ...


def mape(actual_ms: npt.ArrayLike, predicted_ms: npt.ArrayLike) -> float:
    """Mean absolute error relative to ``actual_ms``, in percent."""
    return float(100 * np.mean(_relative_error(actual_ms, predicted_ms)))


def within(actual_ms: npt.ArrayLike, predicted_ms: npt.ArrayLike, percent: float) -> float:
    """Share of predictions at most ``percent`` off, in percent."""
    return float(100 * np.mean(_relative_error(actual_ms, predicted_ms) <= percent / 100))


def spearman(actual_ms: npt.ArrayLike, predicted_ms: npt.ArrayLike) -> float:
    """Spearman's rank correlation in [-1, 1]; NaN where either side has no two different values."""
    return _rank_correlation(stats.spearmanr, actual_ms, predicted_ms)


def kendall(actual_ms: npt.ArrayLike, predicted_ms: npt.ArrayLike) -> float:
    """Kendall's tau in [-1, 1]; NaN where either side has no two different values."""
    return _rank_correlation(stats.kendalltau, actual_ms, predicted_ms)


def interval_coverage(actual_ms: npt.ArrayLike, low_ms: npt.ArrayLike, high_ms: npt.ArrayLike) -> float:
    """Share of values between ``low_ms`` and ``high_ms``, in percent."""
    actual = np.asarray(actual_ms, float)
    inside = (np.asarray(low_ms, float) <= actual) & (actual <= np.asarray(high_ms, float))
    return float(100 * np.mean(inside))


def scores(
    actual_ms: npt.ArrayLike, mean_ms: npt.ArrayLike, half_width_ms: npt.ArrayLike | None = None
) -> dict[str, float]:
    """All figures by name: errors and shares in percent, ranks in [-1, 1].

    Args:
        actual_ms: measured latencies.
        mean_ms: predicted ones.
        half_width_ms: half-widths of the intervals that are said to hold 90 % of the measured ones.

    Returns:
        ``mape``, ``within_5``, ``within_10``, ``spearman``, ``kendall``, and ``coverage_90`` where there are intervals.
    """
    figures = {
        "mape": mape(actual_ms, mean_ms),
        "within_5": within(actual_ms, mean_ms, 5),
        "within_10": within(actual_ms, mean_ms, 10),
        "spearman": spearman(actual_ms, mean_ms),
        "kendall": kendall(actual_ms, mean_ms),
    }
    if half_width_ms is not None:
        mean, half_width = np.asarray(mean_ms, float), np.asarray(half_width_ms, float)
        figures["coverage_90"] = interval_coverage(actual_ms, mean - half_width, mean + half_width)
    return figures


def grouped_folds(groups: Sequence[Hashable], n_folds: int, seed: int = 0) -> Iterator[tuple[IntArray, IntArray]]:
    """Train and test row numbers of each fold; the rows of one group are never on both sides.

    Args:
        groups: the group of each row.
        n_folds: folds; at most one a group is made.
        seed: decides which groups share a fold.
    """
    members: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    order = np.random.default_rng(seed).permutation(len(members))
    fold_of_group = {group: place % n_folds for group, place in zip(members, np.argsort(order), strict=True)}
    fold = np.array([fold_of_group[group] for group in groups], dtype=np.int64)
    for number in range(min(n_folds, len(members))):
        yield np.flatnonzero(fold != number), np.flatnonzero(fold == number)


@dataclass(frozen=True)
class HeldOut:
    """Networks, each predicted by a model that was fitted without it.

    Attributes:
        actual_ms: ``(n,)`` measured latencies.
        mean_ms: ``(n,)`` predicted ones.
        half_width_ms: ``(n,)`` half-widths of the intervals that are said to hold 90 % of them.
    """

    actual_ms: FloatArray
    mean_ms: FloatArray
    half_width_ms: FloatArray


def held_out(
    fit: Callable[[Sequence[MeasuredNetwork]], NetworkPredictor],
    networks: Sequence[MeasuredNetwork],
    n_folds: int = 10,
    seed: int = 0,
) -> HeldOut | None:
    """Predict networks that the fit did not see: each fold by a model fitted on the others.

    Args:
        fit: makes a predictor from measured networks, as ``LatencyModel.recalibrate`` does.
        networks: measured networks; equal ones are held out together.
        n_folds: folds; as many as there are different networks leave one out.
        seed: decides the folds.

    Returns:
        None where there are no two different networks to split.
    """
    layers = [shapes for shapes, _ in networks]
    if len(set(layers)) < 2:
        return None
    mean_ms, half_width_ms = np.empty(len(networks)), np.empty(len(networks))
    for train, test in grouped_folds(layers, n_folds, seed):
        predictor = fit([networks[row] for row in train])
        mean_ms[test], std_ms = predictor.predict_networks([layers[row] for row in test])
        half_width_ms[test] = predictor.interval_factor(0.9) * std_ms
    return HeldOut(np.array([latency_ms for _, latency_ms in networks]), mean_ms, half_width_ms)


def held_out_error(
    fit: Callable[[Sequence[MeasuredNetwork]], NetworkPredictor],
    networks: Sequence[MeasuredNetwork],
    n_folds: int = 10,
    seed: int = 0,
) -> dict[str, float]:
    """Scores of :func:`held_out` predictions, as :func:`scores`; empty where nothing can be held out."""
    found = held_out(fit, networks, n_folds, seed)
    return {} if found is None else scores(found.actual_ms, found.mean_ms, found.half_width_ms)


def _relative_error(actual_ms: npt.ArrayLike, predicted_ms: npt.ArrayLike) -> FloatArray:
    actual = np.asarray(actual_ms, float)
    return np.asarray(np.abs(np.asarray(predicted_ms, float) - actual) / actual, dtype=np.float64)


def _rank_correlation(statistic: Callable[..., Any], actual_ms: npt.ArrayLike, predicted_ms: npt.ArrayLike) -> float:
    actual, predicted = np.asarray(actual_ms, float), np.asarray(predicted_ms, float)
    if min(len(np.unique(actual)), len(np.unique(predicted))) < 2:
        return float("nan")
    return float(statistic(actual, predicted).statistic)
