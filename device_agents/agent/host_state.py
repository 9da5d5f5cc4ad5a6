"""What the device is doing just now: governor, clocks, heat, load, throttling.

Every reader takes the root under which ``proc`` and ``sys`` lie, and raises :class:`Absent` with the reason where the
system does not tell, which is the normal case for many: virtual machines have no governor, boards no throttle counters.
"""

from __future__ import annotations

import glob
import os
from typing import Any, Callable, Iterable


def system_root() -> str:
    """Where ``proc`` and ``sys`` lie; containers that see the device's under another folder name it in HWPRUNE_ROOT."""
    return os.environ.get("HWPRUNE_ROOT") or "/"


class Absent(Exception):  # noqa: N818
    """A quantity that this system does not tell; the text says why."""


def read_text(root: str, path: str) -> str:
    """Contents of one file below ``root``, stripped.

    Raises:
        Absent: it is not there or cannot be read.
    """
    try:
        with open(os.path.join(root, path)) as file:
            return file.read().strip("\n \t\0")
    except (OSError, UnicodeDecodeError) as error:
        raise Absent("/{}: {}".format(path, getattr(error, "strerror", None) or error)) from error


def read_all(root: str, pattern: str) -> dict[str, str]:
    """Contents of the files that match ``pattern``, by path below ``root``, in natural order.

    Raises:
        Absent: none of them can be read.
    """
    found = {}
    for path in sorted(glob.glob(os.path.join(root, pattern)), key=lambda path: (len(path), path)):
        try:
            found[os.path.relpath(path, root)] = read_text(root, os.path.relpath(path, root))
        except Absent:
            continue  # a zone or core that is switched off; the others count
    if not found:
        raise Absent(f"no readable /{pattern}")
    return found


def governor(root: str) -> str:
    """Governor of the clocks; several, joined by ``+``, where clusters differ."""
    return "+".join(sorted(set(read_all(root, "sys/devices/system/cpu/cpufreq/policy*/scaling_governor").values())))


def clock_limits_mhz(root: str) -> list[list[float]]:
    """Lowest and highest clock that each policy (cluster or core) may choose."""
    low = read_all(root, "sys/devices/system/cpu/cpufreq/policy*/scaling_min_freq").values()
    high = read_all(root, "sys/devices/system/cpu/cpufreq/policy*/scaling_max_freq").values()
    return [[int(least) / 1e3, int(most) / 1e3] for least, most in zip(low, high)]


def clocks_mhz(root: str) -> list[float]:
    """Current clock of each policy (cluster or core)."""
    return [
        int(text) / 1e3 for text in read_all(root, "sys/devices/system/cpu/cpufreq/policy*/scaling_cur_freq").values()
    ]


def temperatures_celsius(root: str) -> dict[str, float]:
    """Temperature of each thermal zone, by its type."""
    zones = {}
    for path, text in read_all(root, "sys/class/thermal/thermal_zone*/temp").items():
        folder = os.path.dirname(path)
        name = read_text(root, os.path.join(folder, "type"))
        zones[name if name not in zones else os.path.basename(folder)] = int(text) / 1e3
    return zones


def load_average(root: str) -> float:
    """Runnable tasks, averaged over one minute."""
    return float(read_text(root, "proc/loadavg").split()[0])


def cpu_pressure_percent(root: str) -> float:
    """Share of the last ten seconds in which a task waited for a CPU, 0 to 100."""
    for line in read_text(root, "proc/pressure/cpu").splitlines():
        fields = line.split()
        if fields[0] == "some":
            return float(fields[1].split("=")[1])
    raise Absent("/proc/pressure/cpu has no line 'some'")


def cpu_times_s(root: str) -> dict[str, float]:
    """Seconds since the start that all CPUs together were busy, idle, and taken away by the hypervisor.

    Differences of two readings tell what happened between them.
    """
    fields = [int(field) for field in read_text(root, "proc/stat").splitlines()[0].split()[1:9]]
    user, nice, system, idle, waiting, interrupts, soft_interrupts, stolen = fields
    ticks = float(os.sysconf("SC_CLK_TCK"))
    busy = user + nice + system + interrupts + soft_interrupts
    return {"busy": busy / ticks, "idle": (idle + waiting) / ticks, "stolen": stolen / ticks}


def agent_time_s(root: str) -> float:
    """Seconds that a CPU was busy with the agent itself: part of :func:`cpu_times_s`, much of it on slow boards."""
    user, system = read_text(root, "proc/self/stat").rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / float(os.sysconf("SC_CLK_TCK"))


def throttle_count(root: str) -> int:
    """Times that any core was throttled since the start (x86)."""
    return sum(
        int(text)
        for text in read_all(root, "sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count").values()
    )


def throttle_flags(root: str) -> int:
    """Raspberry Pi's flags: bits 0 to 3 under-voltage, capped, throttled, hot now; bits 16 to 19 since the start."""
    return int(read_text(root, "sys/devices/platform/soc/soc:firmware/get_throttled"), 16)


def cooling_states(root: str) -> dict[str, int]:
    """How far each cooling device is up; above 0 for a processor's means that it is slowed down."""
    states = {}
    for path, text in read_all(root, "sys/class/thermal/cooling_device*/cur_state").items():
        folder = os.path.dirname(path)
        states["{} {}".format(os.path.basename(folder), read_text(root, os.path.join(folder, "type")))] = int(text)
    return states


READERS: dict[str, Callable[[str], Any]] = {
    reader.__name__: reader
    for reader in (
        governor,
        clock_limits_mhz,
        clocks_mhz,
        temperatures_celsius,
        load_average,
        cpu_pressure_percent,
        cpu_times_s,
        agent_time_s,
        throttle_count,
        throttle_flags,
        cooling_states,
    )
}


#: Those that change while a device works, and that a reader takes no time for that the work would miss.
QUICK_READERS: dict[str, Callable[[str], Any]] = {
    reader.__name__: reader
    for reader in (clocks_mhz, temperatures_celsius, cpu_times_s, throttle_count, throttle_flags, cooling_states)
}


def gather(readers: dict[str, Callable[[str], Any]], root: str) -> dict[str, Any]:
    """Values of all readers by name, None where absent; ``missing`` holds the reasons."""
    values: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name, reader in readers.items():
        try:
            values[name] = reader(root)
        except (Absent, ValueError, IndexError, KeyError) as error:
            values[name] = None
            missing[name] = str(error)
    values["missing"] = missing
    return values


def merge(found: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Facts of several sources as one; of two that know a fact, the first."""
    merged: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for facts in found:
        missing.update(facts["missing"])
        merged.update({name: value for name, value in facts.items() if merged.get(name) is None})
    return dict(merged, missing={name: why for name, why in missing.items() if merged[name] is None})
