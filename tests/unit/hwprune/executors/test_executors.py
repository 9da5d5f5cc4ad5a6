"""Executors: what one process, several and a broken one do with the same calls."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwprune.errors import ConfigError
from hwprune.executors import Alone, Parcel, Processes, open_team, size_of, threads_for


def square(number: int) -> int:
    return number * number


def refuse(number: int) -> int:
    raise ValueError(f"not {number}")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(mark: Path) -> str:
    """Kill the process on the first call, answer on the second."""
    if not mark.exists():
        mark.touch()
        die()
    return "alive"


def threads() -> int:
    import torch  # takes seconds, which every process that is started for these tests would spend

    return torch.get_num_threads()


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    with Processes(2, 1) as team:
        yield team


def test_a_call_alone_is_done_when_it_is_submitted() -> None:
    team = Alone()
    assert team.submit(square, 3).done()
    assert list(team.map(square, range(4))) == [0, 1, 4, 9]
    assert isinstance(team.submit(refuse, 3).exception(), ValueError)
    assert size_of(team) == 1


def test_processes_run_calls_in_order_and_hand_errors_back(processes: Processes) -> None:
    assert list(processes.map(square, range(8))) == [square(number) for number in range(8)]
    with pytest.raises(ValueError, match="not 5"):
        processes.submit(refuse, 5).result()
    assert size_of(processes) == 2


def test_every_process_has_its_own_share_of_the_cores(processes: Processes) -> None:
    assert processes.submit(threads).result() == 1
    cores = len(os.sched_getaffinity(0))
    assert threads_for(1, 1) == 1
    assert threads_for(cores, 8) == 1
    assert threads_for(1, 10 * cores) == cores


def test_a_killed_process_is_replaced_and_its_call_run_again(processes: Processes, tmp_path: Path) -> None:
    others = [processes.submit(square, number) for number in range(6)]
    killed = processes.submit(die_once, tmp_path / "mark")
    assert killed.result() == "alive"
    assert [future.result() for future in others] == [square(number) for number in range(6)]


def test_a_call_that_kills_every_process_is_given_up_and_harms_no_other(processes: Processes) -> None:
    assert isinstance(processes.submit(die).exception(), RuntimeError)
    assert processes.submit(square, 7).result() == 49


def test_a_cancelled_call_is_not_run(processes: Processes, tmp_path: Path) -> None:
    blocking = [processes.submit(time.sleep, 0.3) for _ in range(4)]
    waiting = [processes.submit((tmp_path / str(number)).touch) for number in range(20)]
    assert waiting[-1].cancel()
    for future in (*blocking, *waiting[:-1]):
        future.result()
    assert not (tmp_path / "19").exists()


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(
        "import os, signal, time\n"
        "from hwprune.executors import Processes\n"
        "if __name__ == '__main__':\n"
        "    team = Processes(1, 1)\n"
        "    print(team.submit(os.getpid).result(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()


def test_a_parcel_lies_where_it_was_made() -> None:
    assert Parcel("key", Path("here")).open() == Path("here")


def test_an_address_without_a_scheduler_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = pytest.importorskip("hwprune.executors.cluster", reason="distributed is not installed")
    monkeypatch.setattr(cluster, "CONNECT_S", 0.5)
    said = r"no Dask scheduler answers at 'tcp://127.0.0.1:1'.*start 'dask scheduler'"
    with pytest.raises(ConfigError, match=said), open_team(scheduler="tcp://127.0.0.1:1"):
        pass
