"""What the device is: processor, memory, system; facts that do not change while it runs.

Readers as in ``host_state``: each takes the root of ``proc`` and ``sys``, and raises ``Absent`` with the reason.
"""

from __future__ import annotations

import contextlib
import glob
import os
import platform
import re
import struct
import subprocess
import sys
from typing import Any, Callable

from device_agents.agent.energy import Meter, rapl_counters
from device_agents.agent.host_state import Absent, clock_limits_mhz, governor, read_all, read_text
from device_agents.agent.packages import onnxruntime


def cpu_fields(root: str) -> dict[str, str]:
    """The first processor's lines in ``/proc/cpuinfo``, and the machine's at its end (``Hardware``, ``Model``)."""
    fields: dict[str, str] = {}
    for line in read_text(root, "proc/cpuinfo").splitlines():
        name, separator, value = line.partition(":")
        if separator:
            fields.setdefault(name.strip(), value.strip())
    return fields


def cpu_model(root: str) -> str:
    """Model name of the processor, as x86 systems tell it."""
    fields = cpu_fields(root)
    if "model name" not in fields:
        raise Absent("/proc/cpuinfo has no model name")
    return fields["model name"]


def cpu_features(root: str) -> list[str]:
    """Instruction-set extensions, sorted."""
    fields = cpu_fields(root)
    features = fields.get("flags") or fields.get("Features")
    if not features:
        raise Absent("/proc/cpuinfo has neither flags nor Features")
    return sorted(set(features.split()))


def cores(root: str) -> list[int]:
    """Numbers of the cores that are switched on."""
    return parse_cores(read_text(root, "sys/devices/system/cpu/online"))


def usable_cores(root: str) -> list[int]:
    """Those of the online cores that this process may use; containers are often given fewer."""
    return sorted(os.sched_getaffinity(0))


def parse_cores(text: str) -> list[int]:
    """``0-2,5`` -> ``[0, 1, 2, 5]``."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def clusters(root: str) -> list[dict[str, Any]]:
    """Cores of equal capacity, the strongest first: one entry, except on big.LITTLE processors."""
    groups: dict[int, list[int]] = {}
    for path, text in read_all(root, "sys/devices/system/cpu/cpu[0-9]*/cpu_capacity").items():
        core = int(os.path.basename(os.path.dirname(path))[len("cpu") :])
        groups.setdefault(int(text), []).append(core)
    return [{"capacity": capacity, "cores": sorted(groups[capacity])} for capacity in sorted(groups, reverse=True)]


def private_cache_bytes(root: str) -> int:
    """Largest cache that a core shares with no other one, of the core that has least: on big.LITTLE they differ."""
    largest: dict[int, int] = {}
    for path, text in read_all(root, "sys/devices/system/cpu/cpu[0-9]*/cache/index*/size").items():
        index = os.path.dirname(path)
        core = int(os.path.basename(os.path.dirname(os.path.dirname(index)))[len("cpu") :])
        size = re.fullmatch("([0-9]+)([KMG])", text)
        if size and set(parse_cores(read_text(root, os.path.join(index, "shared_cpu_list")))) <= siblings(root, core):
            found = int(size.group(1)) << {"K": 10, "M": 20, "G": 30}[size.group(2)]
            largest[core] = max(largest.get(core, 0), found)
    if not largest:
        raise Absent("no cache in /sys/devices/system/cpu/cpu*/cache is one core's alone")
    return min(largest.values())


def siblings(root: str, core: int) -> set[int]:
    """A core, and what else the system calls a core although it is the same one."""
    try:
        return set(parse_cores(read_text(root, f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")))
    except Absent:
        return {core}


def memory_bytes(root: str) -> int:
    """Physical memory."""
    for line in read_text(root, "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    raise Absent("/proc/meminfo has no MemTotal")


def kernel(root: str) -> str:
    """Release of the operating system's kernel."""
    return read_text(root, "proc/sys/kernel/osrelease")


def boot_id(root: str) -> str:
    """This start of the kernel: equal for all devices that are one computer, in whatever containers."""
    return read_text(root, "proc/sys/kernel/random/boot_id")


def arch(root: str) -> str:
    """Machine type, as ``uname -m`` tells it."""
    return platform.machine()


def libc(root: str) -> str:
    """Name and version of the C library: ``glibc 2.36`` or ``musl 1.2.4``; that one's version only where it tells."""
    with contextlib.suppress(ValueError, OSError):
        name = os.confstr("CS_GNU_LIBC_VERSION")
        if name:
            return name
    loaders = sorted(glob.glob(os.path.join(root, "lib/ld-musl-*.so.1")))
    if not loaders:
        raise Absent("neither glibc nor a loader of musl's in /lib")
    # Called without a program, the loader tells its version and how to be called, and fails.
    try:
        told = subprocess.run(loaders[:1], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return "musl"
    version = re.search(rb"Version ([0-9.]+)", told.stdout)
    return "musl " + version.group(1).decode() if version else "musl"


def pointer_bits(root: str) -> int:
    """Width of an address in programs here; 32 on boards whose kernel alone has 64."""
    return struct.calcsize("P") * 8


def multiarch(root: str) -> str:
    """The system's own name for its kind of programs, such as ``aarch64-linux-gnu``, if this Python knows it."""
    name = getattr(sys.implementation, "_multiarch", "")
    if not name:
        raise Absent("this Python does not tell")
    return str(name)


def cpu_ids(root: str) -> dict[str, str]:
    """Vendor, family, model and stepping of an x86 processor, as numbers."""
    fields = cpu_fields(root)
    names = ["vendor_id", "cpu family", "model", "stepping"]
    if not set(names) <= set(fields):
        raise Absent("/proc/cpuinfo lacks {}".format(", ".join(name for name in names if name not in fields)))
    return {name: fields[name] for name in names}


def python(root: str) -> str:
    """Version of the Python that runs the agent."""
    return "{} {}".format(platform.python_implementation(), ".".join(str(part) for part in sys.version_info[:3]))


def energy_meter(root: str) -> list[str]:
    """Folders of the counters that tell the energy of what is measured."""
    meter = Meter(root)
    if meter.missing:
        raise Absent(meter.missing)
    return [os.path.dirname(counter.path) for counter in rapl_counters(root)]


READERS: dict[str, Callable[[str], Any]] = {
    reader.__name__: reader
    for reader in (
        arch,
        pointer_bits,
        multiarch,
        cpu_model,
        cpu_ids,
        cpu_features,
        cores,
        usable_cores,
        clusters,
        memory_bytes,
        private_cache_bytes,
        governor,
        clock_limits_mhz,
        energy_meter,
        kernel,
        boot_id,
        libc,
        python,
        onnxruntime,
    )
}
