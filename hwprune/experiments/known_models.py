"""The latency models that a device has, one file for each set of layers."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_agents.registry import Device
from hwprune.compilation.compiler import Compiler
from hwprune.experiments.home import Home
from hwprune.experiments.workbench import Workbench
from latency_models.errors import LatencyModelError
from latency_models.features import mixes_channels
from latency_models.network_model import LatencyModel
from latency_models.transfer import on_lanes


@dataclass(frozen=True)
class KnownModel:
    """A saved model of a device.

    Attributes:
        path: its file.
        model: refitted on its rows.
    """

    path: Path
    model: LatencyModel

    def summary(self) -> dict[str, Any]:
        """Its card without the calibration's coefficients: plain data for JSON."""
        card = self.model.card()
        card.pop("calibration")
        return {"file": str(self.path), **card}


def model_path(home: Home, device: Device, bench: Workbench) -> Path:
    """File of a device's latency model for the layers of a network.

    Named after all that makes measured rows incomparable: what the device is, the kernels' schedules, the layers.
    """
    layers = sorted({json.dumps(template.template.as_dict()) for template in bench.arithmetic.templates})
    told = json.dumps([device.fingerprint, Compiler.schedule_version, bench.graph.target.name, layers])
    return home.models / f"{device.name}-{hashlib.sha256(told.encode()).hexdigest()[:16]}.json"


def known_model(home: Home, device: Device, bench: Workbench) -> LatencyModel | None:
    """The model that a profile has left; None where there is none that can be used."""
    return _read(model_path(home, device, bench))


def known_models(home: Home, device: Device) -> list[KnownModel]:
    """All usable models of a device, the newest first."""
    # A device may be called like another one with something behind it.
    own = re.compile(rf"{re.escape(device.name)}-[0-9a-f]{{16}}\.json")
    paths = [path for path in home.models.glob(f"{device.name}-*.json") if own.fullmatch(path.name)]
    paths.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [KnownModel(path, model) for path in paths if (model := _read(path)) is not None]


def lenders(home: Home, device: Device, bench: Workbench) -> dict[str, LatencyModel]:
    """Models of other devices for the layers of a network, made of kernels that were measured there; by device.

    Layers that mix no channels may be missing: where kernels are timed alone, operators without a kernel of ours are
    not timed, and others may be too short to be timed with trust. The model's regressor tells them.
    """
    lanes = bench.graph.target.lanes
    layers = (template.template for template in bench.arithmetic.templates)
    asked = {on_lanes(layer, lanes) for layer in layers if mixes_channels(layer)}
    found: dict[str, LatencyModel] = {}
    for name in home.devices.names():
        for known in known_models(home, home.devices.get(name)) if name != device.name else ():
            has = {on_lanes(shape.template, lanes) for shape in known.model.table}
            if not known.model.recipe.source and asked <= has:
                found.setdefault(name, known.model)
    return found


def _read(path: Path) -> LatencyModel | None:
    """A model, refitted; None where its file is missing or cannot be used, for a profile makes it anew."""
    try:
        return LatencyModel.from_json(path.read_text())
    except (FileNotFoundError, LatencyModelError):
        return None
