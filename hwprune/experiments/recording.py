"""What the store and the models know of a device, written to one file that answers in its place."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hwprune
from device_agents import replay
from device_agents.registry import Device
from hwprune.compilation.compiler import Compiler
from hwprune.errors import RunError
from hwprune.experiments.home import Home
from hwprune.experiments.known_models import known_models
from hwprune.measurement.measure import FINAL_PROCESSES
from hwprune.records import PROTOCOL_VERSION, Measurement
from hwprune.store import Store

#: Digits that a time in ms is kept with; clocks of devices tell fewer.
DIGITS = 9


@dataclass(frozen=True)
class RecordReport:
    """What was recorded.

    Attributes:
        device: name of the device.
        file: where.
        kernels: kernels that were measured alone; those that were timed inside networks are in the models.
        networks: measured networks; one that was measured in passing and for a front counts twice.
        models: latency models.
        nameless: networks that were measured before layers were written down, and cannot be asked for.
        size_bytes: of the file.
    """

    device: str
    file: Path
    kernels: int
    networks: int
    models: int
    nameless: int
    size_bytes: int


def record(home: Home, name: str, path: Path) -> RecordReport:
    """Write what is known of a device to a file, for ``--device replay:FILE``.

    Args:
        home: where store and models are.
        name: of the device.
        path: of the file; compressed where it ends with ``.gz``.

    Raises:
        UnknownDeviceError: there is no such device.
        RunError: nothing was measured on it.
        RecordingError: the file cannot be written.
    """
    device, version = home.devices.get(name), Compiler.schedule_version
    with home.open_store() as store:
        kernels = store.kernel_measurements(device.fingerprint, version, threads=device.threads)
        rows = _networks(store, device)
    known = [row for row in rows if row.shapes_key]
    networks = {(row.shapes_key, row.conditions.digest, len(row.values_ms) >= FINAL_PROCESSES): row for row in known}
    # Of several for the same layers, a replay asks the one that the device's present state would have.
    models = {known.path.stem: known.path.read_text() for known in known_models(home, device)}
    if not kernels and not networks:
        raise RunError(f"nothing was measured on {name} by this version: run 'hwprune device profile {name}' first")
    header = {
        "recorded_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hwprune": hwprune.__version__,
        "protocol_version": PROTOCOL_VERSION,
        "schedule_version": version,
    }
    lines: list[dict[str, Any]] = [
        {"kind": "kernel", "shape": shape.as_dict(), "measurement": _plain(row)} for shape, row in kernels
    ]
    lines += [{"kind": "network", "measurement": _plain(row)} for row in networks.values()]
    lines += [{"kind": "model", "name": stem, "content": content} for stem, content in models.items()]
    replay.write(path, device, header, lines)
    nameless = len({row.key for row in rows if not row.shapes_key})
    size_bytes = path.stat().st_size
    return RecordReport(name, path, len(kernels), len(networks), len(models), nameless, size_bytes)


def _networks(store: Store, device: Device) -> list[Measurement]:
    """All that was measured under the present protocol, by the present kernels, oldest first; failures are left out."""
    return [
        row
        for row in store.measurements(device=device.name)
        if row.error is None
        and row.conditions.fingerprint == device.fingerprint
        and row.conditions.threads == device.threads
        and row.conditions.schedule_version == Compiler.schedule_version
        and row.conditions.protocol_version == PROTOCOL_VERSION
    ]


def _plain(row: Measurement) -> dict[str, Any]:
    """A measurement as plain data, times without digits that no clock has."""
    values = [[[round(call, DIGITS) for call in block] for block in process] for process in row.values_ms]
    return {**row.as_dict(), "values_ms": values}
