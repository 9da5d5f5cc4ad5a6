"""Boards for benchmarks of many devices: SSH servers in network namespaces of this computer, as the tests have them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests/integration/devices"))
from servers import MARK, SSHD, Network, Server, run, send, wait_for

__all__ = ["MARK", "Network", "Server", "missing", "open_boards", "run", "send", "wait_for"]

NEEDS = ("ip", "ssh-keygen", "unshare")


def missing() -> str:
    """Why there can be no such boards here; "" where there can."""
    if os.geteuid() != 0:
        return "boards in network namespaces need root"
    if not SSHD or not all(map(shutil.which, NEEDS)):
        return "boards in network namespaces need iproute2 and openssh-server"
    if subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True).returncode:
        return "this system makes no network namespaces"
    return ""


@contextlib.contextmanager
def open_boards(names: Sequence[str]) -> Iterator[dict[str, Server]]:
    """Boards by their names, each with an empty home folder; gone with the context."""
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Network(Path(folder))) as network:
        yield {name: network.host(name) for name in names}
