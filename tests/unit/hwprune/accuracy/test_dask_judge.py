"""A search on a Dask cluster: a real scheduler, two workers, one of them killed in mid-search."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwprune.executors import Alone, Team, open_team
from hwprune.experiments.judging import open_judge
from hwprune.experiments.progress import Silent
from hwprune.experiments.run import search_problem
from hwprune.experiments.workbench import Workbench
from hwprune.search import methods
from hwprune.search.evaluation import SearchContext

pytest.importorskip("distributed", reason="distributed is not installed")

#: Seconds that a worker gets to come up on a busy machine.
START_S = 60.0


@dataclass
class Cluster:
    """Processes of a scheduler and its workers, on the loopback."""

    folder: Path
    port: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{len(self.processes)}.log").open("wb")
        command = [sys.executable, "-m", f"distributed.cli.{program}", *arguments, "--no-dashboard"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder)
        log.close()
        self.processes.append(process)
        return process

    def start_worker(self) -> subprocess.Popen[bytes]:
        where = ("--local-directory", str(self.folder), "--host", "127.0.0.1")
        return self.start("dask_worker", self.address, "--nthreads", "1", "--no-nanny", *where)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        cluster = Cluster(tmp_path, free.getsockname()[1])
    cluster.start("dask_scheduler", "--host", "127.0.0.1", "--port", str(cluster.port))
    yield cluster
    for process in reversed(cluster.processes):
        process.kill()
        process.wait()


def wait_for(team: Team, size: int) -> None:
    deadline = time.monotonic() + START_S
    while team.size < size:
        assert time.monotonic() < deadline, "the workers did not come up"
        time.sleep(0.1)


def searched(bench: Workbench, team: Team, progress: Any = None) -> list[Any]:
    judge = open_judge(bench, team, None, Silent())
    context = SearchContext(
        search_problem(bench, None, None, {}, 2, judge), 20, np.random.default_rng(0), progress=progress
    )
    methods.build("nsga2").run(context)
    return [replace(found, seconds=0.0) for found in context.archive.evaluations]


def test_a_worker_killed_in_mid_search_changes_nothing_and_a_later_one_helps(
    bench: Workbench, cluster: Cluster
) -> None:
    first, _ = cluster.start_worker(), cluster.start_worker()
    expected = searched(bench, Alone())
    with open_team(scheduler=cluster.address) as team:
        wait_for(team, 2)

        def kill_one(progress: Any) -> None:
            if progress.spent == 8:
                first.kill()

        assert searched(bench, team, kill_one) == expected
        assert first.poll() is not None
        assert team.size == 1
        cluster.start_worker()
        wait_for(team, 2)
        assert searched(bench, team) == expected
        kept = [path.parent for path in cluster.folder.rglob("hwprune-*/tensors.safetensors")]
        assert 1 <= len(kept) <= 3  # weights and images were sent once to each worker that had anything to do
    left = [path.parent for path in cluster.folder.rglob("hwprune-*/tensors.safetensors")]
    assert len(left) <= 1  # of the one that was killed
