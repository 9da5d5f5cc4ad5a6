"""NVIDIA GPUs as agents tell of them, and the target that :mod:`hwprune.compilation.cuda` compiles for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: Architectures of Jetsons' chips, of which drivers tell the name alone.
TEGRA_ARCHS = {"tegra210": "sm_53", "tegra186": "sm_62", "tegra194": "sm_72", "tegra234": "sm_87"}


def gpu_target_of(description: Mapping[str, Any]) -> dict[str, str] | None:
    """Target of a device's first GPU; None where it has none, or none whose architecture is known.

    Args:
        description: what its agent said of it.
    """
    for gpu in description.get("gpus") or ():
        capability = re.fullmatch(r"(\d+)\.(\d)", gpu.get("compute_capability", ""))
        known = "sm_" + "".join(capability.groups()) if capability else TEGRA_ARCHS.get(gpu.get("gpu_model", ""))
        if known:
            return {"kind": "cuda", "arch": known}
    return None
