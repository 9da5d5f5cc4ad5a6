"""Computers with an NVIDIA GPU beside the processor.

A device of this type in the inventory::

    platform: cuda
    target: {kind: cuda, arch: sm_87}
    cores: [1]
"""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

from device_agents.agent import host_facts
from device_agents.agent.host_state import Absent, gather

#: What nvidia-smi is asked for, and the name and unit it gets here.
QUERY = {
    "name": "gpu_model",
    "driver_version": "driver",
    "compute_cap": "compute_capability",
    "memory.total": "memory_mib",
    "clocks.max.sm": "clock_limit_mhz",
    "power.limit": "power_limit_w",
}


def present(root: str) -> bool:
    """Whether nvidia-smi finds a GPU."""
    try:
        return bool(gpus(root))
    except Absent:
        return False


def gpus(root: str) -> list[dict[str, str]]:
    """One entry a GPU, as its driver describes it.

    Raises:
        Absent: there is no driver, or it finds no GPU.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        raise Absent("nvidia-smi is not installed")
    command = [tool, "--query-gpu=" + ",".join(QUERY), "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Absent(f"nvidia-smi failed: {error}") from error
    lines = answer.stdout.decode(errors="replace").strip().splitlines()
    if answer.returncode != 0 or not lines:
        raise Absent("nvidia-smi: {}".format(" ".join(lines) or "no GPU"))
    return [dict(zip(QUERY.values(), (field.strip() for field in line.split(",")))) for line in lines]


def describe(root: str) -> dict[str, Any]:
    """The GPUs, and the computer around them."""
    return gather(dict(host_facts.READERS, gpus=gpus), root)
