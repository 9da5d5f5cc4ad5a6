"""One guarded SSH connection: host key checked, logged in with a key, and closed when the other side falls silent.

paramiko's own keepalive only sends. Here a watchdog demands replies, and closes the connection when none comes: that
frees every thread that waits for it, whatever it waits for.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

import paramiko
from paramiko.ssh_exception import IncompatiblePeer

from device_agents.errors import AgentLost, Unreachable
from device_agents.ssh_channels import Transport
from device_agents.ssh_config import Hop
from device_agents.ssh_keys import authorities, check_pinned, key_type, known_keys
from device_agents.ssh_login import LOGIN_S, log_in
from device_agents.ssh_wire import Wire

#: Longest wait for the other side's first line, for the exchange of keys, and for the opening of a channel.
BANNER_S = 10.0
HANDSHAKE_S = 15.0
CHANNEL_S = 15.0

#: How often the watchdog asks, and the longest silence. It outlasts a link that is down for 3 s, with the time until
#: what was lost is sent again, and frees the caller of a frozen board after 5 s.
ASK_EVERY_S = 0.5
SILENCE_S = 5.0

#: So many bytes that leave are a sign of life too: on a slow link the replies wait behind what is being sent.
SENT_BYTES_MIN = 1 << 15

# Else a host that hangs up before its first line leaves a traceback on standard error.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


class Connection:
    """A connection that is logged in, under the eyes of a watchdog.

    Args:
        hop: the host at its other end.
        transport: logged in.
        wire: what it runs over.
        through: the jump host's connection that carries it, if one does.

    Attributes:
        hop: the host at its other end.
    """

    def __init__(self, hop: Hop, transport: paramiko.Transport, wire: Wire, through: Connection | None = None) -> None:
        self.hop = hop
        self._through = through
        self._failure: str | None = None
        self._transport = transport
        self._wire = wire
        self._closed = threading.Event()
        for work in (self._ask, self._watch):
            threading.Thread(target=work, daemon=True, name=f"ssh {hop.known_as}").start()

    @property
    def failure(self) -> str | None:
        """Why a watchdog closed it, its own or that of a jump host on the way; None if none did."""
        return self._failure or (self._through.failure if self._through else None)

    @property
    def is_alive(self) -> bool:
        """Whether it can still be used, as far as is known."""
        return bool(self._transport.is_active()) and not self._closed.is_set()

    def run(self, command: str) -> paramiko.Channel:
        """Start a command; its channel.

        Raises:
            AgentLost: the connection broke.
            Unreachable: the host opens no channel.
        """
        with self._telling(f"start a command on {self.hop}"):
            channel = self._transport.open_session(timeout=CHANNEL_S)
            late = threading.Timer(CHANNEL_S, channel.close)
            late.daemon = True
            late.start()
            try:
                channel.exec_command(command)
            finally:
                late.cancel()
            return channel

    def tunnel(self, hop: Hop) -> Wire:
        """A wire through this host to the next one.

        Raises:
            AgentLost: the connection broke.
            Unreachable: this host cannot reach the next one, or may not.
        """
        with self._telling(f"reach {hop.name} port {hop.port} through {self.hop}"):
            return Wire(
                self._transport.open_channel("direct-tcpip", (hop.name, hop.port), ("127.0.0.1", 0), timeout=CHANNEL_S)
            )

    def close(self) -> None:
        """End it; threads that wait for it are freed."""
        self._closed.set()
        self._wire.close()  # first: it frees a sender that holds the lock which closing in order would wait for
        self._transport.close()

    @contextlib.contextmanager
    def _telling(self, aim: str) -> Iterator[None]:
        """Turn what fails into an error that names the aim."""
        try:
            yield
        except paramiko.ChannelException as error:
            raise Unreachable(f"cannot {aim}: {error.text}; is it allowed there, and the address right?") from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            if self.is_alive:
                raise Unreachable(f"cannot {aim}: {error}; try again, or look into sshd's log there") from error
            raise AgentLost(f"cannot {aim}: {self.failure or 'the connection broke'}; connect again") from error

    def _ask(self) -> None:
        """Ask for a reply again and again; any will do, a refusal too."""
        while self.is_alive:
            with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                self._transport.global_request("keepalive@openssh.com", wait=True)
            self._closed.wait(ASK_EVERY_S)

    def _watch(self) -> None:
        """Close the connection once nothing comes from the other side, though it is asked all the time."""
        received_bytes, sent_bytes, moved, looked = 0, 0, time.monotonic(), time.monotonic()
        while not self._closed.wait(ASK_EVERY_S / 2):
            if not self._transport.is_active():
                return self.close()
            if time.monotonic() - looked > 2 * ASK_EVERY_S:
                moved = time.monotonic()  # this program itself was held: what came meanwhile is still to be read
            looked = time.monotonic()
            if self._wire.received_bytes > received_bytes or self._wire.sent_bytes >= sent_bytes + SENT_BYTES_MIN:
                received_bytes, sent_bytes = self._wire.received_bytes, self._wire.sent_bytes
                moved = time.monotonic()
            if time.monotonic() - moved > SILENCE_S:
                self._failure = f"{self.hop} gave no sign of life for {SILENCE_S:g} s"
                return self.close()


def connect(hop: Hop, wire: Wire, pinned: str | None, through: Connection | None = None) -> Connection:
    """Check who is there, and log in.

    Args:
        hop: who should be there.
        wire: to it; closed if anything fails.
        pinned: its key; None ends with an error that says so.
        through: the jump host's connection that carries the wire, if one does.

    Raises:
        HostKeyMismatch: somebody else is there.
        LoginRefused: it takes none of the keys.
        Unreachable: it does not answer as an SSH server does, or not in time.
    """
    with _shake_hands(hop, wire, pinned and key_type(pinned)) as transport:
        check_pinned(hop, pinned, transport.get_remote_server_key())
        log_in(transport, hop)
    return Connection(hop, transport, wire, through)


def greet(hop: Hop, wire: Wire) -> contextlib.AbstractContextManager[paramiko.Transport]:
    """A transport to a host whose key is not pinned yet, asked for one that known_hosts can tell something of.

    Raises:
        Unreachable: nobody answers as an SSH server does, or not in time.
    """
    return _shake_hands(hop, wire, next(iter(known_keys(hop)), None), certificates=bool(authorities(hop)))


@contextlib.contextmanager
def _shake_hands(
    hop: Hop, wire: Wire, preferred: str | None, certificates: bool = False
) -> Iterator[paramiko.Transport]:
    """A transport that has exchanged keys; it stays open unless the context ends with an error.

    Args:
        hop: who should be there.
        wire: to it.
        preferred: type of host key to ask for first.
        certificates: ask for keys with a certificate before plain ones.

    Raises:
        Unreachable: nobody answers as an SSH server does, or not in time.
    """
    transport = Transport(wire)  # a socket's methods are all that it uses
    try:
        transport.banner_timeout = BANNER_S
        transport.handshake_timeout = HANDSHAKE_S
        transport.auth_timeout = LOGIN_S
        transport.channel_timeout = CHANNEL_S
        _prefer(transport, preferred, certificates)
        began = time.monotonic()
        try:
            transport.start_client(timeout=BANNER_S + HANDSHAKE_S)
            transport.get_remote_server_key()
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise Unreachable(_handshake_failure(hop, error, time.monotonic() - began)) from error
        yield transport
    except BaseException:
        transport.packetizer.complete_handshake()  # stops its timer, which would hold the program's end
        wire.close()
        transport.close()
        raise


def _prefer(transport: paramiko.Transport, wanted: str | None, certificates: bool) -> None:
    """Ask for a host key of the pinned type first: a host with several would else seem to have changed."""
    options = transport.get_security_options()
    types = ("rsa-sha2-512", "rsa-sha2-256") if wanted == "ssh-rsa" else (wanted,)
    plain = sorted(options.key_types, key=lambda name: name not in types)
    options.key_types = [*(f"{name}-cert-v01@openssh.com" for name in plain if certificates), *plain]


def _handshake_failure(hop: Hop, error: Exception, elapsed_s: float) -> str:
    where = f"{hop.name} port {hop.port}"
    if isinstance(error, IncompatiblePeer):
        return f"{where} has no algorithm in common with us ({error}): bring its SSH server up to date"
    if elapsed_s >= BANNER_S - 1.0:
        return f"{where} takes connections and does not answer as an SSH server within {elapsed_s:.0f} s: is it frozen?"
    return f"{where} hangs up before a login ({error or 'end of stream'}): is it an SSH server, and not overloaded?"
