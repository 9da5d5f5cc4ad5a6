import array
import os

import pytest

from device_agents import bundle
from device_agents.agent import children
from device_agents.agent.children import Child, ChildFailed

INPUT = array.array("f", range(10)).tobytes()


@pytest.fixture
def child(tmp_path):
    child = Child(str(bundle.build(tmp_path)))
    yield child
    child.end()


def test_a_child_runs_its_library_on_the_bytes_it_is_given(child, build_library):
    opened = child.open(str(build_library()), [], 10.0)
    assert opened["description"]["kind"] == "network"
    answer, output = child.ask({"do": "run", "calls": 2}, 10.0, INPUT)
    assert array.array("f", output).tolist() == [2.0 * i for i in range(10)]
    assert answer["first_ms"] > 0


def test_an_input_of_another_size_is_refused_and_the_child_goes_on(child, build_library):
    child.open(str(build_library()), [], 10.0)
    with pytest.raises(ChildFailed, match="the input has 44 bytes, the network takes 40"):
        child.ask({"do": "run", "calls": 1}, 10.0, INPUT + b"1234")
    _, output = child.ask({"do": "run", "calls": 1}, 10.0, INPUT)
    assert len(output) == 40


def test_a_request_before_a_library_is_open_is_refused(child):
    with pytest.raises(ChildFailed, match="no library is open"):
        child.ask({"do": "run", "calls": 1}, 10.0)


def test_a_crash_is_told_by_its_signal_and_stays_told(child, build_library):
    child.open(str(build_library("CRASH")), [], 10.0)
    for _ in range(2):
        with pytest.raises(ChildFailed, match="its process was ended by SIGSEGV"):
            child.ask({"do": "run", "calls": 1}, 10.0)


def test_a_restarted_child_has_its_library_again(child, build_library):
    child.open(str(build_library("CRASH_AFTER=2")), [], 10.0)
    with pytest.raises(ChildFailed, match="SIGABRT"):
        child.ask({"do": "run", "calls": 3}, 10.0)
    child.restart(10.0)
    assert child.ask({"do": "run", "calls": 2}, 10.0)[1]


def test_a_hang_ends_with_the_time_limit(child, build_library):
    child.open(str(build_library("HANG_AFTER=0")), [], 10.0)
    with pytest.raises(ChildFailed, match=r"did not answer within 0.3 s and was ended"):
        child.ask({"do": "run", "calls": 1}, 0.3)
    assert not children.running


def test_a_status_is_told(child, build_library):
    child.open(str(build_library("STATUS=5")), [], 10.0)
    with pytest.raises(ChildFailed, match="returned status 5"):
        child.ask({"do": "run", "calls": 1}, 10.0)


def test_native_prints_do_not_disturb_the_answers(child, build_library):
    child.open(str(build_library("PRINT")), [], 10.0)
    for _ in range(3):
        assert len(child.ask({"do": "run", "calls": 1}, 10.0, INPUT)[1]) == 40


def test_cores_that_cannot_be_used_are_told(child, build_library):
    with pytest.raises(ChildFailed, match=r"cannot be pinned to cores \[4000\]"):
        child.open(str(build_library()), [4000], 10.0)


def test_a_child_is_pinned(child, build_library):
    core = max(os.sched_getaffinity(0))
    child.open(str(build_library()), [core], 10.0)
    (process,) = children.running
    assert os.sched_getaffinity(process.pid) == {core}


def test_the_peak_memory_is_the_childs_own(child):
    # This process holds more than the child may ever have; ru_maxrss would be inherited, VmHWM is not.
    ballast = bytearray(os.urandom(1) * (64 << 20))
    peak_bytes = child.ask({"do": "peak"}, 10.0)[0]["peak_bytes"]
    assert 2 << 20 < peak_bytes < len(ballast)


def test_ending_all_ends_every_child(child):
    children.end_all()
    with pytest.raises(ChildFailed, match="SIGKILL"):
        child.ask({"do": "peak"}, 10.0)
