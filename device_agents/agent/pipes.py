"""Reading lines and byte counts from a pipe, with limits of time and size."""

from __future__ import annotations

import os
import select
import time

from device_agents.protocol import LINE_BYTES_MAX, BadRequest


class LineTooLong(BadRequest):
    """A line that does not end where it must; what follows of it is passed over."""


class Inbox:
    """Buffered reading end of a pipe that never waits longer, and never keeps more, than it is told.

    Args:
        descriptor: where to read.
        line_bytes_max: longest line, without its newline.

    Attributes:
        heard: monotonic time at which something last came.
    """

    def __init__(self, descriptor: int, line_bytes_max: int = LINE_BYTES_MAX) -> None:
        self.heard = time.monotonic()
        self._descriptor = descriptor
        self._line_bytes_max = line_bytes_max
        self._buffer = bytearray()
        self._searched = 0
        self._is_passing_over = False

    def line(self, timeout_s: float) -> bytes:
        """The next line without its newline.

        Raises:
            TimeoutError: it is not complete in time; what came of it is kept for the next call.
            LineTooLong: it is longer than allowed; told once a line.
            EOFError: the pipe ended.
        """
        deadline = time.monotonic() + timeout_s
        is_late = False
        while True:
            line = self._next()
            if line is not None:
                return line
            if is_late:  # a line that comes for ever must not hold the caller for ever
                raise TimeoutError("the line did not end in time")
            self._fill(deadline)
            is_late = time.monotonic() > deadline

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

    def _next(self) -> bytes | None:
        """The first line of the buffer, if it is whole."""
        end = self._buffer.find(b"\n", self._searched)
        is_whole, was_told = end >= 0, self._is_passing_over
        size = end if is_whole else len(self._buffer)
        if was_told or size > self._line_bytes_max:
            self._drop(size + is_whole)
            self._is_passing_over = not is_whole
            if not was_told:
                raise LineTooLong(f"a line of more than {self._line_bytes_max} bytes")
            return self._next() if is_whole else None
        if is_whole:
            return self._take(size + 1)[:-1]
        self._searched = size
        return None

    def _take(self, count: int) -> bytes:
        with memoryview(self._buffer) as view:  # a slice of the buffer itself would be one more copy
            taken = bytes(view[:count])
        self._drop(count)
        return taken

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self._searched = 0

    def _fill(self, deadline: float) -> None:
        ready, _, _ = select.select([self._descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError("nothing came in time")
        chunk = os.read(self._descriptor, 1 << 18)
        if not chunk:
            raise EOFError("the pipe ended")
        self.heard = time.monotonic()
        self._buffer += chunk
