import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import hwprune
from device_agents.errors import DeviceBusy
from hwprune.measurement.lease import lease

HOLD = """
import sys
from pathlib import Path
from hwprune.measurement.lease import lease
with lease(Path(sys.argv[1]), "pi4"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the device until its input ends."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(hwprune.__file__).parents[1])}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_job_is_refused_and_told_who_holds_the_device(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with (
        pytest.raises(DeviceBusy, match=rf"'pi4' is used by process {holder.pid} on .* since 20.*wait until"),
        lease(tmp_path, "pi4"),
    ):
        pass


def test_another_device_is_free(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with lease(tmp_path, "xeon"):
        assert holder.poll() is None


def test_a_job_that_waits_says_for_whom_and_gets_its_turn(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    said: list[str] = []

    def end_the_other(text: str) -> None:
        said.append(text)
        assert holder.stdin is not None
        threading.Timer(0.3, holder.stdin.close).start()

    with lease(tmp_path, "pi4", wait_s=20, say=end_the_other):
        assert len(said) == 1
        assert f"process {holder.pid}" in said[0]


def test_a_holder_that_is_killed_frees_the_device(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    with lease(tmp_path, "pi4"):
        pass


def test_two_jobs_of_one_process_exclude_each_other_too(tmp_path: Path) -> None:
    with lease(tmp_path, "pi4"), pytest.raises(DeviceBusy, match=f"process {os.getpid()}"), lease(tmp_path, "pi4"):
        pass


def test_the_device_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), lease(tmp_path, "pi4"):
        raise KeyError
    with lease(tmp_path, "pi4"):
        pass


def test_a_holder_that_left_no_note_is_another_process(tmp_path: Path) -> None:
    with lease(tmp_path, "pi4"):
        (tmp_path / "pi4.holder.json").write_text("{half")
        with pytest.raises(DeviceBusy, match="used by another process"), lease(tmp_path, "pi4"):
            pass
