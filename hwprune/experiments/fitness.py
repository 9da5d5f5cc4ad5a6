"""Whether a device is fit to measure on: what works, what is missing, and how to mend it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from device_agents.client import AgentClient
from device_agents.errors import (
    BoardUnfit,
    DeviceBusy,
    DeviceError,
    HostKeyMismatch,
    LibraryFailed,
    LoginRefused,
    Unreachable,
)
from device_agents.registry import Device
from hwprune.compilation.targets import CpuTarget
from hwprune.errors import CompileError
from hwprune.experiments.devices import agent_of, changed_facts, check_libc
from hwprune.experiments.home import Home
from hwprune.measurement.lease import lease
from hwprune.measurement.readiness import throttling
from hwprune.units import format_bytes

#: Less free disk than this under the home folder is a warning: libraries of one search take some 100 MB.
DISK_FREE_MIN_BYTES = 1 << 30
#: The same on a board, whose agent keeps its folder within a limit.
BOARD_FREE_MIN_BYTES = 1 << 28


@dataclass(frozen=True)
class CheckRow:
    """One thing that a device should have.

    Attributes:
        what: the thing.
        ok: whether measuring can do without doing something about it.
        found: what was found.
        remedy: what to do about it.
    """

    what: str
    ok: bool
    found: str
    remedy: str = ""


#: What lies between us and an agent's first answer, in order: what fails where it is missing, and what it is else.
STEPS: tuple[tuple[str, type[DeviceError], str], ...] = (
    ("reachable", Unreachable, "answers"),
    ("host key", HostKeyMismatch, "the pinned one"),
    ("login", LoginRefused, "by key"),
    ("Python", BoardUnfit, "runs the agent"),
    ("free", DeviceBusy, "nobody else works on it"),
    ("agent", DeviceError, "answers"),
)
#: Where these begin on this computer.
LOCAL_STEPS = 4


def check(home: Home, name: str) -> list[CheckRow]:
    """What a device needs to be measured on, thing by thing, as far as one can look.

    Raises:
        UnknownDeviceError: there is no such device.
        StoreError: the store cannot be opened.
    """
    device = home.devices.get(name)
    here = [_compiler_row(device), _disk_row(home)]
    with home.open_store() as store:
        try:
            with lease(store.leases, name):
                return [*_rows_there(home, device), *here]
        except DeviceBusy as error:
            return [CheckRow("free", False, "no", str(error)), *here]


def _rows_there(home: Home, device: Device) -> list[CheckRow]:
    """What the device itself shows, or the step on the way there that fails."""
    try:
        with agent_of(home, device) as client:
            return _agent_rows(home, device, client)
    except DeviceError as error:
        return list(_steps(device, error))


def _steps(device: Device, error: DeviceError | None) -> Iterator[CheckRow]:
    """The steps to the agent, up to the one that failed."""
    for what, failure, works in STEPS[0 if device.ssh else LOCAL_STEPS :]:
        if isinstance(error, failure):
            yield CheckRow(what, False, "no", str(error).partition("\n")[0])
            return
        yield CheckRow(what, True, works)


def _agent_rows(home: Home, device: Device, client: AgentClient) -> list[CheckRow]:
    description, state = client.describe(), client.state()
    missing = {**(description.get("missing") or {}), **(state.get("missing") or {})}
    facts = {**description, **state}
    return [
        *_steps(device, None),
        CheckRow("system", True, f"{description.get('arch')}, kernel {description.get('kernel')}"),
        CheckRow("Python there", True, str(description.get("python"))),
        _libc_row(description),
        _library_row(home, device, client),
        _fingerprint_row(device, description),
        _governor_row(facts.get("governor"), client.warnings),
        _clock_row(facts.get("clock_limits_mhz"), throttling(state)),
        _sensor_row("temperature", facts.get("temperatures_celsius"), missing.get("temperatures_celsius"), "°C"),
        _sensor_row("power", facts.get("power_w"), missing.get("power_w"), "W"),
        *_board_disk_rows(device, state),
    ]


def _libc_row(description: Mapping[str, Any]) -> CheckRow:
    try:
        check_libc(description)
    except BoardUnfit as error:
        return CheckRow("C library", False, str(description.get("libc") or "unknown"), str(error))
    return CheckRow("C library", True, str(description["libc"]))


def _library_row(home: Home, device: Device, client: AgentClient) -> CheckRow:
    from hwprune.experiments.probe import probe  # takes torch and TVM, which the other rows can do without

    try:
        load_ms = probe(home, device, client)
    except CompileError as error:
        return CheckRow("test network", False, "cannot be compiled", str(error))
    except LibraryFailed as error:
        return CheckRow(
            "test network",
            False,
            str(error).partition("\n")[0],
            "correct target in the device's entry, or add it again",
        )
    return CheckRow("test network", True, f"loads in {load_ms:.1f} ms and computes what torch does")


def _fingerprint_row(device: Device, description: dict[str, Any]) -> CheckRow:
    if not device.description:
        return CheckRow("fingerprint", False, "none", f"'hwprune device remove {device.name}', then add it again")
    changed = changed_facts(device, description)
    if not changed:
        return CheckRow("fingerprint", True, device.fingerprint[:12])
    fresh = device.model_copy(update={"description": description})
    return CheckRow(
        "fingerprint",
        False,
        f"was {device.fingerprint[:12]}, is {fresh.fingerprint[:12]} ({', '.join(changed)})",
        f"the device has changed: 'hwprune device remove {device.name}', then add and profile it again",
    )


def _governor_row(governor: str | None, warnings: Sequence[str]) -> CheckRow:
    if warnings:
        return CheckRow("governor", False, str(governor), "; ".join(warnings))
    return CheckRow("governor", True, governor or "unknown (normal on virtual machines)")


def _clock_row(limits_mhz: Sequence[Sequence[float]] | None, throttled: str) -> CheckRow:
    limits = ", ".join(f"{low:.0f} to {high:.0f} MHz" for low, high in limits_mhz or ())
    remedy = f"{throttled}: mend its power supply or cooling" if throttled else ""
    return CheckRow("clock", not throttled, limits or "not told", remedy)


def _sensor_row(what: str, values: Mapping[str, float] | None, why: str | None, unit: str) -> CheckRow:
    """A sensor that measuring can do without."""
    if not values:
        return CheckRow(what, True, "not told", why or "")
    return CheckRow(what, True, ", ".join(f"{name} {value:.1f} {unit}" for name, value in values.items()))


def _board_disk_rows(device: Device, state: Mapping[str, Any]) -> Iterator[CheckRow]:
    free = state.get("disk_free_bytes")
    if device.ssh is not None and free is not None:
        yield _room(
            "disk there", free, BOARD_FREE_MIN_BYTES, f"free some space, or 'hwprune device clean {device.name}'"
        )


def _disk_row(home: Home) -> CheckRow:
    free = shutil.disk_usage(home.folder("artifacts")).free
    return _room("disk", free, DISK_FREE_MIN_BYTES, "free some space, or 'hwprune store gc --max-mib 256'")


def _room(what: str, free: int, least: int, remedy: str) -> CheckRow:
    return CheckRow(what, free >= least, f"{format_bytes(free)} free", "" if free >= least else remedy)


def _compiler_row(device: Device) -> CheckRow:
    try:
        target = CpuTarget.from_dict(device.target, device.threads)
        return CheckRow("C compiler", True, " ".join(target.compiler_command()))
    except CompileError as error:
        return CheckRow("C compiler", False, "none", str(error))
