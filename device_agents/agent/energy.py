"""Meters of energy: counters that only rise, read before and after what is measured.

Sensors that tell power and not energy are no meters: what a short inference took cannot be had from two readings.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from device_agents.agent.host_state import Absent, read_all, read_text

#: RAPL's domains that together are a processor and its memory; the others are parts of these, or the whole computer.
DOMAINS = ("package", "dram")


class Counter(NamedTuple):
    """One rising counter.

    Attributes:
        path: its file below the root, in microjoules.
        span: it starts again from 0 after so many.
    """

    path: str
    span: int


class Meter:
    """The processor's energy counters (RAPL), all together.

    Args:
        root: where ``sys`` lies.

    Attributes:
        missing: why there is no meter, "" where there is one.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._counters: list[Counter] = []
        self.missing = ""
        try:
            self._counters = rapl_counters(root)
            self._read()
        except (Absent, ValueError) as error:
            self.missing = str(error)

    def read(self) -> Any:
        """A reading for :meth:`spent_uj`; None where there is no meter (any more)."""
        if self.missing:
            return None
        try:
            return self._read()
        except (Absent, ValueError) as error:
            self.missing = str(error)
            return None

    def spent_uj(self, before: Any, after: Any) -> int | None:
        """Microjoules between two readings that are at most one turn of the counters apart; None without a meter."""
        if before is None or after is None:
            return None
        spent = [(last - first) % counter.span for first, last, counter in zip(before, after, self._counters)]
        return int(sum(spent))

    def _read(self) -> list[int]:
        return [int(read_text(self._root, counter.path)) for counter in self._counters]


def rapl_counters(root: str) -> list[Counter]:
    """Counters of all processors and their memories.

    Raises:
        Absent: the processor has none, or they are for root only.
    """
    counters = []
    # Every zone lies flat in this folder; those of "intel-rapl-mmio" are the same once more.
    for path, name in read_all(root, "sys/class/powercap/intel-rapl:*/name").items():
        if name.split("-")[0] in DOMAINS:
            folder = path[: -len("name")]
            counters.append(Counter(folder + "energy_uj", int(read_text(root, folder + "max_energy_range_uj")) + 1))
    if not counters:
        raise Absent("no package among the zones of /sys/class/powercap")
    return counters
