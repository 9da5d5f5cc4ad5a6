import subprocess
import sys
import time

import pytest

from device_agents.client import AgentClient
from hwprune.measurement.readiness import Readiness, heat, load, throttling


def times(busy: float, idle: float, stolen: float = 0.0) -> dict[str, object]:
    return {"cpu_times_s": {"busy": busy, "idle": idle, "stolen": stolen}}


def test_an_idle_device_is_ready() -> None:
    assert load(times(10, 10), times(10.05, 11.95), 1.0) == ""


def test_busy_and_stolen_cores_are_told() -> None:
    assert load(times(10, 10), times(11.02, 11), 1.0) == "other programs keep 1.0 cores busy"
    assert load(times(10, 10), times(10, 11, stolen=1.52), 1.0) == "other programs keep 1.5 cores busy"


def test_the_agents_own_work_is_no_load() -> None:
    before, after = times(10, 10) | {"agent_time_s": 3.0}, times(10.9, 10) | {"agent_time_s": 3.8}
    assert load(before, after, 1.0) == ""
    assert load(before, after | {"agent_time_s": None}, 1.0) == "other programs keep 0.9 cores busy"


def test_time_is_that_of_the_device() -> None:
    before, after = ({**times(busy, 10), "clock_s": clock_s} for busy, clock_s in ((10, 7.0), (12.04, 9.0)))
    assert load(before, after, 20.0) == "other programs keep 1.0 cores busy"


def test_a_device_that_tells_nothing_is_taken_as_ready() -> None:
    unknown = {"cpu_times_s": None, "temperatures_celsius": None, "throttle_flags": None}
    assert (load(unknown, unknown, 1.0), heat(unknown, {}), throttling(unknown)) == ("", "", "")


def test_heat_is_told_against_the_first_reading_of_each_zone() -> None:
    base: dict[str, float] = {}
    assert heat({"temperatures_celsius": {"cpu": 50.0}}, base) == ""
    assert heat({"temperatures_celsius": {"cpu": 52.9, "gpu": 80.0}}, base) == ""
    assert heat({"temperatures_celsius": {"cpu": 53.1}}, base) == "cpu is at 53 degrees, 50 at first"


def test_throttling_counts_now_and_not_in_the_past() -> None:
    assert throttling({"throttle_flags": 0x50000}) == ""
    assert throttling({"throttle_flags": 0x50004}) == "it is throttled (flags 0x50004)"


@pytest.fixture
def busy_program():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        time.sleep(0.1)
        yield process
        process.kill()


def test_waiting_says_why_once_and_gives_up_once(client: AgentClient, busy_program: subprocess.Popen[bytes]) -> None:
    said: list[str] = []
    readiness = Readiness(client, said.append)
    readiness.wait(1.0)
    assert len(said) == 2
    assert said[0].startswith("waiting for up to 1 s until the device is ready: other programs keep")
    assert said[1].endswith("measuring anyway")
    readiness.wait(60.0, doubtful=True)  # the load is there to stay: no second wait
    assert len(said) == 2


def test_no_time_to_wait_is_no_wait_and_no_word(client: AgentClient, busy_program: subprocess.Popen[bytes]) -> None:
    said: list[str] = []
    Readiness(client, said.append).wait(0.0)
    assert said == []
