"""Reading lines and byte counts from a pipe, with time limits."""

from __future__ import annotations

import os
import select
import time


class Inbox:
    """Buffered reading end of a pipe that never waits longer than it is told.

    Args:
        descriptor: where to read.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = bytearray()

    def line(self, timeout_s: float) -> bytes:
        """The next line without its newline.

        Raises:
            TimeoutError: it is not complete in time; what came of it is kept for the next call.
            EOFError: the pipe ended.
        """
        deadline = time.monotonic() + timeout_s
        searched = 0
        while True:
            end = self._buffer.find(b"\n", searched)
            if end >= 0:
                return self._take(end + 1)[:-1]
            searched = len(self._buffer)
            self._fill(deadline)

    def exactly(self, count: int, timeout_s: float) -> bytes:
        """The next ``count`` bytes.

        Raises:
            TimeoutError: they do not come in time.
            EOFError: the pipe ended.
        """
        deadline = time.monotonic() + timeout_s
        while len(self._buffer) < count:
            self._fill(deadline)
        return self._take(count)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _fill(self, deadline: float) -> None:
        ready, _, _ = select.select([self._descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError("nothing came in time")
        chunk = os.read(self._descriptor, 1 << 18)
        if not chunk:
            raise EOFError("the pipe ended")
        self._buffer += chunk
