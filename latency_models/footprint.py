"""What it costs that a network's weights do not stay in the caches from one inference to the next.

An inference reads each weight once, so a layer finds its weights in a cache only as far as all the others fit there,
too: of what a network reads between two calls of a layer, its *footprint*, a cache holds the share that fits. The same
layer at the same widths is thus slower in a large network than in a small one. Kernels that were timed inside networks
know the footprint; here they tell what fetching costs on the device, and are put to one footprint, at which they are
functions of their widths alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.linalg import block_diag
from scipy.optimize import nnls

from latency_models.features import FloatArray, mixes_channels, weight_bytes, widths
from latency_models.kernel_table import KernelTable
from latency_models.shapes import IntArray, LayerShape
from latency_models.stairs import out_step, padded

#: Cache sizes that a device may have; what was timed tells which of them matter.
CACHE_BYTES = tuple(1 << bits for bits in range(18, 26))

#: Rows of a template from which they can tell something of fetching beside their mean, and beside one of four terms.
_ROWS_MIN, _ROWS_OF_FULL_MEAN = 4, 12
#: Relative error that a time in a network is expected to have.
_NOISE = 0.03
#: Expected share of fetching that a template waits for, and the standard deviation of that belief.
_EXPOSURE, _EXPOSURE_STD = 1.0, 0.5
#: No byte costs more than what a kernel takes for each of its own; fetching makes these so fast among all kernels.
_FASTEST_SHARE = 0.1


def cold_shares(footprint_bytes: npt.ArrayLike) -> FloatArray:
    """Share of the weights that each of :data:`CACHE_BYTES` cannot keep, ``(n, len(CACHE_BYTES))``.

    Args:
        footprint_bytes: ``(n,)`` of what is read between two calls.
    """
    total = np.asarray(footprint_bytes, dtype=np.float64)[:, None]
    sizes = np.array(CACHE_BYTES, dtype=np.float64)
    return np.asarray(1 - sizes / np.maximum(total, sizes), dtype=np.float64)


def footprint_bytes(layers: Sequence[LayerShape]) -> float:
    """Footprint of a network: the weights of all its layers."""
    return float(sum(weight_bytes(layer.template, *widths([layer]))[0] for layer in layers))


@dataclass(frozen=True)
class FetchCost:
    """Fitted prices of fetching.

    Attributes:
        reference_bytes: footprint that kernels are put to.
        largest_bytes: largest footprint that kernels were timed in: nothing tells what larger ones cost.
        prices_ms: ``(len(CACHE_BYTES),)`` of a byte that does not stay in each cache; none negative.
        exposures: share of fetching that each template waits for: the rest is done while it computes.
    """

    reference_bytes: float
    largest_bytes: float
    prices_ms: FloatArray
    exposures: Mapping[LayerShape, float]

    def excess_ms(
        self, template: LayerShape, in_channels: IntArray, out_channels: IntArray, footprint_bytes: npt.ArrayLike
    ) -> FloatArray:
        """What kernels take more in networks of these footprints than in one of the reference's, ``(n,)``.

        Args:
            template: their layer.
            in_channels: ``(n,)``.
            out_channels: ``(n,)``.
            footprint_bytes: ``(n,)``; a kernel's own weights belong to it in any case.
        """
        own = weight_bytes(template, in_channels, out_channels)
        return self.exposure(template) * own * self.price_ms(np.maximum(footprint_bytes, own))

    def exposure(self, template: LayerShape) -> float:
        """Share of fetching that a template waits for; all of it where nothing tells."""
        return self.exposures.get(template, 1.0)

    def price_ms(self, footprint_bytes: npt.ArrayLike) -> FloatArray:
        """What a byte costs more than in a network of the reference's footprint, ``(n,)``."""
        prices: FloatArray = cold_shares(np.minimum(footprint_bytes, self.largest_bytes)) @ self.prices_ms
        return np.asarray(prices - cold_shares([self.reference_bytes])[0] @ self.prices_ms, dtype=np.float64)

    def restated(self, table: KernelTable) -> KernelTable:
        """The kernels as networks of the reference's footprint have them."""
        rows = {}
        for template, part in table.by_template().items():
            excess_ms = self.excess_ms(template, *widths(part.shapes), part.footprint_bytes)
            for (shape, time), excess in zip(part.items(), excess_ms, strict=True):
                # Prices are the same for all layers, which they are not quite; a time stays a time.
                latency_ms = float(np.clip(time.latency_ms - excess, time.latency_ms / 4, time.latency_ms * 4))
                rows[shape] = replace(time, latency_ms=latency_ms)
        return KernelTable(rows)


