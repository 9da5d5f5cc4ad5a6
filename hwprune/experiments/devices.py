"""Registering devices and finding out whether they are fit to measure on."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

from device_agents.client import AgentClient
from device_agents.registry import Device
from device_agents.transport import LoopbackTransport
from hwprune.compilation.targets import host_target
from hwprune.errors import CompileError, ConfigError
from hwprune.experiments.home import Home

#: Less free disk than this under the home folder is a warning: libraries of one search take some 100 MB.
DISK_FREE_MIN_BYTES = 1 << 30


@dataclass(frozen=True)
class CheckRow:
    """One thing that a device must have.

    Attributes:
        what: the thing.
        ok: whether it is there.
        found: what was found.
        remedy: what to do where it is missing.
    """

    what: str
    ok: bool
    found: str
    remedy: str = ""


#: This computer, registered when it is first named.
LOCAL = "local"


def find(home: Home, name: str) -> Device:
    """A registered device; this computer is registered on the spot.

    Raises:
        DeviceError: the device is unknown, or its agent cannot be started.
    """
    if name == LOCAL and name not in home.devices.names():
        return add_local(home, name)
    return home.devices.get(name)


def add_local(home: Home, name: str, threads: int = 1) -> Device:
    """Register this computer: ask its agent what it is and fill in the target; a core a thread is kept for measuring.

    Args:
        home: where devices are kept.
        name: what it will be called.
        threads: of one inference, 1 or more.

    Raises:
        ConfigError: a device of this name exists, or there are fewer cores than threads.
        DeviceError: the agent cannot be started.
    """
    if name in home.devices.names():
        raise ConfigError(
            f"device {name!r} exists already: 'hwprune device remove {name}' first, or choose another name"
        )
    with AgentClient(LoopbackTransport(home.folder("agents") / name)) as client:
        description = client.describe()
    target = host_target()
    usable = sorted(description["usable_cores"] or ())
    if usable and threads > len(usable):
        raise ConfigError(f"{threads} threads on {len(usable)} usable cores: choose at most {len(usable)}")
    device = Device(
        name=name,
        transport="local",
        platform=_platform(description),
        target={"kind": "llvm", "mcpu": target.mcpu},
        # The last cores: the system's own work prefers the first.
        cores=tuple(usable[-threads:]),
        threads=threads,
        description=description,
    )
    home.devices.add(device)
    return device


def _platform(description: dict[str, Any]) -> str:
    return "arm" if str(description.get("arch")).startswith(("aarch64", "arm")) else "cpu"


def check(home: Home, name: str) -> list[CheckRow]:
    """What a device needs to be measured on, thing by thing.

    Raises:
        DeviceError: the device is unknown, or its agent cannot be started.
    """
    device = home.devices.get(name)
    with AgentClient(LoopbackTransport(home.folder("agents") / name)) as client:
        description, state = client.describe(), client.state()
    rows = [CheckRow("agent", True, f"answers, Python {description.get('python')}")]
    rows.append(_compiler_row())
    fresh = device.model_copy(update={"description": description})
    same = fresh.fingerprint == device.fingerprint
    rows.append(
        CheckRow(
            "fingerprint",
            same,
            device.fingerprint[:12] if same else f"was {device.fingerprint[:12]}, is {fresh.fingerprint[:12]}",
            "" if same else f"the device has changed: 'hwprune device remove {name}', then add and profile it again",
        )
    )
    governor = state.get("governor")
    rows.append(
        CheckRow(
            "governor",
            governor in (None, "performance"),
            str(governor or "unknown (normal on virtual machines)"),
            ""
            if governor in (None, "performance")
            else "set it to performance for steadier numbers: cpupower frequency-set -g performance",
        )
    )
    free = shutil.disk_usage(home.folder("artifacts")).free
    rows.append(
        CheckRow(
            "disk",
            free >= DISK_FREE_MIN_BYTES,
            f"{free / 2**30:.1f} GiB free",
            "" if free >= DISK_FREE_MIN_BYTES else "free some space, or 'hwprune store gc --max-mib 256'",
        )
    )
    return rows


def _compiler_row() -> CheckRow:
    try:
        return CheckRow("C compiler", True, " ".join(host_target().compiler_command()))
    except CompileError as error:
        return CheckRow("C compiler", False, "none", str(error))
