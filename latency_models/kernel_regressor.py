"""Latency of kernels whose template was never measured: a roofline, corrected by a regressor.

A regressor of :mod:`latency_models.regressors` learns the logarithm of what the roofline is off by, so it need not
extrapolate over decades of work. Its spread is put on the scale of the errors seen on templates left out, and widened
where a layer is unlike all that was measured (another operator, another window, more pixels).
"""

from __future__ import annotations

import numpy as np

from latency_models.evaluation import grouped_folds, scores
from latency_models.features import (
    FEATURE_NAMES,
    FloatArray,
    features,
    rows_by_template,
    template_features,
    widths,
)
from latency_models.kernel_table import KernelTable
from latency_models.regressors import Regressor, build, names, predict_with_spread
from latency_models.roofline import fit_roofline
from latency_models.shapes import IntArray, LayerShape

#: Relative error assumed where no template can be left out to see it.
UNKNOWN_ERROR = 0.5

#: Fewer rows than this teach a regressor nothing; the roofline stands alone.
_LEAST_ROWS = 8
_FOLDS = 5
#: Regressors may agree to the last digit and still be wrong.
_LEAST_STD = 1e-3
#: Columns by which a layer is unlike all that was measured; alignment says nothing by lying outside a range.
_KIND = [
    column
    for column, name in enumerate(FEATURE_NAMES)
    if name in {"out_height", "out_width", "window", "stride", "groups", "batch", "log_macs", "blocked_layout"}
    or (name.startswith(("op_", "epilogue_")) and name != "op_hash")
]


class KernelRegressor:
    """Regressor of one device, fitted on its measured kernels.

    Args:
        table: measured kernels, at least one.
        name: file name of a regressor.
        lanes: float32 numbers of a vector register.
        seed: of the regressor and of the folds.
        calibrated: whether templates are left out in turn to put the spread to scale.

    Attributes:
        error: root mean square of the logarithmic error on templates left out.
        scores: of templates left out; empty where there was nothing to leave out.
    """

    def __init__(self, table: KernelTable, name: str, lanes: int, seed: int = 0, calibrated: bool = True) -> None:
        self._lanes = lanes
        self._roofline = fit_roofline(table, lanes)
        X = features(table.shapes, lanes)
        self._lowest, self._highest = X[:, _KIND].min(axis=0), X[:, _KIND].max(axis=0)
        self._regressor: Regressor | None = None
        if len(table) >= _LEAST_ROWS:
            rest = np.log(table.latency_ms)
            for template, rows in rows_by_template(table.shapes).items():
                rest[rows] -= self._roofline.predict_log(template, *widths([table.shapes[row] for row in rows]))
            self._regressor = build(name, seed)
            self._regressor.fit(X, rest)
        self.error, self._scale = UNKNOWN_ERROR, 1.0
        self.scores: dict[str, float] = {}
        if calibrated and len(rows_by_template(table.shapes)) > 1:
            log_mean, log_std = leave_templates_out(table, name, lanes, seed)
            off = np.log(table.latency_ms) - log_mean
            self.error = float(np.sqrt(np.mean(off**2)))
            self._scale = float(np.sqrt(np.mean((off / np.maximum(log_std, _LEAST_STD)) ** 2)))
            self.scores = scores(table.latency_ms, np.exp(log_mean))

    def predict_log(
        self, template: LayerShape, in_channels: IntArray, out_channels: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the logarithm of milliseconds at each pair of widths, two ``(n,)`` arrays."""
        log_mean = self._roofline.predict_log(template, in_channels, out_channels)
        X = template_features(template, in_channels, out_channels, self._lanes)
        unlike = UNKNOWN_ERROR * self._novelty(X)
        if self._regressor is None:
            return log_mean, np.hypot(self.error, unlike)
        correction, std = predict_with_spread(self._regressor, X)
        # The members' disagreement ranks the points but misses what all of them get wrong; the error seen adds that.
        scaled = self._scale * np.maximum(std, _LEAST_STD)
        return log_mean + correction, np.sqrt((scaled**2 + self.error**2) / 2 + unlike**2)

    def _novelty(self, X: FloatArray) -> FloatArray:
        """How far outside the ranges seen each row lies, ``(n,)``, from 0 (inside) to 1 (a whole range or more)."""
        extent = self._highest - self._lowest
        extent[extent == 0] = np.maximum(np.abs(self._highest[extent == 0]), 1.0)
        outside = np.maximum(np.maximum(self._lowest - X[:, _KIND], X[:, _KIND] - self._highest), 0) / extent
        return np.asarray(np.minimum(outside.max(axis=1), 1), dtype=np.float64)


def leave_templates_out(table: KernelTable, name: str, lanes: int, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Predict every kernel of ``table`` by a regressor that saw no kernel of its template.

    Returns:
        Logarithm of predicted ms and its uncalibrated standard deviation, two ``(n,)`` arrays.
    """
    shapes = table.shapes
    log_mean, log_std = np.empty(len(table)), np.empty(len(table))
    for train, test in grouped_folds([shape.template for shape in shapes], _FOLDS, seed):
        regressor = KernelRegressor(table.take(train), name, lanes, seed, calibrated=False)
        held_out = [shapes[row] for row in test]
        for template, rows in rows_by_template(held_out).items():
            at = widths([held_out[row] for row in rows])
            log_mean[test[rows]], log_std[test[rows]] = regressor.predict_log(template, *at)
    return log_mean, log_std


def choose_regressor(table: KernelTable, lanes: int, seed: int = 0) -> tuple[str, dict[str, dict[str, float]]]:
    """The regressor that predicts templates left out best, and the scores of all.

    With fewer than two templates nothing can be left out; then it is the forest, without scores.
    """
    if len(rows_by_template(table.shapes)) < 2:
        return "forest", {}
    log_means = {name: leave_templates_out(table, name, lanes, seed)[0] for name in names()}
    errors = {name: float(np.mean(np.abs(np.log(table.latency_ms) - mean))) for name, mean in log_means.items()}
    figures = {name: scores(table.latency_ms, np.exp(mean)) for name, mean in log_means.items()}
    return min(errors, key=errors.__getitem__), figures
