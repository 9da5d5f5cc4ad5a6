"""Computers with an NVIDIA GPU beside the processor.

A device of this type in the inventory::

    platform: cuda
    target: {kind: cuda, arch: sm_87}
    cores: [1]
"""

from __future__ import annotations

from typing import Any, Mapping

from device_agents.agent import host_facts
from device_agents.agent.host_state import Absent, gather, read_text
from device_agents.agent.power import run_tool

#: What nvidia-smi is asked for, and the name and unit it gets here.
QUERY = {
    "name": "gpu_model",
    "driver_version": "driver",
    "compute_cap": "compute_capability",
    "memory.total": "memory_mib",
    "clocks.max.sm": "clock_limit_mhz",
    "power.limit": "power_limit_w",
}

#: The same for what GPUs are doing just now.
STATE_QUERY = {
    "temperature.gpu": "temperature_celsius",
    "clocks.sm": "clock_mhz",
    "clocks.mem": "memory_clock_mhz",
    "power.draw": "power_w",
    "memory.used": "memory_used_mib",
    "utilization.gpu": "busy_percent",
    "clocks_throttle_reasons.active": "throttle_reasons",
}


def present(root: str) -> bool:
    """Whether nvidia-smi finds a GPU, or the board is a Jetson."""
    try:
        return bool(gpus(root))
    except Absent:
        return False


def gpus(root: str) -> list[dict[str, str]]:
    """One entry a GPU, as its driver describes it; Jetsons by their device tree, their tools tell less.

    Raises:
        Absent: there is no driver, or it finds no GPU.
    """
    try:
        return ask_driver(QUERY)
    except Absent as reason:
        for ask in (older_gpus, tegra):
            try:
                return ask(root)
            except Absent:
                continue
        raise reason


def older_gpus(root: str) -> list[dict[str, str]]:
    """The same from drivers that refuse to be asked for the compute capability.

    Raises:
        Absent: there is no driver, or it finds no GPU.
    """
    return ask_driver({field: name for field, name in QUERY.items() if field != "compute_cap"})


def tegra(root: str) -> list[dict[str, str]]:
    """The GPU of a Jetson's chip.

    Raises:
        Absent: this is no Jetson.
    """
    for chip in read_text(root, "proc/device-tree/compatible").split("\0"):
        if chip.startswith("nvidia,tegra"):
            return [{"gpu_model": chip.partition(",")[2]}]
    raise Absent("no Tegra in the device tree")


def gpu_state(root: str) -> list[dict[str, str]]:
    """Heat, clocks, power, memory and reasons for throttling of each GPU.

    Raises:
        Absent: there is no driver, or it finds no GPU.
    """
    return ask_driver(STATE_QUERY)


def ask_driver(query: Mapping[str, str]) -> list[dict[str, str]]:
    """Answers of nvidia-smi to a query, one entry a GPU, as it puts them.

    Raises:
        Absent: there is no driver, or it finds no GPU.
    """
    answer = run_tool("nvidia-smi", "--query-gpu=" + ",".join(query), "--format=csv,noheader,nounits")
    if not answer:
        raise Absent("nvidia-smi: no GPU")
    return [dict(zip(query.values(), (field.strip() for field in line.split(",")))) for line in answer.splitlines()]


def describe(root: str) -> dict[str, Any]:
    """The GPUs, and the computer around them."""
    return gather(dict(host_facts.READERS, gpus=gpus), root)


def state(root: str) -> dict[str, Any]:
    """What the GPUs are doing; the processor's type tells the rest."""
    return gather({"gpu_state": gpu_state}, root)
