"""A process's most memory from what its network plans: what the runner takes, and how much of the plan is touched.

Planned memory (packed weights and arena) is exact arithmetic; the high-water mark of a process adds the interpreter,
the library's code and the loader's habits, which are the device's own. Networks that were measured there tell them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latency_models.errors import KernelTableError
from latency_models.features import FloatArray

#: Belief about the share of planned bytes that a process touches, and about the noise of a high-water mark.
_SHARE, _SHARE_STD = 1.0, 0.3
_NOISE_BYTES = 256 * 1024.0


@dataclass(frozen=True)
class ProcessMemory:
    """Fitted on measured processes of one device.

    Attributes:
        base_bytes: of a process whose network plans nothing.
        share: bytes that come on top for each planned one.
        half_width_bytes: what 90 % of the measured processes are off by at most.
    """

    base_bytes: float
    share: float
    half_width_bytes: float

    def predict(self, planned_bytes: npt.ArrayLike) -> FloatArray:
        """High-water mark of processes in bytes, of any shape."""
        return np.asarray(self.base_bytes + self.share * np.asarray(planned_bytes, float), dtype=np.float64)


def fit_process_memory(planned_bytes: npt.ArrayLike, peak_bytes: npt.ArrayLike) -> ProcessMemory:
    """Fit on ``(n,)`` planned bytes and high-water marks; one process tells the base, several the share, too.

    Raises:
        KernelTableError: there are none.
    """
    planned, peak = np.asarray(planned_bytes, float), np.asarray(peak_bytes, float)
    if not len(planned):
        raise KernelTableError("no process was measured: measure a network on the device first")
    centred = planned - planned.mean()
    certainty = (_NOISE_BYTES / _SHARE_STD) ** 2
    share = float((centred @ (peak - peak.mean()) + certainty * _SHARE) / (centred @ centred + certainty))
    base = float(np.median(peak - share * planned))
    off = np.sort(np.abs(peak - base - share * planned))
    rank = min(len(off), int(np.ceil(0.9 * (len(off) + 1)))) - 1
    return ProcessMemory(base, share, max(float(off[rank]), _NOISE_BYTES))