def fit_fetch_cost(table: KernelTable, lanes: int) -> FetchCost:
    """Most plausible prices: common to all layers, of which each has a mean of its own.

    Caches that the footprints say little about are believed to cost little: where the largest network hardly exceeds
    one, a price without bounds would be told by noise, and used for networks that are larger still.

    Args:
        table: measured kernels, in networks of several footprints.
        lanes: float32 numbers of a vector register.
    """
    parts = {
        template: part
        for template, part in table.by_template().items()
        if mixes_channels(template) and len(part) >= _ROWS_MIN  # others have hardly any weights
    }
    if not parts:
        return FetchCost(1.0, 1.0, np.zeros(len(CACHE_BYTES)), {})
    cold = {template: _cold_bytes(template, part) for template, part in parts.items()}
    footprints = np.concatenate([_footprints(template, part) for template, part in parts.items()])
    reference = float(np.exp(np.mean(np.log(np.maximum(footprints, 1.0)))))
    means = {template: _mean_basis(template, part, lanes) for template, part in parts.items()}
    latency_ms = np.concatenate([part.latency_ms for part in parts.values()])
    own = np.concatenate([_own_bytes(template, part) for template, part in parts.items()])
    scale_ms = float(np.quantile(latency_ms / own, _FASTEST_SHARE))
    usual, spread = np.zeros(len(CACHE_BYTES)), np.full(len(CACHE_BYTES), scale_ms)
    X = np.hstack([block_diag(*means.values()), np.vstack(list(cold.values()))])
    prices_ms = _most_plausible(X, latency_ms, usual, spread)
    exposures = {}
    for template, part in parts.items():
        X = np.column_stack([means[template], cold[template] @ prices_ms])
        belief = np.array([_EXPOSURE]), np.array([_EXPOSURE_STD])
        exposures[template] = float(_most_plausible(X, part.latency_ms, *belief)[0])
    return FetchCost(reference, float(footprints.max()), prices_ms, exposures)


def _own_bytes(template: LayerShape, part: KernelTable) -> FloatArray:
    return weight_bytes(template, *widths(part.shapes))


def _footprints(template: LayerShape, part: KernelTable) -> FloatArray:
    return np.asarray(np.maximum(part.footprint_bytes, _own_bytes(template, part)), dtype=np.float64)


def _cold_bytes(template: LayerShape, part: KernelTable) -> FloatArray:
    """``(n, len(CACHE_BYTES))`` bytes of each kernel that do not stay."""
    own = _own_bytes(template, part)
    return own[:, None] * cold_shares(_footprints(template, part))


def _mean_basis(template: LayerShape, part: KernelTable, lanes: int) -> FloatArray:
    """``(n, 4)``: what a kernel takes when nothing has to be fetched is linear in these; ``(n, 2)`` of few kernels."""
    in_channels, out_channels = widths(part.shapes)
    blocks = padded(out_channels, out_step(template, lanes) if template.layout != "nchw" else 1)
    columns = [np.ones(len(part)), in_channels * blocks]
    if len(part) >= _ROWS_OF_FULL_MEAN:
        columns += [in_channels, blocks]
    return np.stack(columns, axis=1).astype(np.float64)


def _most_plausible(X: FloatArray, latency_ms: FloatArray, expected: FloatArray, std: FloatArray) -> FloatArray:
    """Last coefficients of a linear mean, none negative, by relative errors and a belief about them alone.

    Args:
        X: ``(n, m)`` what the mean is linear in.
        latency_ms: ``(n,)``.
        expected: ``(k,)`` of the last coefficients.
        std: ``(k,)`` standard deviation of that belief.
    """
    k = len(expected)
    belief = np.zeros((k, X.shape[1]))
    belief[:, -k:] = np.diag(_NOISE / std)
    rows = np.vstack([X / latency_ms[:, None], belief])
    scale = np.maximum(np.abs(rows).max(axis=0), 1e-300)
    coefficients, _ = nnls(rows / scale, np.concatenate([np.ones(len(X)), _NOISE / std * expected]))
    return np.asarray((coefficients / scale)[-k:], dtype=np.float64)
