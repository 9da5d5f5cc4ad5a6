"""A Dask scheduler and workers of this machine, started as anyone would: one process each."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class LocalCluster:
    """A scheduler and what was started for it.

    Attributes:
        address: of the scheduler.
        workers: processes of the workers.
    """

    address: str
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add_worker(self) -> subprocess.Popen[bytes]:
        """One more worker, of one thread; killed, it stays dead."""
        self.workers.append(_start("dask_worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard"))
        return self.workers[-1]


@contextlib.contextmanager
def local_cluster(workers: int) -> Iterator[LocalCluster]:
    """A cluster on the loopback, ended with the context."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scheduler = _start("dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    cluster = LocalCluster(f"tcp://127.0.0.1:{port}")
    try:
        for _ in range(workers):
            cluster.add_worker()
        yield cluster
    finally:
        for process in (*cluster.workers, scheduler):
            process.terminate()
        for process in (*cluster.workers, scheduler):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def _start(program: str, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"distributed.cli.{program}", *arguments]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
