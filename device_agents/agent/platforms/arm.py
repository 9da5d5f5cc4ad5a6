"""Boards and phones with ARM processors, whose clusters may differ in speed.

A device of this type in the inventory (a Raspberry Pi 4, pinned to one core)::

    platform: arm
    target: {kind: llvm, mtriple: aarch64-linux-gnu, mcpu: cortex-a72}
    cores: [3]
"""

from __future__ import annotations

import platform
from typing import Any

from device_agents.agent import host_facts, host_state, power
from device_agents.agent.host_state import Absent, gather, read_text

#: Core designs by implementer and part number (MIDR), where boards are common.
CORES = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd04"): "Cortex-A35",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd09"): "Cortex-A73",
    ("0x41", "0xd0a"): "Cortex-A75",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd41"): "Cortex-A78",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd49"): "Neoverse-N2",
    ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x4e", "0x003"): "Denver 2",
    ("0x4e", "0x004"): "Carmel",
}


def present(root: str) -> bool:
    """Whether the processor is an ARM."""
    return platform.machine().startswith(("arm", "aarch64"))


def cpu_model(root: str) -> str:
    """Designs of the cores, joined by ``+`` where clusters differ; as a number where unknown."""
    return "+".join(part["design"] for part in cpu_parts(root))


def cpu_parts(root: str) -> list[dict[str, Any]]:
    """Each design with its numbers and its cores, in the order of the cores: what a compiler is told of."""
    parts: dict[tuple[str, str], list[int]] = {}
    core, implementer = 0, ""
    for line in read_text(root, "proc/cpuinfo").splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name == "processor":
            core = int(value)
        elif name == "CPU implementer":
            implementer = value
        elif name == "CPU part":
            parts.setdefault((implementer, value), []).append(core)
    if not parts:
        raise Absent("/proc/cpuinfo names no CPU part")
    return [
        {
            "implementer": key[0],
            "part": key[1],
            "design": CORES.get(key, "implementer {} part {}".format(*key)),
            "cores": cores,
        }
        for key, cores in parts.items()
    ]


def board(root: str) -> str:
    """The board's name in its device tree."""
    return read_text(root, "proc/device-tree/model")


def describe(root: str) -> dict[str, Any]:
    """Core designs, clusters, board, memory and system."""
    return gather(dict(host_facts.READERS, cpu_model=cpu_model, cpu_parts=cpu_parts, board=board), root)


def throttle_flags(root: str) -> int:
    """Raspberry Pi's flags, from the firmware's file or its tool; see :func:`host_state.throttle_flags`."""
    try:
        return host_state.throttle_flags(root)
    except Absent as reason:
        try:
            return int(power.run_tool("vcgencmd", "get_throttled").partition("=")[2], 16)
        except Absent as other:
            raise Absent(f"{reason}; {other}") from other


def state(root: str) -> dict[str, Any]:
    """Governor, clocks, heat, load, throttling, power."""
    return gather(dict(host_state.READERS, throttle_flags=throttle_flags, power_w=power.power_w), root)
