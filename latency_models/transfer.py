"""A new device from a handful of whole networks, and the devices that are known already.

A device that nobody has profiled shares its caches' bends and its kernels' order with some device that somebody has;
what differs is how fast it is at each kind of layer, and how many channels its vectors hold. So every known device's
kernels are put to the new one's blocks and scale and calibrated on the networks measured there, with wide beliefs about
each kind of layer, and the known device whose calibration predicts left-out networks best lends its kernels. (HELP, Lee
et al., NeurIPS 2021, describes a device by reference latencies and learns to learn from them; with kernels at hand the
description is explicit.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from latency_models.calibration import TRANSFER_STDS, fit_calibration
from latency_models.errors import KernelTableError
from latency_models.evaluation import MeasuredNetwork
from latency_models.features import widths
from latency_models.kernel_table import KernelTable
from latency_models.network_model import LatencyModel
from latency_models.shapes import LayerShape
from latency_models.stairs import padded


def transfer(sources: Mapping[str, LatencyModel], networks: Sequence[MeasuredNetwork], lanes: int) -> LatencyModel:
    """A model of a new device; its recipe names the device whose kernels it has.

    Args:
        sources: models of known devices by their names.
        networks: layers and latency in ms of networks measured on the new one; about ten.
        lanes: float32 numbers of a vector register of the new one.

    Raises:
        KernelTableError: there is no known device, or nothing was measured on the new one.
    """
    if not sources or not networks:
        raise KernelTableError("nothing to transfer: profile one device, and measure a few networks on the new one")
    asked = {layer.template for layers, _ in networks for layer in layers}
    candidates = [
        (*_scaled(as_on(model, lanes, asked), networks, model.recipe.regressor, lanes), name)
        for name, model in sorted(sources.items())
    ]
    _, table, source = min(candidates, key=lambda candidate: candidate[0])
    return LatencyModel.fit(table, networks, sources[source].recipe.regressor, lanes, source=source)


def as_on(model: LatencyModel, lanes: int, templates: Iterable[LayerShape] = ()) -> KernelTable:
    """A device's kernels as one with other vectors would have them: whole blocks of ``lanes`` channels.

    A kernel takes as long as all channels of the blocks that it computes, so its row moves to the top of its stair;
    from there, stairs of any width can be told.

    Args:
        model: the device's.
        lanes: float32 numbers of a vector register of the other one.
        templates: layers that the other one has, some of which may keep few channels in another way.
    """
    asked: dict[LayerShape, list[LayerShape]] = {}
    for template in templates:
        asked.setdefault(on_lanes(template, lanes), []).append(template)
    rows = []
    for template, table in model.table.by_template().items():
        surface = model.kernels.surface(template)
        in_channels, out_channels = widths(table.shapes)
        tops = zip(padded(in_channels, surface.in_step), padded(out_channels, surface.out_step), strict=True)
        moved = on_lanes(template, lanes)
        for top, shape in zip(tops, table.shapes, strict=True):
            rows += [(each.with_channels(*top), table[shape]) for each in asked.get(moved, [moved])]
    return KernelTable.averaged(rows)


def on_lanes(layer: LayerShape, lanes: int) -> LayerShape:
    """The layer as a device of ``lanes`` has it: channels in blocks are in blocks of that many, a few of them, too."""
    sides = re.sub(r"\d+", str(lanes), layer.layout.replace("few", "nchw")).split("-")
    return replace(layer, layout="-".join(dict.fromkeys(sides)))


def _scaled(
    table: KernelTable, networks: Sequence[MeasuredNetwork], regressor: str, lanes: int
) -> tuple[float, KernelTable]:
    """Usual size of the residual of a network left out, as a share, and the kernels at the new device's scale."""
    model = LatencyModel.fit(table, regressor=regressor, lanes=lanes)
    terms, order = model.terms([layers for layers, _ in networks])
    latency_ms = np.array([latency_ms for _, latency_ms in networks])[order]
    factor = float(np.exp(np.median(np.log(latency_ms / terms.sum_ms))))
    calibration = fit_calibration(terms.scaled(factor), latency_ms, TRANSFER_STDS)
    return float(np.median(calibration.left_out) * calibration.typical_std), table.scaled(factor)
