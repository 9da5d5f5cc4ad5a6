"""Agents on boards, over SSH: one connection each, one agent process for all of a connection's life.

A board's shell sees fixed words and the quoted name of an interpreter, nothing else; what comes from a board reaches no
shell here. Files arrive under another name, are checked by their SHA-256 and then renamed, so that none is ever torn.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from device_agents import bundle, protocol
from device_agents.errors import AgentError, AgentLost, BoardUnfit
from device_agents.registry import SshWay
from device_agents.ssh_command import Command
from device_agents.ssh_config import Hop, route
from device_agents.ssh_connection import Connection, connect, greet
from device_agents.ssh_keys import HostKey, seen
from device_agents.ssh_login import log_in
from device_agents.ssh_wire import open_wire

__all__ = ["HostKey", "SshConnections", "SshTransport", "hosts_on_the_way", "scan_host_keys"]

#: Logins at the same time: an SSH server drops some where many begin at once.
LOGINS_AT_ONCE = 4


def hosts_on_the_way(address: str, *, config: Path | None = None) -> list[str]:
    """Names of the jump hosts and of the board, in order of travel, as host keys are pinned for them.

    Raises:
        Unreachable: the address or the SSH configuration cannot be used.
    """
    return [hop.known_as for hop in route(address, None, config)]


def scan_host_keys(address: str, identity: str | None = None, *, config: Path | None = None) -> list[HostKey]:
    """Host keys of the jump hosts and of the board, in order of travel, for a user to confirm.

    Jump hosts are logged in to, since there is no other way to the next host; the board is not.

    Args:
        address: ``[user@]host[:port]``; host may be an alias of the SSH configuration.
        identity: private key file to log in with.
        config: the user's SSH configuration; None for ``~/.ssh/config``.

    Raises:
        HostKeyMismatch: known_hosts have another key for one of them.
        LoginRefused: a jump host takes none of the keys.
        Unreachable: one of them cannot be reached.
    """
    *jumps, board = route(address, identity, config)
    found: list[HostKey] = []
    with contextlib.ExitStack() as opened:
        wire = open_wire((*jumps, board)[0])
        for hop, following in zip(jumps, (*jumps, board)[1:], strict=True):
            with greet(hop, wire) as transport:
                found.append(seen(hop, transport.get_remote_server_key()))
                log_in(transport, hop)
            connection = Connection(hop, transport, wire)
            opened.callback(connection.close)
            wire = connection.tunnel(following)
        opened.callback(wire.close)
        with greet(board, wire) as transport:
            opened.callback(transport.close)
            found.append(seen(board, transport.get_remote_server_key()))
    return found


class SshConnections:
    """Connections to jump hosts, one each for all boards behind it; from any thread.

    Args:
        config: the user's SSH configuration; None for ``~/.ssh/config``.
        logins_at_once: limit of logins that are under way at the same time.
    """

    def __init__(self, *, config: Path | None = None, logins_at_once: int = LOGINS_AT_ONCE) -> None:
        self._config = config
        self._logins = threading.BoundedSemaphore(logins_at_once)
        self._lock = threading.Lock()
        self._jumps: dict[tuple[Any, ...], _Jump] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def to(self, way: SshWay) -> Connection:
        """A new connection to a board, through jump hosts that others may use as well.

        Raises:
            HostKeyMismatch: the board or a jump host shows another key than the pinned one.
            LoginRefused: one of them takes none of the keys.
            Unreachable: one of them cannot be reached.
        """
        return self._to(route(way.address, way.identity, self._config), way.host_keys)

    def close(self) -> None:
        """End the connections to jump hosts, and with them what runs through them."""
        with self._lock:
            jumps, self._jumps = list(self._jumps.values()), {}
        for jump in reversed(jumps):
            if jump.connection is not None:
                jump.connection.close()

    def _to(self, hops: tuple[Hop, ...], pinned: Mapping[str, str]) -> Connection:
        *before, hop = hops
        through = self._jump(tuple(before), pinned) if before else None
        wire = through.tunnel(hop) if through else open_wire(hop)
        with self._logins:
            return connect(hop, wire, pinned.get(hop.known_as), through)

    def _jump(self, hops: tuple[Hop, ...], pinned: Mapping[str, str]) -> Connection:
        """The shared connection to the last of ``hops``; who comes while it is made waits for it."""
        key = tuple((hop.place, pinned.get(hop.known_as)) for hop in hops)
        with self._lock:
            jump = self._jumps.setdefault(key, _Jump())
        with jump.lock:
            if jump.connection is None or not jump.connection.is_alive:
                jump.connection = self._to(hops, pinned)
            return jump.connection


class _Jump:
    """A jump host's connection, once it is made."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.connection: Connection | None = None


class SshTransport:
    """An agent on a board.

    Args:
        way: to the board.
        connections: what boards behind the same jump host share; None for connections of its own.
    """

    def __init__(self, way: SshWay, *, connections: SshConnections | None = None) -> None:
        self._way = way
        self._own = None if connections else SshConnections()
        self._connections = connections or self._own or SshConnections()
        self._connection: Connection | None = None
        self._agent: Command | None = None

    def start(self) -> tuple[BinaryIO, BinaryIO]:
        """Start the agent; see :meth:`Transport.start`.

        Raises:
            AgentLost: the connection broke.
            BoardUnfit: the board has no Python that can run the agent.
            HostKeyMismatch: the board or a jump host shows another key than the pinned one.
            LoginRefused: one of them takes none of the keys.
            Unreachable: one of them cannot be reached.
        """
        try:
            self._connection = self._connections.to(self._way)
            self._agent = Command(self._connection, self._way.python)
            self._deliver(self._agent, bundle.name(), bundle.contents(), "start")
        except BaseException:
            self.close()
            raise
        return self._agent.reader, self._agent.writer

    def put(self, name: str, path: Path) -> None:
        """Send a file into the agent's folder; see :meth:`Transport.put`.

        Raises:
            AgentError: it cannot be written there.
            AgentLost: the connection broke.
        """
        protocol.check_name(name)
        if self._connection is None:
            raise AgentLost(f"{name} cannot be sent: the connection is closed; connect again")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise AgentLost(f"{name} cannot be read: {error}") from error
        with contextlib.closing(Command(self._connection, self._way.python)) as command:
            self._deliver(command, name, data, "put")

    def close(self) -> str:
        """End the agent; see :meth:`Transport.close`."""
        connection, self._connection = self._connection, None
        agent, self._agent = self._agent, None
        last_words = agent.close() if agent else ""
        if connection is not None:
            last_words = "\n".join(filter(None, (connection.failure, last_words)))
            connection.close()
        if self._own is not None:
            self._own.close()
        return last_words

    def _deliver(self, command: Command, name: str, data: bytes, then: str) -> None:
        try:
            command.deliver(self._way.folder, name, data, then)
        except (AgentError, BoardUnfit) as error:
            if type(error) is AgentError:
                raise AgentError(
                    f"{name} cannot be written to {self._way.folder} on {self._way.address}: {error}; free some space "
                    f"there or choose another folder"
                ) from error
            raise
