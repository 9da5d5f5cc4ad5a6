"""The latency model of a device for a network: found, or made by profiling; corrected while a search runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from device_agents.registry import Device
from hwprune.compilation.compiler import Compiler
from hwprune.experiments.home import Home
from hwprune.experiments.profile import profile_network
from hwprune.experiments.progress import Console
from hwprune.experiments.provenance import write_text
from hwprune.experiments.session import DeviceSession, replay_of
from hwprune.experiments.workbench import Workbench
from hwprune.records import Evaluation
from latency_models.errors import LatencyModelError
from latency_models.network_model import LatencyModel

#: Networks that one generation measures whole, and a search altogether.
REFINE_EACH, REFINE_MAX = 2, 20


def model_path(home: Home, device: Device, bench: Workbench) -> Path:
    """File of a device's latency model for the layers of a network.

    Named after all that makes measured rows incomparable: what the device is, the kernels' schedules, the layers.
    """
    layers = sorted({json.dumps(template.template.as_dict()) for template in bench.arithmetic.templates})
    told = json.dumps([device.fingerprint, Compiler.schedule_version, bench.graph.target.name, layers])
    return home.models / f"{device.name}-{hashlib.sha256(told.encode()).hexdigest()[:16]}.json"


def known_model(home: Home, device: Device, bench: Workbench) -> LatencyModel | None:
    """The model that a profile has left; None where there is none that can be used."""
    path = model_path(home, device, bench)
    if not path.exists():
        return None
    try:
        return LatencyModel.from_json(path.read_text())
    except LatencyModelError:
        return None  # measured anew: a model is never the only copy of anything


def model_at_hand(home: Home, device: Device, bench: Workbench) -> LatencyModel | None:
    """The model of a device for a network, if nothing has to be measured for it; a recorded device always has one.

    Raises:
        ConfigError: the recording has no kernels.
    """
    if device.recording is None:
        return known_model(home, device, bench)
    return replay_of(device).model_of(bench.arithmetic.templates, model_path(home, device, bench).stem[-16:])


def save_model(home: Home, device: Device, bench: Workbench, model: LatencyModel) -> Path:
    """Keep a model's rows and recipe."""
    path = model_path(home, device, bench)
    write_text(path, model.to_json())
    return path


def latency_model(session: DeviceSession, bench: Workbench, console: Console) -> LatencyModel:
    """The device's model for this network; the device is profiled where there is none."""
    model = model_at_hand(session.home, session.device, bench)
    if model is None:
        console.info(f"{session.device.name} has no latency model for this network yet: profiling it first")
        model, report = profile_network(session, bench, console=console)
        save_model(session.home, session.device, bench, model)
        session.device = session.device.model_copy(update={"channel_step": report.channel_step})
        session.home.devices.add(session.device)
    for note in model.notes(bench.arithmetic.templates):
        console.info(note)
    return model


class Calibrator:
    """Measures a few networks near the front between generations and corrects the latency model by them.

    Attributes:
        model: the model as it stands.
    """

    def __init__(self, session: DeviceSession | None, bench: Workbench, model: LatencyModel) -> None:
        self._session = session
        self._bench = bench
        self._measured: set[str] = set()
        self.model = model

    def measure(self, front: Sequence[Evaluation]) -> dict[str, Any]:
        """Measure the members of ``front`` whose prediction is least sure (a ``Refiner`` of the search)."""
        fresh = [found for found in front if found.plan_key not in self._measured]
        if self._session is None or not fresh or len(self._measured) >= REFINE_MAX:
            return {}
        _, std_ms = self.model.predict(self._bench.arithmetic([found.widths for found in fresh]))
        chosen = [fresh[index] for index in (-std_ms).argsort(kind="stable")[:REFINE_EACH]]
        networks = []
        for found in chosen:
            measurement = self._session.measure_candidate(self._bench, self._bench.plan(found.widths))
            # What a model of a recording says teaches nothing.
            trusted = measurement.error is None and measurement.trust != "C" and not measurement.is_simulated
            latency_ms = measurement.latency_ms if trusted else None
            networks.append({"plan_key": found.plan_key, "widths": list(found.widths), "latency_ms": latency_ms})
        return {"networks": networks}

    def apply(self, data: dict[str, Any]) -> None:
        """Take what :meth:`measure` said into the model."""
        self._measured |= {network["plan_key"] for network in data["networks"]}
        trusted = [network for network in data["networks"] if network["latency_ms"] is not None]
        if not trusted:
            return
        shapes = self._bench.arithmetic([network["widths"] for network in trusted])
        rows = [(shapes.row(index), network["latency_ms"]) for index, network in enumerate(trusted)]
        self.model = self.model.recalibrate([*self.model.networks, *rows])
