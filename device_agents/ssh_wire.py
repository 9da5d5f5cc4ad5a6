"""What an SSH connection runs over: TCP, a channel of a jump host, or the streams of a ProxyCommand.

All three are used through :class:`Wire`, which counts what moves: that tells a slow link from a dead one.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess

import paramiko

from device_agents.errors import Unreachable
from device_agents.ssh_config import Hop

#: Longest wait for TCP.
CONNECT_S = 10.0

#: Without an acknowledgement for so long, the system ends a connection: behind the watchdog, which is quicker.
UNACKNOWLEDGED_S = 8.0

#: Unsent bytes beyond this are not taken by the system, so that the count tells what is really on its way.
UNSENT_BYTES_MAX = 1 << 16

#: Linux: a connection with little on its way repeats a lost packet at even, not growing, intervals.
TCP_THIN_LINEAR_TIMEOUTS = 16


#: A socket, or a channel that is used like one.
Stream = socket.socket | paramiko.Channel


class Wire:
    """A stream that counts what moves over it.

    Args:
        stream: what carries the bytes.
        helper: process at its other end, ended with it.

    Attributes:
        sent_bytes: taken by the stream so far.
        received_bytes: come from the other side so far.
    """

    def __init__(self, stream: Stream, helper: subprocess.Popen[bytes] | None = None) -> None:
        self._stream = stream
        self._helper = helper
        self._closed = False  # asked for by this name
        self.sent_bytes = 0
        self.received_bytes = 0

    def send(self, data: bytes) -> int:
        """As of a socket."""
        count = self._stream.send(data)
        self.sent_bytes += count
        return count

    def recv(self, size: int) -> bytes:
        """As of a socket."""
        data = self._stream.recv(size)
        self.received_bytes += len(data)
        return data

    def settimeout(self, timeout: float | None) -> None:
        """As of a socket."""
        self._stream.settimeout(timeout)

    def close(self) -> None:
        """End it in both directions, from any thread; whoever sends or receives is freed."""
        self._closed = True
        if isinstance(self._stream, socket.socket):
            with contextlib.suppress(OSError):
                self._stream.shutdown(socket.SHUT_RDWR)  # wakes those that wait, which closing does not
        with contextlib.suppress(OSError, EOFError):
            self._stream.close()
        helper, self._helper = self._helper, None
        if helper is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(helper.pid, signal.SIGKILL)
            helper.wait()


def open_wire(hop: Hop) -> Wire:
    """The wire to the first host on the way.

    Raises:
        Unreachable: it cannot be reached; the text says why and what to do.
    """
    return _through_command(hop) if hop.proxy_command else Wire(_tcp(hop))


def _tcp(hop: Hop) -> socket.socket:
    try:
        stream = socket.create_connection((hop.name, hop.port), timeout=CONNECT_S)
    except socket.gaierror as error:
        raise Unreachable(
            f"no address is known for {hop.name!r} ({error.strerror}): check the name, or give its IP address"
        ) from error
    except ConnectionRefusedError as error:
        raise Unreachable(
            f"{hop.name} refuses connections on port {hop.port}: start sshd there, or give its port as HOST:PORT"
        ) from error
    except TimeoutError as error:
        raise Unreachable(
            f"{hop.name} does not answer on port {hop.port} within {CONNECT_S:g} s: is it on, and in this network?"
        ) from error
    except OSError as error:
        raise Unreachable(
            f"{hop.name} port {hop.port} cannot be reached: {error.strerror or error}; is it on, and in this network?"
        ) from error
    for level, option, value in _options():
        stream.setsockopt(level, option, value)
    return stream


def _options() -> list[tuple[int, int, int]]:
    """What makes a vanished link felt, as far as this system has it."""
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    named = {"TCP_KEEPIDLE": 2, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 4}
    named |= {"TCP_USER_TIMEOUT": int(UNACKNOWLEDGED_S * 1e3), "TCP_NOTSENT_LOWAT": UNSENT_BYTES_MAX}
    options += [
        (socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in named.items() if hasattr(socket, name)
    ]
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        options.append((socket.IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, 1))
    return options


def _through_command(hop: Hop) -> Wire:
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            words = shlex.split(str(hop.proxy_command))
            helper = subprocess.Popen(
                words[1:] if words[:1] == ["exec"] else words,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a group of its own, ended as a whole
            )
    except (OSError, IndexError, ValueError) as error:
        ours.close()
        raise Unreachable(
            f"the ProxyCommand for {hop.name} cannot be started: {error}; mend it in the SSH configuration"
        ) from error
    return Wire(ours, helper)
