"""A new device from a handful of whole networks, and the devices that are known already.

A device that nobody has profiled shares its staircases and its caches' bends with some device that somebody has; what
differs is how fast it is at each kind of layer. So every known device's kernels are put to the new one's scale and
calibrated on the networks measured there, with wide beliefs about each kind of layer, and the known device whose
calibration predicts left-out networks best is taken. (HELP, Lee et al., NeurIPS 2021, describes a device by reference
latencies and learns to learn from them; with kernels at hand the description is explicit.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from latency_models.calibration import Calibration, fit_calibration
from latency_models.errors import KernelTableError
from latency_models.evaluation import MeasuredNetwork
from latency_models.features import FloatArray
from latency_models.network_model import LatencyModel
from latency_models.shapes import LayerShape

#: Candidates for how much one kind of layer may differ between devices beyond their common factor.
_TEMPLATE_STDS = (0.03, 0.1, 0.3)


@dataclass(frozen=True)
class TransferredModel:
    """Latency of networks on a device, by the kernels of another one.

    Attributes:
        source: name of the other device.
        model: its model.
        factor: how many times longer kernels take here.
        calibration: from its kernels, put to scale, to networks here.
    """

    source: str
    model: LatencyModel
    factor: float
    calibration: Calibration

    def predict_networks(self, networks: Sequence[tuple[LayerShape, ...]]) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation in ms of networks of any families, two ``(n,)`` arrays."""
        terms, order = self.model.terms([_as_on(self.model, layers) for layers in networks])
        mean_ms, std_ms = np.empty(len(networks)), np.empty(len(networks))
        mean_ms[order], std_ms[order] = self.calibration.predict(terms.scaled(self.factor))
        return mean_ms, std_ms

    def interval_factor(self, level: float = 0.9) -> float:
        """Half-width of the intervals that hold a share ``level`` of networks, in standard deviations."""
        return self.calibration.interval_factor(level)


def transfer(sources: Mapping[str, LatencyModel], networks: Sequence[MeasuredNetwork]) -> TransferredModel:
    """A model of a new device.

    Args:
        sources: models of known devices by their names.
        networks: layers and latency in ms of networks measured on the new one; about ten.

    Raises:
        KernelTableError: there is no known device, or nothing was measured on the new one.
    """
    if not sources or not networks:
        raise KernelTableError("nothing to transfer: profile one device, and measure a few networks on the new one")
    candidates = [_calibrated(name, model, networks) for name, model in sorted(sources.items())]
    return min(candidates, key=_left_out_error)


def _calibrated(name: str, model: LatencyModel, networks: Sequence[MeasuredNetwork]) -> TransferredModel:
    terms, order = model.terms([_as_on(model, layers) for layers, _ in networks])
    latency_ms = np.array([latency_ms for _, latency_ms in networks])[order]
    factor = float(np.exp(np.median(np.log(latency_ms / terms.sum_ms))))
    return TransferredModel(name, model, factor, fit_calibration(terms.scaled(factor), latency_ms, _TEMPLATE_STDS))


def _left_out_error(candidate: TransferredModel) -> float:
    """Usual size of the residual of a network left out, as a share."""
    return float(np.median(candidate.calibration.left_out) * candidate.calibration.typical_std)


def _as_on(model: LatencyModel, layers: tuple[LayerShape, ...]) -> tuple[LayerShape, ...]:
    """Layers as the model's device has them: channels in blocks of its own vectors."""
    lanes = model.recipe.lanes
    return tuple(
        replace(layer, layout=re.sub(r"\d+", str(lanes), layer.layout)) if re.search(r"\d", layer.layout) else layer
        for layer in layers
    )
