"""Energy of candidates, predicted from that of a few networks measured on the device with a meter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from device_agents.registry import Device
from hwprune.errors import ConfigError, UntrustedError
from hwprune.experiments.session import DeviceSession
from hwprune.experiments.workbench import Workbench
from hwprune.objectives.macs import layer_macs
from hwprune.search.operators import latin_hypercube

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

#: Networks that are measured for the fit, and the fewest whose energy must have been told.
NETWORKS, NETWORKS_MIN = 12, 6


@dataclass(frozen=True)
class EnergyModel:
    """Energy as a sum of a share of the time, a share of the work, and a rest that is always there.

    A processor draws a power while it runs, and each multiply-add and the memory it moves cost beside that; no share is
    negative.

    Attributes:
        latency_ms: ``(n, G)`` widths to ``(n,)`` predicted latencies.
        macs: ``(n, G)`` widths to ``(n,)`` multiply-adds of one inference.
        shares: ``(3,)`` millijoules a ms, a million multiply-adds, an inference.
    """

    latency_ms: Callable[[IntArray], FloatArray]
    macs: Callable[[IntArray], FloatArray]
    shares: FloatArray

    def __call__(self, widths: IntArray) -> FloatArray:
        """``(n,)`` millijoules of one inference."""
        terms: FloatArray = _terms(self.latency_ms(widths), self.macs(widths)) @ self.shares
        return terms


def check_meter(device: Device) -> None:
    """Make sure that a device tells energy.

    Raises:
        ConfigError: it has no meter; the text says why.
    """
    told = device.description
    if not told.get("energy_meter"):
        reason = (told.get("missing") or {}).get("energy_meter", "its entry does not say: remove and add it again")
        raise ConfigError(
            f"device {device.name!r} tells no energy ({reason}); remove it from 'objectives' and 'constraints', "
            "or name a device with a meter"
        )


def fit_energy(session: DeviceSession, bench: Workbench, latency_ms: Callable[[IntArray], FloatArray]) -> EnergyModel:
    """Measure networks over the whole range of widths, and fit their energy.

    Raises:
        ConfigError: the device has no meter.
        UntrustedError: too few could be measured while nothing else ran.
    """
    check_meter(session.device)
    sizes = np.asarray(bench.groups.sizes)
    shares = np.vstack([np.ones(len(sizes)), latin_hypercube(NETWORKS - 1, len(sizes), np.random.default_rng(0))])
    widths = np.maximum(1, np.rint(shares * sizes)).astype(np.int64)
    measured = session.measure_candidates(bench, [bench.plan(row) for row in widths])
    energy_mj = np.array([np.nan if each.energy_mj is None else each.energy_mj for each in measured])
    told = np.isfinite(energy_mj)
    if told.sum() < NETWORKS_MIN:
        raise UntrustedError(
            f"the energy of {told.sum()} of {NETWORKS} networks could be read, {NETWORKS_MIN} are needed: "
            "close other programs"
        )

    def macs(widths: IntArray) -> FloatArray:
        return np.asarray(layer_macs(bench.arithmetic(widths)).sum(axis=1), dtype=np.float64)

    terms = _terms(latency_ms(widths[told]), macs(widths[told]))
    # By relative error: the smallest network counts as much as the largest.
    fitted, _ = nnls(terms / energy_mj[told, None], np.ones(int(told.sum())))
    return EnergyModel(latency_ms, macs, fitted)


def _terms(latency_ms: FloatArray, macs: FloatArray) -> FloatArray:
    """``(n, 3)`` array: what the shares are multiplied with."""
    return np.column_stack([latency_ms, macs / 1e6, np.ones(len(latency_ms))])
