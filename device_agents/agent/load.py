"""What a device is put through while it is timed: calls without a pause, calls at a pace, calls with cold caches."""

from __future__ import annotations

import ctypes
import glob
import time
from typing import NamedTuple

#: Bytes that are read to empty caches of unknown size, and at most.
FLUSH_BYTES, FLUSH_BYTES_MAX = 64 << 20, 1 << 30

CACHES = "/sys/devices/system/cpu/cpu*/cache/index*/size"
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Load(NamedTuple):
    """How calls follow each other.

    Attributes:
        rate_hz: calls begin so often, with gaps between them as a camera makes; None for no gaps.
        busy_ns: calls without a pause before each block: they keep the device as warm as lasting work does.
        cold: other data fill the caches before each call.
    """

    rate_hz: float | None = None
    busy_ns: float = 0.0
    cold: bool = False

    @property
    def is_burst(self) -> bool:
        """Whether calls follow each other without anything between them."""
        return self.rate_hz is None and not self.cold


class Gap:
    """What lies between two calls of a load: caches are emptied, then the next tick is waited for.

    Args:
        load: the load.
    """

    def __init__(self, load: Load) -> None:
        self.tick_ns = None if load.rate_hz is None else 1e9 / load.rate_hz
        self._flush = Flush() if load.cold else None
        self._next_ns = 0.0

    def __call__(self) -> None:
        """Return when the next call is to begin; at once where it is late by more than a tick already."""
        if self._flush is not None:
            self._flush()
        if self.tick_ns is None:
            return
        now_ns = time.perf_counter_ns()
        if now_ns < self._next_ns:
            time.sleep((self._next_ns - now_ns) / 1e9)
        elif now_ns > self._next_ns + self.tick_ns:
            self._next_ns = now_ns
        self._next_ns += self.tick_ns


class Flush:
    """Fills the caches with data that nobody needs: twice their size is read, written once to be memory of its own."""

    def __init__(self, pattern: str = CACHES) -> None:
        self._size = flush_bytes(pattern)
        self._memory = (ctypes.c_char * self._size)()
        ctypes.memset(self._memory, 1, self._size)
        self._read = ctypes.CDLL(None).memchr
        self._read.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
        self._read.restype = ctypes.c_void_p

    def __call__(self) -> None:
        """Read all of it: a byte is sought that is not there."""
        self._read(self._memory, 2, self._size)


def flush_bytes(pattern: str = CACHES) -> int:
    """Twice the size of the largest cache, by the files of ``pattern``."""
    sizes = []
    for path in glob.glob(pattern):
        try:
            with open(path) as file:
                text = file.read().strip()
            sizes.append(int(text[:-1]) * UNITS[text[-1]])
        except (OSError, ValueError, KeyError, IndexError):
            continue  # a cache whose size the system does not tell
    return min(FLUSH_BYTES_MAX, 2 * max(sizes)) if sizes else FLUSH_BYTES
