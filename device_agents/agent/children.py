"""The agent's end of its child processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any, Sequence

from device_agents import protocol
from device_agents.agent.pipes import Inbox

#: Starts a child without ``runpy``, which would cost every load another 10 ms.
START = "import sys; sys.path.insert(0, sys.argv[1]); from device_agents.agent import child; child.main()"

#: Check for the size of what may stand behind a line.
PAYLOAD_BYTES = protocol.integer(0, 2**31)

#: Children that have not been ended; the agent ends them with itself.
running: set[subprocess.Popen[bytes]] = set()


class ChildFailed(Exception):  # noqa: N818
    """A child that crashed, hung or reported an error; the text says which."""


class Child:
    """A process that holds one library.

    Start it from the main thread: the system ends a child with the thread that started it.

    Args:
        modules: where the shipped modules lie.

    Attributes:
        failure: why it can no longer be used, or None.
    """

    def __init__(self, modules: str) -> None:
        self._modules = modules
        self._opening: dict[str, Any] = {}
        self._start()

    def _start(self) -> None:
        command = [sys.executable, "-I", "-S", "-c", START, self._modules]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._inbox = Inbox(self._stdout.fileno())
        running.add(self._process)
        self.failure: str | None = None

    def open(self, path: str, cores: Sequence[int], timeout_s: float) -> dict[str, Any]:
        """Open the library at ``path`` in the process, pinned to ``cores`` if there are any.

        Returns:
            The library's ``description``, ``open_ms`` and ``peak_bytes``.

        Raises:
            ChildFailed: it cannot be opened or pinned.
        """
        self._opening = {"do": "open", "path": path, "cores": list(cores)}
        return self.ask(self._opening, timeout_s)[0]

    def restart(self, timeout_s: float) -> None:
        """Open the same library in a new process, after a failure.

        Raises:
            ChildFailed: the library cannot be opened again.
        """
        self.end()
        self._start()
        self.ask(self._opening, timeout_s)

    def tell(self, message: dict[str, Any], payload: bytes = b"") -> None:
        """Send one request.

        Raises:
            ChildFailed: the child has ended.
        """
        if self.failure is not None:
            raise ChildFailed(self.failure)
        if payload:
            message = dict(message, payload_bytes=len(payload))
        try:
            protocol.write_all(self._stdin, protocol.encode(message) + payload)
        except BrokenPipeError as error:
            raise self._ended() from error

    def hear(self, timeout_s: float) -> tuple[dict[str, Any], bytes]:
        """The next line of an answer, and the bytes behind it.

        Raises:
            ChildFailed: the child crashed, reported an error, or was silent for ``timeout_s`` and was ended.
        """
        try:
            message = protocol.decode(self._inbox.line(timeout_s))
            payload = self._inbox.exactly(PAYLOAD_BYTES(message.get("payload_bytes", 0)), timeout_s)
        except EOFError as error:
            raise self._ended() from error
        except TimeoutError as error:
            raise self._given_up(f"did not answer within {timeout_s:g} s") from error
        except protocol.BadRequest as error:
            raise self._given_up(f"wrote into the agent's wire ({error})") from error
        if "error" in message and "job" not in message:
            raise ChildFailed(message["error"])
        return message, payload

    def ask(self, message: dict[str, Any], timeout_s: float, payload: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """Send one request and hear its answer."""
        self.tell(message, payload)
        return self.hear(timeout_s)

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._stdin.close()
        self._stdout.close()
        running.discard(self._process)
        self.failure = self.failure or "its process was ended"

    def _ended(self) -> ChildFailed:
        """The failure of a process that ended by itself."""
        try:
            status = self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            self.failure = "its process closed its output"
        else:
            self.failure = f"its process {how_it_ended(status)}"
        self.end()
        return ChildFailed(self.failure)

    def _given_up(self, what: str) -> ChildFailed:
        """End a process that is of no use any more."""
        self.end()
        self.failure = f"its process {what} and was ended"
        return ChildFailed(self.failure)


def how_it_ended(status: int) -> str:
    """A process's end in words."""
    if status >= 0:
        return f"ended with status {status}"
    if status == -signal.SIGKILL:
        return "was ended by SIGKILL, as the system does where memory runs out"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:  # one of the real-time signals
        return f"was ended by signal {-status}"


def end_all() -> None:
    """End every child, from any thread."""
    for process in list(running):
        process.kill()
