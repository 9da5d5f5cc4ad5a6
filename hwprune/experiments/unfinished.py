"""What a profile has timed so far, in a file: one that is interrupted goes on with it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwprune.experiments.provenance import write_text
from hwprune.records import same_clock
from latency_models.kernel_table import KernelTime

#: An interrupted profile that began earlier is made afresh.
KEPT_S = 24 * 3600.0


class UnfinishedProfile:
    """Times of the calls of networks, by their widths.

    Args:
        path: the file; None keeps everything in memory.

    Attributes:
        started_s: when the profile began, in seconds since 1970.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.started_s = time.time()
        self._rows: list[dict[str, Any]] = []
        if path is not None and not self._read(path):
            self._write()

    @property
    def networks(self) -> int:
        """Networks that were timed."""
        return len(self._rows)

    @property
    def age_s(self) -> float:
        """Seconds since the profile began."""
        return max(0.0, time.time() - self.started_s)

    def find(self, widths: Sequence[int], reference_ms: float | None) -> list[KernelTime] | None:
        """Times of a network's calls; None where it was not timed at this clock.

        Args:
            widths: of the network.
            reference_ms: level of the reference kernel that the device's numbers are given at.
        """
        for row in self._rows:
            if row["widths"] == list(widths) and same_clock(row["reference_ms"], reference_ms):
                return [KernelTime(*pair) for pair in row["times_ms"]]
        return None

    def add(self, widths: Sequence[int], reference_ms: float | None, times: Sequence[KernelTime]) -> None:
        """Record a network; it is in the file when this returns."""
        pairs = [[each.latency_ms, each.spread_ms] for each in times]
        self._rows.append({"widths": list(map(int, widths)), "reference_ms": reference_ms, "times_ms": pairs})
        self._write()

    def remove(self) -> None:
        """The profile is complete: forget it."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        if self._path is not None:
            write_text(self._path, json.dumps({"started_s": self.started_s, "networks": self._rows}))

    def _read(self, path: Path) -> bool:
        """Whether there is a profile to go on with."""
        try:
            found = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):  # none, or a damaged one
            return False
        if not 0 <= time.time() - found["started_s"] <= KEPT_S:
            return False
        self.started_s, self._rows = found["started_s"], found["networks"]
        return True
