"""The coarsest model of a device: calls, multiply-adds on whole blocks of lanes, and bytes, each at its price."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from latency_models.features import (
    FloatArray,
    activation_bytes,
    macs,
    rows_by_template,
    weight_bytes,
    widths,
)
from latency_models.kernel_table import KernelTable
from latency_models.shapes import IntArray, LayerShape
from latency_models.stairs import out_step, padded


@dataclass(frozen=True)
class Roofline:
    """Fitted prices.

    Attributes:
        lanes: float32 numbers of a vector register.
        prices_ms: ``(4,)`` of a call, a padded multiply-add, a byte of weights, a byte of activations; none negative.
    """

    lanes: int
    prices_ms: FloatArray

    def predict_log(self, template: LayerShape, in_channels: IntArray, out_channels: IntArray) -> FloatArray:
        """Logarithm of milliseconds at each pair of widths, ``(n,)``."""
        work = _amounts(template, in_channels, out_channels, self.lanes)
        return np.asarray(np.log(work @ self.prices_ms), dtype=np.float64)


def fit_roofline(table: KernelTable, lanes: int) -> Roofline:
    """Prices of the least relative error over all measured kernels."""
    shapes = table.shapes
    amounts = np.empty((len(shapes), 4))
    for template, rows in rows_by_template(shapes).items():
        amounts[rows] = _amounts(template, *widths([shapes[row] for row in rows]), lanes)
    scale = np.maximum(amounts.max(axis=0), 1.0)
    prices, _ = nnls(amounts / scale / table.latency_ms[:, None], np.ones(len(shapes)))
    # Were a call free, an unseen kernel without work would take no time at all.
    least = np.array([0.01 * table.latency_ms.min(), 0.0, 0.0, 0.0])
    return Roofline(lanes, np.asarray(np.maximum(prices / scale, least), dtype=np.float64))


def _amounts(template: LayerShape, in_channels: IntArray, out_channels: IntArray, lanes: int) -> FloatArray:
    return np.stack(
        [
            np.ones(len(in_channels)),
            macs(template, in_channels, padded(out_channels, out_step(template, lanes))),
            weight_bytes(template, in_channels, out_channels),
            activation_bytes(template, in_channels, out_channels),
        ],
        axis=1,
    )
