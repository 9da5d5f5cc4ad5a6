"""The latency models that a device has, with their scores."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_agents.registry import Device
from hwprune.experiments.home import Home
from latency_models.errors import LatencyModelError
from latency_models.network_model import LatencyModel


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


def known_models(home: Home, device: Device) -> list[KnownModel]:
    """Models of a device, the newest first; files that cannot be read are left out, for a profile makes them anew."""
    found = []
    for path in home.models.glob(f"{device.name}-*.json"):
        # A device may be called like another one with something behind it.
        if re.fullmatch(rf"{re.escape(device.name)}-[0-9a-f]{{16}}\.json", path.name):
            try:
                found.append(KnownModel(path, LatencyModel.from_json(path.read_text())))
            except LatencyModelError:
                continue
    return sorted(found, key=lambda known: known.path.stat().st_mtime, reverse=True)
