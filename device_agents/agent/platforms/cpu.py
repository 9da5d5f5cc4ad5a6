"""Any computer whose processor runs the network: x86 servers, desktops, small boards.

A device of this type in the inventory::

    platform: cpu
    target: {kind: llvm, mtriple: x86_64-linux-gnu, mcpu: skylake-avx512}
    cores: [1]
"""

from __future__ import annotations

import platform
from typing import Any

from device_agents.agent import host_facts, host_state, power
from device_agents.agent.host_state import gather


def present(root: str) -> bool:
    """Whether this is a processor that no other module knows better."""
    return not platform.machine().startswith(("arm", "aarch64"))


def describe(root: str) -> dict[str, Any]:
    """Processor, memory and system."""
    return gather(host_facts.READERS, root)


def state(root: str) -> dict[str, Any]:
    """Governor, clocks, heat, load, throttling, power."""
    return gather(dict(host_state.READERS, power_w=power.ina_rails_w), root)
