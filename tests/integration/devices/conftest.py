"""Real counterparts: SSH servers on loopback and in network namespaces, and libraries to measure on them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import board_base
import boards
import pytest
from boards import MachineBoard, UserBoard
from servers import SSHD, Network, Server, loopback_server

from device_agents.client import AgentClient
from device_agents.ssh import SshConnections, SshTransport

SOURCE = Path(__file__).parents[2] / "unit/device_agents/plain_library.c"

Build = Callable[..., tuple[Path, str]]
StartServer = Callable[[str], Server]
Login = Callable[..., AgentClient]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Function that compiles plain_library.c with the given macros; path and digest."""
    folder = tmp_path_factory.mktemp("libraries")

    def build(*macros: str) -> tuple[Path, str]:
        path = folder / ("_".join(macros) + ".so")
        if not path.exists():
            flags = [f"-D{macro}" for macro in macros]
            subprocess.run(["cc", "-O1", "-shared", "-fPIC", *flags, str(SOURCE), "-o", str(path)], check=True)
        return path, hashlib.sha256(path.read_bytes()).hexdigest()

    return build


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder ``.ssh`` of a user without any: who runs the tests has no part in them."""
    folder = tmp_path / "user/.ssh"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return folder


@pytest.fixture
def start_server(tmp_path: Path, user: Path) -> Iterator[StartServer]:
    """Function that starts an sshd of a name on a free port of loopback."""
    if os.geteuid() != 0 or not SSHD or not shutil.which("ssh-keygen"):
        pytest.skip("needs root and openssh-server: make test-devices installs it")
    with contextlib.ExitStack() as running:
        yield lambda name: running.enter_context(loopback_server(tmp_path / name))


@pytest.fixture
def sshd(start_server: StartServer) -> Server:
    """A running sshd on loopback."""
    return start_server("board")


@pytest.fixture
def namespaces(tmp_path: Path, start_server: StartServer) -> Iterator[Network]:
    """Hosts in network namespaces."""
    if not all(shutil.which(tool) for tool in ("ip", "tc", "nft")):
        pytest.skip("needs iproute2 and nftables: make test-devices installs them")
    if subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system makes no network namespaces")
    network = Network(tmp_path)
    with contextlib.closing(network):
        yield network


@pytest.fixture
def log_in() -> Iterator[Login]:
    """Function that begins a conversation with the agent of a server, ended with the test."""
    with contextlib.ExitStack() as opened:

        def log_in(server: Server, connections: SshConnections | None = None, **changes: object) -> AgentClient:
            way = server.way(**changes)
            return opened.enter_context(AgentClient(SshTransport(way, connections=connections)))

        yield log_in


@pytest.fixture(scope="session")
def board_files() -> board_base.Base:
    """What emulated boards start from; built by the first run."""
    if reason := boards.missing():
        pytest.skip(reason)
    return board_base.base()


@pytest.fixture
def start_machine(board_files: board_base.Base, tmp_path: Path, user: Path) -> Iterator[Callable[..., MachineBoard]]:
    """Function that boots a whole arm64 machine; given a shift, one whose time is counted in instructions."""
    with contextlib.ExitStack() as running:

        def start(shift: int | None = None) -> MachineBoard:
            board = MachineBoard(board_files, tmp_path / f"machine{shift}", shift)
            running.callback(board.cut_power)
            board.power_on()
            return board

        yield start


@pytest.fixture
def start_user_board(board_files: board_base.Base, tmp_path: Path, user: Path) -> Iterator[Callable[[int], UserBoard]]:
    """Function that starts an arm64 system in namespaces of this kernel, under a number from 200 to 254."""
    with contextlib.ExitStack() as running:

        def start(number: int) -> UserBoard:
            board = UserBoard(board_files, tmp_path / f"board{number}", number)
            running.callback(board.cut_power)
            board.power_on()
            return board

        yield start


@pytest.fixture(scope="module")
def machine(board_files: board_base.Base, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MachineBoard]:
    """A whole arm64 machine for all tests of a file; each leaves it in working order."""
    board = MachineBoard(board_files, tmp_path_factory.mktemp("machine"))
    board.power_on()
    yield board
    board.cut_power()
