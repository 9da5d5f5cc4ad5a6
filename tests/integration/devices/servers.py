"""SSH servers of the tests' own, on loopback or in network namespaces, and what can go wrong with them.

A server marks the environment of everything that it starts, so that a test can tell what is left running on a board.
"""

from __future__ import annotations

import array
import contextlib
import math
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device_agents.client import AgentClient, SelfTest, TimingRequest
from device_agents.registry import SshWay

#: Where measured processes are pinned, so that two of them are compared on the same core.
CORE = max(os.sched_getaffinity(0))

#: What plain_library.c computes: twice its ten inputs.
INPUT = array.array("f", range(10)).tobytes()
SELF_TEST = SelfTest(INPUT, array.array("f", [2.0 * value for value in range(10)]).tobytes())

MARK = "HWPRUNE_TEST_BOARD"
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or ""

CONFIG = """\
Port {port}
ListenAddress {address}
HostKey {folder}/host_key
PidFile {folder}/sshd.pid
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding yes
SetEnv HOME={folder}/home {mark}={folder}
LogLevel VERBOSE
"""


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    """A new key pair; the private half's path."""
    path.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", path.name, "-f", str(path)], check=True)
    return path


def public_key(path: Path) -> str:
    """Type and base64 of a key pair's public half."""
    return " ".join(path.with_name(f"{path.name}.pub").read_text().split()[:2])


