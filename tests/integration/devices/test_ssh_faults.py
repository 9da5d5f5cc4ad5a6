"""What goes wrong between a host and a board, each ending in one clear error or in a recovered measurement.

Every test asks in time, and looks on the board afterwards: nothing may be left running there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from servers import CORE, SELF_TEST, wait_for

from device_agents.client import AgentClient, TimingRequest
from device_agents.errors import AgentError, AgentLost
from device_agents.protocol import HOST_SILENCE_S
from device_agents.ssh import SshTransport
from hwprune.measurement.trust import grade, reference_level_ms
from hwprune.records import bootstrap_interval_ms

pytestmark = [pytest.mark.boards, pytest.mark.ssh, pytest.mark.timeout(180)]

#: The watchdog's silence and what surrounds it, on a busy machine.
FREED_S = 8.0

#: Some seconds of measuring.
LONG = {"blocks": 400, "block_ms_min": 20.0, "warmup_ms_max": 100.0, "max_s": 60.0}


@pytest.fixture
def measuring(build, log_in):
    """Function that begins to measure on a server; gives a function that waits for the outcome."""

    def begin(server, **settings):
        client = log_in(server)
        path, digest = build()
        client.put(path, digest)
        handle = client.load(digest, self_test=SELF_TEST).handle
        outcome, working = [], threading.Event()

        def measure():
            try:
                requests = [TimingRequest(handle)]
                outcome.extend(client.measure(requests, on_progress=lambda *_: working.set(), **{**LONG, **settings}))
            except Exception as error:
                outcome.append(error)

        thread = threading.Thread(target=measure)
        thread.start()
        assert working.wait(20)

        def finish(seconds):
            began = time.monotonic()
            thread.join(seconds)
            assert not thread.is_alive(), "the caller is held"
            return outcome[0], time.monotonic() - began

        return finish

    return begin


def ends_lost(finish, seconds, words):
    outcome, elapsed_s = finish(seconds)
    assert isinstance(outcome, AgentLost)
    assert words in str(outcome)
    return elapsed_s


def test_an_sshd_killed_in_mid_command_is_told_at_once_and_the_board_is_free(sshd, measuring):
    finish = measuring(sshd)
    sshd.kill()
    assert ends_lost(finish, FREED_S, "the agent ended or the way to it broke") < 3
    wait_for(lambda: not sshd.processes())


def test_an_agent_killed_is_told_with_the_connection_still_good(sshd, measuring):
    finish = measuring(sshd)
    for pid in sshd.processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert ends_lost(finish, FREED_S, "the agent ended") < 3
    wait_for(lambda: not sshd.processes())


def test_a_frozen_sshd_frees_the_caller_within_seconds(sshd, measuring):
    finish = measuring(sshd)
    sshd.freeze()
    assert ends_lost(finish, FREED_S, "no sign of life for 5 s") > 3
    sshd.thaw()
    wait_for(lambda: not sshd.processes())


def test_a_board_that_is_frozen_for_good_frees_itself(sshd, measuring):
    """The connection's sshd never runs again, so nobody tells the agent that the host is gone."""
    finish = measuring(sshd)
    sshd.freeze()
    ends_lost(finish, FREED_S, "no sign of life")
    wait_for(lambda: not sshd.processes(), HOST_SILENCE_S + 10)


def test_a_quiet_agent_is_not_cut_off(sshd, log_in):
    client = log_in(sshd)
    time.sleep(7)
    assert client.state()


def test_a_host_program_that_is_held_up_takes_nothing_for_the_boards_silence(sshd, log_in):
    """Native code that keeps the interpreter's lock lets no thread read what the board sends."""
    client = log_in(sshd)
    ctypes.PyDLL(None).sleep(7)
    time.sleep(1)
    assert client.state()


@pytest.fixture
def upload(tmp_path):
    """Function that sends a large file in a thread; gives the thread and what came of it."""
    path = tmp_path / "large"
    path.write_bytes(os.urandom(1 << 20) * 200)

    def begin(transport):
        outcome = []

        def put():
            try:
                transport.put("large.so", path)
            except Exception as error:
                outcome.append(error)

        thread = threading.Thread(target=put)
        thread.start()
        return thread, outcome

    return begin


@pytest.mark.parametrize("fault", ["freeze", "kill"])
def test_a_fault_in_mid_upload_frees_the_caller_and_leaves_no_torn_file(sshd, upload, fault):
    transport = SshTransport(sshd.way())
    transport.start()
    thread, outcome = upload(transport)
    wait_for(lambda: [part for part in sshd.agents_folder.glob("*.part") if part.stat().st_size > 1 << 20])
    getattr(sshd, fault)()
    thread.join(FREED_S)
    assert not thread.is_alive(), "the caller is held"
    (error,) = outcome
    assert isinstance(error, AgentLost)
    transport.close()
    sshd.thaw()
    wait_for(lambda: not sshd.processes())
    assert not list(sshd.agents_folder.glob("large*"))


