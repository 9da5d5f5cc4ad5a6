import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import hwprune
from device_agents.errors import DeviceBusy
from hwprune.measurement import holder
from hwprune.measurement import lease as module
from hwprune.measurement.lease import lease
from hwprune.store import Lease, Leases, Store

HOLD = """
import sys
from pathlib import Path
from hwprune.measurement.lease import lease
from hwprune.store import Store
with Store.open(sys.argv[1], Path(sys.argv[2])) as store, lease(store.leases, "pi4"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def leases(store: Store) -> Leases:
    return store.leases


@pytest.fixture
def other(tmp_path: Path, store: Store) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the device until its input ends."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "store.db"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(hwprune.__file__).parents[1])}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def elsewhere(**changes: object) -> Lease:
    """A lease whose holder works on another computer."""
    started = Lease("pi4", "e" * 32, "process 7 on elsewhere", "another-boot pid:[1] 7 100", 0.0)
    return replace(started, **changes)  # type: ignore[arg-type]


def test_a_second_job_is_refused_and_told_who_holds_the_device(leases: Leases, other: subprocess.Popen[str]) -> None:
    with (
        pytest.raises(DeviceBusy, match=rf"'pi4' is used by process {other.pid} on .* since 20.*wait until"),
        lease(leases, "pi4"),
    ):
        pass


def test_another_device_is_free(leases: Leases, other: subprocess.Popen[str]) -> None:
    with lease(leases, "xeon"):
        assert other.poll() is None


def test_a_job_that_waits_says_for_whom_and_gets_its_turn(leases: Leases, other: subprocess.Popen[str]) -> None:
    said: list[str] = []

    def end_the_other(text: str) -> None:
        said.append(text)
        assert other.stdin is not None
        threading.Timer(0.3, other.stdin.close).start()

    with lease(leases, "pi4", wait_s=20, say=end_the_other):
        assert len(said) == 1
        assert f"process {other.pid}" in said[0]


def test_a_holder_that_is_killed_on_this_computer_frees_the_device_at_once(
    leases: Leases, other: subprocess.Popen[str]
) -> None:
    other.kill()
    other.wait()
    assert leases.find("pi4") is not None
    with lease(leases, "pi4"):
        found = leases.find("pi4")
        assert found is not None
        assert found.holder == f"process {os.getpid()} on {os.uname().nodename}"


def test_a_holder_that_is_killed_elsewhere_frees_the_device_when_its_heartbeats_end(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXPIRES_S", 0.5)
    leases.take(elsewhere())
    said: list[str] = []
    began = time.monotonic()
    with lease(leases, "pi4", wait_s=20, say=said.append):
        assert 0.5 < time.monotonic() - began < 10
    assert said == [
        "device 'pi4' is used by process 7 on elsewhere since 1970-01-01T00:00:00+00:00: waiting for up to 20 s"
    ]


def test_a_holder_elsewhere_whose_heart_beats_keeps_the_device(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXPIRES_S", 0.6)
    theirs = elsewhere()
    leases.take(theirs)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.1):
            leases.renew(theirs)

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        with pytest.raises(DeviceBusy, match="process 7 on elsewhere"), lease(leases, "pi4", wait_s=2.0):
            pass
    finally:
        ended.set()
        heart.join()


def test_a_holder_gives_heartbeats_while_it_works(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.05)
    with lease(leases, "pi4") as hold:
        give_up = time.monotonic() + 10
        while (found := leases.find("pi4")) is None or found.heartbeat < 3:
            assert time.monotonic() < give_up
            time.sleep(0.02)
        hold.check()
    assert leases.find("pi4") is None


def test_a_holder_that_stood_still_learns_who_has_the_device_now(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.05)
    with lease(leases, "pi4") as hold:
        mine = leases.find("pi4")
        while not leases.take(elsewhere(), instead_of=mine):
            mine = leases.find("pi4")  # it was renewed in between
        time.sleep(0.5)
        with pytest.raises(DeviceBusy, match="was given to process 7 on elsewhere"):
            hold.check()
    assert leases.find("pi4") == elsewhere()


def test_two_jobs_of_one_process_exclude_each_other_too(leases: Leases) -> None:
    with lease(leases, "pi4"), pytest.raises(DeviceBusy, match=f"process {os.getpid()}"), lease(leases, "pi4"):
        pass


def test_the_device_is_free_again_after_an_error(leases: Leases) -> None:
    with pytest.raises(KeyError), lease(leases, "pi4"):
        raise KeyError
    with lease(leases, "pi4"):
        pass


def test_a_process_that_runs_is_told_from_one_that_has_ended_and_one_of_the_same_number() -> None:
    mine = holder.identity()
    assert not holder.is_gone(mine)
    *system, number, start = mine.split(" ")
    assert holder.is_gone(" ".join([*system, number, str(int(start) - 1)]))
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        stat = Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(")")[2].split()
        theirs = " ".join([*system, str(sleeper.pid), stat[19]])
        assert not holder.is_gone(theirs)
        sleeper.send_signal(signal.SIGKILL)
        give_up = time.monotonic() + 10
        while not holder.is_gone(theirs):  # a zombie until it is waited for
            assert time.monotonic() < give_up
    assert holder.is_gone(theirs)


def test_of_a_process_elsewhere_nothing_is_said(tmp_path: Path) -> None:
    assert not holder.is_gone("another-boot pid:[1] 7 100")
    assert not holder.is_gone("")
    assert holder.identity(root=tmp_path) == ""
    assert not holder.is_gone(holder.identity(), root=tmp_path)