def wait_for(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """What ``condition`` gives, once it holds."""
    give_up = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < give_up, "it did not happen in time"
        time.sleep(0.02)
    return found


def lowest_ms(client: AgentClient, handle: int) -> float:
    """Fastest of some thousand calls of a kernel of plain_library.c, which takes about a third of a millisecond."""
    (result,) = client.measure([TimingRequest(handle, 0, (3000,))], blocks=20, block_ms_min=10.0)
    assert result.error is None
    assert len(result.blocks) == 20
    return min(value for block in result.blocks for value in block.values_ms)


def agree(one: Callable[[], float], other: Callable[[], float], share: float, turns: int = 12) -> bool:
    """Whether the lowest of both come within a share of each other; on a busy machine it takes some turns."""
    lowest = [math.inf, math.inf]
    for _ in range(turns):
        lowest = [min(lowest[0], one()), min(lowest[1], other())]
        if max(lowest) <= (1 + share) * min(lowest):
            return True
    return False


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def children(pid: int) -> set[int]:
    """Processes that ``pid`` has started and that have not ended."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.add(int(entry.parent.name))
    return found


def send(number: signal.Signals, pids: set[int]) -> None:
    """A signal to processes, as far as they are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@dataclass
class Server:
    """One sshd with a host key, a user's key, and a folder that is the home of who logs in.

    Attributes:
        folder: of its own.
        address: where it listens.
        port: where it listens.
        inside: what runs a command where the server is; nothing for this computer itself.
    """

    folder: Path
    address: str = "127.0.0.1"
    port: int = 22
    inside: tuple[str, ...] = ()
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        """The login folder."""
        return self.folder / "home"

    @property
    def agents_folder(self) -> Path:
        """The agent's folder."""
        return self.home / ".cache/hwprune"

    @property
    def user_key(self) -> Path:
        """Private key of a user who may log in."""
        return self.folder / "user_key"

    @property
    def host(self) -> str:
        """As known_hosts name it."""
        return self.address if self.port == 22 else f"[{self.address}]:{self.port}"

    @property
    def host_key(self) -> str:
        """Its key, as it is pinned."""
        return public_key(self.folder / "host_key")

    def prepare(self) -> None:
        """Make keys and configuration."""
        self.home.mkdir(parents=True)
        make_key(self.folder / "host_key")
        make_key(self.user_key)
        shutil.copy(self.folder / "user_key.pub", self.folder / "authorized_keys")
        self.configure()

    def configure(self, *lines: str) -> None:
        """Write the configuration, with further lines first."""
        text = CONFIG.format(port=self.port, address=self.address, folder=self.folder, mark=MARK)
        (self.folder / "sshd_config").write_text("".join(f"{line}\n" for line in lines) + text)

    def start(self) -> None:
        """Start to listen."""
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        (self.folder / "sshd.pid").unlink(missing_ok=True)
        options = ["-D", "-f", str(self.folder / "sshd_config"), "-E", str(self.folder / "sshd.log")]
        self._processes.append(subprocess.Popen([*self.inside, SSHD, *options], stdin=subprocess.DEVNULL))
        wait_for(lambda: (self.folder / "sshd.pid").exists() and self._listener)

    def stop(self) -> None:
        """End it with its connections and all that it started, in whatever state."""
        for pids in (self.connections(), set(self.processes())):
            send(signal.SIGKILL, pids)
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes.clear()

    def restart(self, *lines: str) -> None:
        """End it and start it again with another configuration."""
        self.stop()
        self.configure(*lines)
        self.start()

    def way(self, **changes: Any) -> SshWay:
        """The way to it, with its key pinned."""
        place = self.address if self.port == 22 else f"{self.address}:{self.port}"
        fields = {"address": f"root@{place}", "host_keys": {self.host: self.host_key}, "identity": str(self.user_key)}
        return SshWay(**{**fields, **changes})

    @property
    def _listener(self) -> int:
        return int((self.folder / "sshd.pid").read_text() or 0)

    def connections(self) -> set[int]:
        """Processes of sshd, one or two for each connection."""
        if not self._processes:
            return set()
        found: set[int] = set()
        fresh = children(self._listener)
        while fresh:
            found |= fresh
            fresh = {child for pid in fresh for child in children(pid)} - found - set(self.processes())
        return found

    def processes(self) -> dict[int, str]:
        """What runs on the board, by process number: all that logins have started and that has not ended."""
        mark, found = f"{MARK}={self.folder}\0".encode(), {}
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes() and "\nState:\tZ" not in (entry / "status").read_text():
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def freeze(self) -> None:
        """Stop the processes of all connections; the system goes on to acknowledge what comes."""
        send(signal.SIGSTOP, self.connections())

    def thaw(self) -> None:
        """Let them go on."""
        send(signal.SIGCONT, self.connections())

    def kill(self) -> None:
        """Kill the processes of all connections; what they started is on its own."""
        send(signal.SIGKILL, self.connections())

    def logged(self, words: str) -> int:
        """How often the log has these words."""
        return (self.folder / "sshd.log").read_text().count(words)


def run(*words: str, check: bool = True) -> str:
    """Output of a command."""
    return subprocess.run(words, check=check, capture_output=True, text=True).stdout


class Network:
    """Hosts in network namespaces, each with an sshd; links are cables of the kernel's own, in 10.231.0.0/16."""

    #: Names are of this process, so that two test runs at once do not meet; the second byte's range is theirs alone.
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers: list[Server] = []
        self._names: list[str] = []
        # Without it, what is for a board whose link is gone would leave by the default route.
        run("ip", "route", "replace", "unreachable", "10.231.0.0/16", "metric", "4000000")

    def host(self, name: str, behind: Server | None = None) -> Server:
        """A host with a running sshd, reached from this computer, or from ``behind`` only."""
        number = self._free_number()
        space = f"hw{os.getpid()}{name}"
        near = ("ip", "-n", behind.inside[-1]) if behind else ("ip",)
        run("ip", "netns", "add", space)
        self._names.append(space)
        run(*near, "link", "add", f"hwt{number}", "type", "veth", "peer", "name", "eth0", "netns", space)
        run(*near, "addr", "add", f"10.231.{number}.1/30", "dev", f"hwt{number}")
        run(*near, "link", "set", f"hwt{number}", "up")
        run("ip", "-n", space, "addr", "add", f"10.231.{number}.2/30", "dev", "eth0")
        run("ip", "-n", space, "link", "set", "lo", "up")
        run("ip", "-n", space, "link", "set", "eth0", "up")
        server = Server(self._folder / name, f"10.231.{number}.2", 22, ("ip", "netns", "exec", space))
        self._servers.append(server)
        server.prepare()
        server.start()
        return server

    def link(self, server: Server, state: str) -> None:
        """Set the board's end of its link ``"up"`` or ``"down"``."""
        run("ip", "-n", server.inside[-1], "link", "set", "eth0", state)

    def lose(self, server: Server, percent: int) -> None:
        """From now on drop so many percent of the packets that come to the board."""
        rules = "table ip loss\ndelete table ip loss\n"
        if percent:
            rule = f"numgen random mod 100 < {percent} drop"
            rules += f"table ip loss {{\nchain in {{\ntype filter hook input priority 0;\n{rule}\n}}\n}}\n"
        subprocess.run([*server.inside, "nft", "-f", "-"], input=rules, text=True, check=True)

    def slow_down(self, server: Server, kbit_s: int) -> None:
        """Limit what comes to the board, as a slow radio link does."""
        outside = f"hwt{server.address.split('.')[2]}"
        run(
            "tc",
            "qdisc",
            "add",
            "dev",
            outside,
            "root",
            "tbf",
            "rate",
            f"{kbit_s}kbit",
            "burst",
            "32kbit",
            "latency",
            "400ms",
        )

    def close(self) -> None:
        """End the servers, and remove the namespaces with their links."""
        for server in self._servers:
            server.stop()
        for name in self._names:
            send(signal.SIGKILL, {int(word) for word in run("ip", "netns", "pids", name, check=False).split()})
            run("ip", "netns", "del", name, check=False)

    def _free_number(self) -> int:
        taken = run("ip", "-4", "-o", "addr") + "".join(
            run("ip", "-n", name, "-4", "-o", "addr") for name in self._names
        )
        return next(number for number in range(100, 200) if f"10.231.{number}." not in taken)


@contextlib.contextmanager
def loopback_server(folder: Path) -> Iterator[Server]:
    """A running sshd on a free port of loopback."""
    server = Server(folder, port=free_port())
    server.prepare()
    server.start()
    try:
        yield server
    finally:
        server.stop()