def test_a_full_disk_is_told_with_its_reason_and_the_agent_lives_on(sshd, log_in, build, upload, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("this system mounts no tmpfs")
    try:
        with contextlib.closing(log_in(sshd, folder=str(small / "agent"))) as client:
            path, digest = build()
            large = tmp_path / "large"
            with pytest.raises(AgentError, match="No space left on device") as raised:
                client.put(large, "0" * 64)
            assert not isinstance(raised.value, AgentLost)
            assert not [file for file in (small / "agent").iterdir() if file.name.startswith("0" * 64)]
            client.put(path, digest)
            assert client.load(digest, self_test=SELF_TEST).handle
        wait_for(lambda: not sshd.processes())
    finally:
        subprocess.run(["umount", str(small)], check=True)


HOST = """\
import sys
from pathlib import Path
from device_agents.client import AgentClient, TimingRequest
from device_agents.registry import SshWay
from device_agents.ssh import SshTransport
from hwprune.measurement.trust import grade, reference_level_ms
from hwprune.records import bootstrap_interval_ms

way, path, digest = SshWay.model_validate_json(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
client = AgentClient(SshTransport(way))
client.put(path, digest)
handle = client.load(digest).handle
told = lambda *_: print("measuring", flush=True)
client.measure([TimingRequest(handle)], blocks=4000, block_ms_min=20.0, max_s=120.0, on_progress=told)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_host_that_dies_in_mid_measurement_leaves_the_board_free(sshd, build, number):
    """Killed it hangs up; stopped it keeps the connection, and the board has to notice that nobody is there."""
    words = [sys.executable, "-c", HOST, sshd.way().model_dump_json(), *map(str, build())]
    host = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert host.stdout is not None
        assert host.stdout.readline() == "measuring\n"
        assert len(sshd.processes()) == 2
        host.send_signal(number)
        wait_for(lambda: not sshd.processes(), HOST_SILENCE_S + 10)
    finally:
        host.kill()
        host.communicate()


def test_a_link_that_is_down_for_three_seconds_costs_nothing(namespaces, measuring):
    board = namespaces.host("board")
    finish = measuring(board, blocks=300)
    namespaces.link(board, "down")
    time.sleep(3)
    namespaces.link(board, "up")
    result, _ = finish(60)
    assert not isinstance(result, Exception), result
    assert len(result.blocks) == 300


def test_a_link_that_is_down_for_good_frees_both_ends(namespaces, measuring):
    board = namespaces.host("board")
    finish = measuring(board)
    namespaces.link(board, "down")
    ends_lost(finish, FREED_S, "no sign of life")
    wait_for(lambda: not board.processes(), HOST_SILENCE_S + 10)


def test_a_link_that_breaks_in_mid_upload_frees_the_caller(namespaces, upload):
    board = namespaces.host("board")
    transport = SshTransport(board.way())
    transport.start()
    thread, outcome = upload(transport)
    wait_for(lambda: list(board.agents_folder.glob("large*.part")))
    namespaces.link(board, "down")
    thread.join(FREED_S + 2)
    assert not thread.is_alive(), "the caller is held"
    assert isinstance(outcome[0], AgentLost)
    transport.close()
    namespaces.link(board, "up")
    assert not (board.agents_folder / "large.so").exists()


def test_a_slow_link_is_not_taken_for_a_dead_one(namespaces, log_in, tmp_path):
    """What is sent takes twice as long as the watchdog's patience, and every reply waits behind it."""
    board = namespaces.host("board")
    client = log_in(board)
    namespaces.slow_down(board, 1000)
    (tmp_path / "file").write_bytes(os.urandom(1_250_000))
    began = time.monotonic()
    client.put(tmp_path / "file", "0" * 64)
    assert time.monotonic() - began > 8
    assert client.state()


def test_a_long_request_over_a_slow_link_is_not_taken_for_a_dead_one(namespaces, log_in, build):
    board = namespaces.host("board")
    client = log_in(board)
    path, digest = build()
    client.put(path, digest)
    handle = client.load(digest).handle
    namespaces.slow_down(board, 1000)
    with pytest.raises(AgentError, match="the input has 900000 bytes"):
        client.run(handle, bytes(900_000))
    assert client.state()


def test_lost_packets_leave_the_latency_within_its_own_interval(namespaces, log_in, build):
    """The clock is on the board: what is on the way has no part in the values. One process is timed by turns."""
    board = namespaces.host("board")
    client = log_in(board)
    path, digest = build("KERNELS")
    client.put(path, digest)
    request = TimingRequest(client.load(digest, cores=[CORE]).handle, 0, (3000,))
    blocks = {0: [], 10: []}
    for _ in range(20):
        for percent, found in blocks.items():
            namespaces.lose(board, percent)
            (result,) = client.measure([request], blocks=20, block_ms_min=3.0)
            assert result.error is None
            found += result.blocks
        level_ms = reference_level_ms([block for found in blocks.values() for block in found])
        grades = [grade([found], level_ms) for found in blocks.values()]
        (low, high), (low_lossy, high_lossy) = (bootstrap_interval_ms(each.values_ms) for each in grades)
        # On a busy machine it takes some turns until the numbers are good enough to be compared.
        if all(each.trust != "C" for each in grades) and low <= high_lossy and low_lossy <= high:
            return
    pytest.fail(f"{low:.4f} to {high:.4f} ms ({grades[0]}), with losses {low_lossy:.4f} to {high_lossy:.4f} ms")


def test_files_arrive_whole_though_packets_are_lost(namespaces, tmp_path):
    board = namespaces.host("board")
    transport = SshTransport(board.way())
    transport.start()
    namespaces.lose(board, 10)
    data = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(data)
    transport.put("file.so", tmp_path / "file")
    assert (board.agents_folder / "file.so").read_bytes() == data
    transport.close()


def test_after_a_fault_the_next_connection_finds_the_board_free(sshd, measuring, log_in):
    finish = measuring(sshd)
    sshd.freeze()
    ends_lost(finish, FREED_S, "no sign of life")
    sshd.thaw()
    wait_for(lambda: not sshd.processes())
    assert log_in(sshd).state()


def test_a_connection_refused_by_a_rebooting_board_is_told_then_works_again(sshd, log_in):
    client = log_in(sshd)
    sshd.stop()
    with pytest.raises(AgentLost):
        client.state()
    with pytest.raises(AgentError, match="refuses connections"):
        AgentClient(SshTransport(sshd.way()))
    sshd.start()
    assert log_in(sshd).state()
