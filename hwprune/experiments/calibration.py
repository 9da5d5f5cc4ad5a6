"""The latency model of a device for a network: found, or made by profiling; corrected while a search runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from device_agents.registry import Device
from hwprune.experiments.home import Home
from hwprune.experiments.known_models import known_model, model_path
from hwprune.experiments.profile import profile_network
from hwprune.experiments.profiler import Effort
from hwprune.experiments.progress import Console
from hwprune.experiments.session import DeviceSession, replay_of
from hwprune.experiments.whole_networks import is_trusted
from hwprune.experiments.workbench import Workbench
from hwprune.records import Evaluation
from latency_models.network_model import LatencyModel
from latency_models.shapes import NetworkShapes

#: Networks whose intervals are looked at for drift, and how many of them outside tell it: by chance in 1 of 200 cases.
DRIFT_WINDOW, DRIFT_OUTSIDE = 8, 4

#: Networks that one generation measures whole, and a search altogether.
REFINE_EACH, REFINE_MAX = 2, 20


def model_at_hand(home: Home, device: Device, bench: Workbench) -> LatencyModel | None:
    """The model of a device for a network, if nothing has to be measured for it; a recorded device always has one.

    Raises:
        ConfigError: the recording has no kernels.
    """
    if device.recording is None:
        return known_model(home, device, bench)
    return replay_of(device).model_of(bench.arithmetic.templates, model_path(home, device, bench).stem[-16:])


def latency_model(
    session: DeviceSession, bench: Workbench, console: Console, effort: Effort | None = None
) -> LatencyModel:
    """The device's model for this network; the device is profiled where there is none, with this effort."""
    model = model_at_hand(session.home, session.device, bench)
    if model is None:
        console.info(f"{session.device.name} has no latency model for this network yet: profiling it first")
        model, _ = profile_network(session, bench, console=console, effort=effort)
    return model


class Calibrator:
    """Measures a few networks near the front between generations and corrects the latency model by them.

    Attributes:
        model: the model as it stands.
        has_drifted: more of the last networks lay outside their 90 % intervals than chance explains.
        deviations: by how much each measured network's latency differed from the model of its time, relative to it.
    """

    def __init__(self, session: DeviceSession | None, bench: Workbench, model: LatencyModel) -> None:
        self._session = session
        self._bench = bench
        self._measured: set[str] = set()
        self._outside: deque[bool] = deque(maxlen=DRIFT_WINDOW)
        # Corrected by networks that do not fit it, a model widens its intervals until all fit.
        self._profiled = model
        self.model = model
        self.has_drifted = False
        self.deviations: list[float] = []

    def measure(self, front: Sequence[Evaluation]) -> dict[str, Any]:
        """Measure the members of ``front`` whose prediction is least sure (a ``Refiner`` of the search)."""
        fresh = [found for found in front if found.plan_key not in self._measured]
        if self._session is None or not fresh or len(self._measured) >= REFINE_MAX:
            return {}
        _, std_ms = self.model.predict(self._bench.arithmetic([found.widths for found in fresh]))
        chosen = [fresh[index] for index in (-std_ms).argsort(kind="stable")[:REFINE_EACH]]
        plans = [self._bench.plan(found.widths) for found in chosen]
        networks = [
            {
                "plan_key": found.plan_key,
                "widths": list(found.widths),
                # What a model of a recording says teaches nothing.
                "latency_ms": each.latency_ms if is_trusted(each) and not each.is_simulated else None,
            }
            for found, each in zip(chosen, self._session.measure_candidates(self._bench, plans), strict=True)
        ]
        return {"networks": networks}

    def apply(self, data: dict[str, Any]) -> None:
        """Take what :meth:`measure` said into the model."""
        self._measured |= {network["plan_key"] for network in data["networks"]}
        trusted = [network for network in data["networks"] if network["latency_ms"] is not None]
        if not trusted:
            return
        shapes = self._bench.arithmetic([network["widths"] for network in trusted])
        predicted_ms = self.model.predict(shapes)[0]
        measured_ms = [network["latency_ms"] for network in trusted]
        self.deviations += np.abs(measured_ms / predicted_ms - 1).tolist()
        rows = [(shapes.row(index), network["latency_ms"]) for index, network in enumerate(trusted)]
        self._look_for_drift(shapes, np.array([latency_ms for _, latency_ms in rows]))
        self.model = self.model.recalibrate([*self.model.networks, *rows])

    def _look_for_drift(self, shapes: NetworkShapes, latency_ms: npt.NDArray[np.float64]) -> None:
        """Tell once when the device and the model have parted company; the model is corrected all the same."""
        mean_ms, std_ms = self._profiled.predict(shapes)
        self._outside.extend(np.abs(latency_ms - mean_ms) > self._profiled.interval_factor(0.9) * std_ms)
        if sum(self._outside) < DRIFT_OUTSIDE or self.has_drifted:
            return
        self.has_drifted = True
        if self._session is not None:
            name = self._session.device.name
            self._session.measurer.say(
                f"{sum(self._outside)} of the last {len(self._outside)} networks on {name} took another time than its "
                f"latency model allows: the model is corrected by them; 'hwprune device profile {name}' makes a new one"
            )
