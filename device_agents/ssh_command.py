"""One command on a board: its streams, the conversation that delivers a file to it, and its last words."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import io
import json
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import paramiko

from device_agents import delivery
from device_agents.errors import AgentError, AgentLost, BoardUnfit
from device_agents.ssh_connection import Connection
from device_agents.transport import KEPT_LINES

#: All that a board's shell ever sees, after the name of an interpreter: everything else comes over standard input. It
#: is one line without a quote inside quotes, since the shell may be any.
STARTER = "import json, sys; text, words = json.loads(sys.stdin.buffer.raw.readline()); exec(text, dict(words=words))"

#: Longest silence of a board between two steps of a delivery; its shell and its disk may be slow.
STEP_S = 30.0

#: How long a command may take to end by itself once its input has ended.
END_S = 2.0

#: Bytes that may be on their way without the board's word that they came: more would only wait in queues.
AHEAD_BYTES = 1 << 18

#: Lines of a user's start-up files that are passed over, and the longest of them.
CHATTER_LINES_MAX = 1000
LINE_BYTES_MAX = 1 << 16

DELIVERY = Path(delivery.__file__).read_text(encoding="utf-8")


class ChannelStream(io.RawIOBase):
    """A channel's standard input and output as a raw stream of Python's; closing it ends the command's input.

    Args:
        channel: of a command.
    """

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def readable(self) -> bool:
        """It is."""
        return True

    def writable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Wait for some bytes; none at the end."""
        with _as_os_errors():
            data = self._channel.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:
        """Send some bytes."""
        with _as_os_errors():
            count = self._channel.send(bytes(data))
        if not count:
            raise BrokenPipeError("the command takes no more input")
        return count

    def close(self) -> None:
        """End the command's input."""
        if not self.closed:
            with contextlib.suppress(OSError), _as_os_errors():
                self._channel.shutdown_write()
        super().close()


@contextlib.contextmanager
def _as_os_errors() -> Iterator[None]:
    """Say of a broken connection what a broken pipe says."""
    try:
        yield
    except (EOFError, paramiko.SSHException) as error:
        raise BrokenPipeError(f"the connection broke: {error}") from error


class Command:
    """Python on a board, waiting for what is to be delivered.

    Args:
        connection: to the board.
        python: its interpreter.

    Attributes:
        reader: what it writes.
        writer: what it reads.

    Raises:
        AgentLost: the connection broke.
        Unreachable: the board opens no channel.
    """

    def __init__(self, connection: Connection, python: str) -> None:
        self._connection = connection
        self._python = python
        self._channel = connection.run("exec " + shlex.join([python, "-I", "-S", "-c", STARTER]))
        self._channel.settimeout(STEP_S)
        self.reader = cast(BinaryIO, io.BufferedReader(ChannelStream(self._channel)))
        self.writer = cast(BinaryIO, io.BufferedWriter(ChannelStream(self._channel)))
        self._last_lines: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def deliver(self, folder: str, name: str, data: bytes, then: str) -> None:
        """Bring a file into a folder of the board, unless it is there; see :mod:`device_agents.delivery`.

        Args:
            folder: relative to the login folder.
            name: of the file.
            data: its contents.
            then: ``"put"`` to end, ``"start"`` to go on as the agent.

        Raises:
            AgentError: the file cannot be written there.
            AgentLost: the connection broke, or the command ended.
            BoardUnfit: the board has no Python that can run the agent.
        """
        words = [folder, name, len(data), hashlib.sha256(data).hexdigest(), then]
        self._send(json.dumps([DELIVERY, words]).encode() + b"\n")
        got = 0 if not self._hear()["has"] else len(data)
        for start in range(got, len(data), delivery.CHUNK_BYTES):
            chunk = data[start : start + delivery.CHUNK_BYTES]
            self._send(chunk)
            while start + len(chunk) - got > AHEAD_BYTES:
                got = self._hear()["got"]
        while "done" not in self._hear():
            pass
        if then == "start":
            self._channel.settimeout(None)  # from here on the client has its own deadlines

    def close(self) -> str:
        """End it; the last lines it wrote to its standard error."""
        with contextlib.suppress(OSError), _as_os_errors():
            self._channel.shutdown_write()
            self._channel.status_event.wait(END_S)
            self._channel.close()
        self._listener.join(timeout=1.0)
        return "\n".join(self._last_lines)

    def _send(self, data: bytes) -> None:
        try:
            self.writer.write(data)
            self.writer.flush()
        except OSError:
            pass  # the answer, or its absence, tells why

    def _hear(self) -> dict[str, Any]:
        """The board's next answer, past whatever its start-up files print."""
        chatter: list[str] = []
        for _ in range(CHATTER_LINES_MAX):
            try:
                line = self.reader.readline(LINE_BYTES_MAX)
            except OSError as error:
                raise AgentLost(self._reason(f"{self._connection.hop} is silent for {STEP_S:g} s")) from error
            if not line:
                raise self._ended(chatter)
            before, mark, text = line.partition(delivery.MARK)
            if mark:
                return self._judge(text)
            chatter.append(before.decode(errors="replace").strip())
        raise self._ended(chatter)

    def _judge(self, text: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(text.decode())
            if not isinstance(answer, dict):
                raise ValueError("not an object")
        except ValueError as error:
            raise AgentError(f"{self._connection.hop} gives a garbled answer: {text[:80]!r} ({error})") from error
        if "unfit" in answer:
            raise BoardUnfit(f"{self._connection.hop} cannot run the agent: {answer['unfit']}")
        if "error" in answer:
            raise AgentError(str(answer["error"]))
        return answer

    def _ended(self, chatter: list[str]) -> AgentError | BoardUnfit:
        """What the end of the output means: a broken connection, or an interpreter that cannot be started."""
        self._channel.status_event.wait(END_S)
        status = self._channel.exit_status
        self._listener.join(timeout=1.0)
        words = " | ".join([*chatter, *self._last_lines][-3:]) or "no output"
        if status > 0:
            return BoardUnfit(
                f"{self._connection.hop} cannot run {self._python} (status {status}: {words}): install Python 3.8 or "
                f"newer there, or name its interpreter under ssh.python of the device"
            )
        return AgentLost(self._reason(f"the command on {self._connection.hop} ended ({words})"))

    def _reason(self, otherwise: str) -> str:
        if self._connection.is_alive:
            return otherwise
        return self._connection.failure or f"the connection to {self._connection.hop} broke"

    def _listen(self) -> None:
        """Keep the last lines of standard error; unread, they would fill the channel's window and stop both streams."""
        rest = b""
        while True:
            try:
                data = self._channel.recv_stderr(1 << 15)
            except TimeoutError:
                continue
            *lines, rest = (rest + data).split(b"\n")
            if not data and rest:
                lines = [rest]
            self._last_lines.extend(line.decode(errors="replace").rstrip() for line in lines)
            if not data:
                return
