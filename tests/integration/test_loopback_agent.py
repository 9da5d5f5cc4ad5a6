"""The real bundle in a process of its own, spoken to by the real client."""

from __future__ import annotations

import array
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from device_agents.agent.libraries import SETTLING_CALLS
from device_agents.client import AgentClient, SelfTest, TimingRequest
from device_agents.errors import (
    AgentLost,
    AgentTimeout,
    DeviceBusy,
    LibraryMissing,
    LoadFailed,
    RequestRefused,
    RunFailed,
)
from device_agents.transport import LoopbackTransport

SOURCE = Path(__file__).parents[1] / "unit/device_agents/plain_library.c"
INPUT = array.array("f", range(10)).tobytes()
EXPECTED = array.array("f", [2.0 * i for i in range(10)]).tobytes()
SELF_TEST = SelfTest(INPUT, EXPECTED)
HANGS_AFTER_LOADING = f"HANG_AFTER={SETTLING_CALLS}"
QUICK = {"blocks": 3, "block_ms_min": 1.0, "warmup_ms_max": 20.0}


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Function that compiles the library with macros; gives path and digest."""
    folder = tmp_path_factory.mktemp("libraries")

    def build(*macros):
        path = folder / ("_".join(macros) + ".so")
        if not path.exists():
            flags = [f"-D{macro}" for macro in macros]
            subprocess.run(["cc", "-O1", "-shared", "-fPIC", *flags, str(SOURCE), "-o", str(path)], check=True)
        return path, hashlib.sha256(path.read_bytes()).hexdigest()

    return build


@pytest.fixture
def client(tmp_path):
    with AgentClient(LoopbackTransport(tmp_path / "agent")) as client:
        yield client


@pytest.fixture
def load(client, build):
    """Function that compiles, puts and loads a library in the agent; gives what ``load`` gives."""

    def load(*macros, self_test=None, timeout_s=10.0, **options):
        path, digest = build(*macros)
        client.put(path, digest)
        return client.load(digest, self_test=self_test, timeout_s=timeout_s, **options)

    return load


def processes(folder):
    """Process numbers by command line, of those that run from ``folder`` and are not ended."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if str(folder) in command and state != "Z":
            found[int(entry.name)] = command
    return found


def agent_of(folder):
    (agent,) = [number for number, command in processes(folder).items() if "import" not in command]
    return agent


def wait_for(condition, seconds=10.0):
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_a_device_is_described_with_its_state(client):
    description = client.describe()
    assert description["platform"] in description["platforms"]
    assert description["cores"]
    assert description["memory_bytes"] > 1 << 20
    state = client.state()
    assert state["load_average"] >= 0
    assert all(state[name] is None for name in state["missing"])


def test_a_network_is_loaded_tested_and_run(client, load):
    loaded = load(self_test=SELF_TEST)
    assert loaded.description["kind"] == "network"
    assert loaded.load_ms > 0
    assert 0 <= loaded.process_delta_bytes < loaded.process_peak_bytes
    assert client.run(loaded.handle, INPUT) == EXPECTED


def test_every_load_is_a_process_of_its_own(client, load, tmp_path):
    handles = {load().handle for _ in range(3)}
    assert len(handles) == 3
    assert len(processes(tmp_path)) == 4
    for handle in handles:
        client.unload(handle)
    assert len(processes(tmp_path)) == 1


def test_a_wrong_answer_is_not_loaded(load, tmp_path):
    with pytest.raises(LoadFailed, match=r"self-test: the output is wrong, 3 where 2 was expected \(largest 18"):
        load("FACTOR=3", self_test=SELF_TEST)
    assert len(processes(tmp_path)) == 1


@pytest.mark.parametrize(
    ("macro", "reason"),
    [
        ("CRASH", "its process was ended by SIGSEGV"),
        ("HANG_AFTER=1", "did not answer within 0.5 s"),
        ("STATUS=5", "returned status 5"),
        ("ABI=2", "expected ABI 1"),
        ("NO_REFERENCE", "does not export reference_run"),
    ],
)
def test_a_library_that_cannot_run_is_not_loaded_and_the_agent_lives_on(load, macro, reason):
    with pytest.raises(LoadFailed, match=reason):
        load(macro, timeout_s=0.5 if "HANG" in macro else 10.0)
    assert load(self_test=SELF_TEST).handle > 0


def test_a_self_test_of_another_size_is_told(load):
    with pytest.raises(LoadFailed, match="the input has 8 bytes, the network takes 40"):
        load(self_test=SelfTest(bytes(8), EXPECTED))
    with pytest.raises(LoadFailed, match="the output has 40 bytes, expected 8"):
        load(self_test=SelfTest(INPUT, bytes(8)))
    with pytest.raises(LoadFailed, match="a pack of kernels has no network to test"):
        load("KERNELS", self_test=SELF_TEST)


def test_cores_that_do_not_exist_are_told(load):
    with pytest.raises(LoadFailed, match=r"cannot be pinned to cores \[4000\]"):
        load(cores=[4000])


def test_native_prints_leave_the_wire_alone(client, load):
    handle = load("PRINT", self_test=SELF_TEST).handle
    assert client.run(handle, INPUT) == EXPECTED
    (result,) = client.measure([TimingRequest(handle)], **QUICK)
    assert result.error is None


def test_a_resident_network_is_tested_and_timed_at_several_widths_in_one_process(client, load):
    handle = load("RESIDENT", self_test=SELF_TEST).handle
    little, much, failing, wrong = client.measure(
        [TimingRequest(handle, numbers=numbers) for numbers in ((100, 0), (800, 0), (-1, 0), (1,))], **QUICK
    )
    assert (little.error, much.error) == (None, None)
    fastest_ms = [min(min(block.values_ms) for block in result.blocks) for result in (little, much)]
    assert 4 < fastest_ms[1] / fastest_ms[0] < 16
    assert "returned status 1" in failing.error
    assert "takes 2 numbers, got 1" in wrong.error


def test_processes_are_timed_in_interleaved_blocks(client, load):
    handles = [load(self_test=SELF_TEST).handle for _ in range(3)]
    results = client.measure([TimingRequest(handle) for handle in handles], calls_min=7, **QUICK)
    for result in results:
        assert result.error is None
        assert result.warmup_calls > 1
        assert 0 < result.overhead_ms < 1
        assert len(result.blocks) == 3
        for block in result.blocks:
            assert len(block.values_ms) >= 7
            assert min(*block.values_ms, block.reference_before_ms, block.reference_after_ms) > 0


def test_a_spare_core_that_cannot_be_used_is_passed_over(client, load):
    request, usable = TimingRequest(load().handle), max(os.sched_getaffinity(0))
    # A level that is never reached has every core looked at.
    (result,) = client.measure([request], spare_cores=[usable, 4095], level_ms=1e-6, patience=1.0, **QUICK)
    assert result.error is None
    assert len(result.blocks) == 3


def test_a_job_ends_after_enough_steady_blocks_and_never_before(client, load):
    handle = load().handle
    settings = {**QUICK, "blocks": 400, "block_ms_min": 0.05}
    (result,) = client.measure([TimingRequest(handle)], steady_blocks=3, **settings)
    assert 3 <= len(result.blocks) < 400
    *_, last = result.blocks
    readings = [
        reading for block in result.blocks[-3:] for reading in (block.reference_before_ms, last.reference_after_ms)
    ]
    assert max(readings) <= min(readings) * 1.01


@pytest.mark.measures
def test_longer_work_takes_longer(client, load):
    handle = load("KERNELS").handle
    # The work is a dependent chain, 100 times as long; a machine would have to slow down 20 times between two blocks.
    requests = [TimingRequest(handle, 0, (20,)), TimingRequest(handle, 0, (2000,))]
    short, long = client.measure(requests, **QUICK)
    best = [min(value for block in result.blocks for value in block.values_ms) for result in (short, long)]
    assert best[1] > 5 * best[0]


def test_many_kernels_go_in_one_request_with_progress(client, load):
    handle = load("KERNELS").handle
    seen = []
    requests = [TimingRequest(handle, number % 2, (number,) * (1 + number % 2)) for number in range(1, 101)]
    results = client.measure(
        requests, blocks=2, block_ms_min=0.2, warmup_ms_max=1.0, on_progress=lambda *now: seen.append(now)
    )
    assert [len(result.blocks) for result in results] == [2] * 100
    assert seen[-1] == (300, 300)
    assert seen == sorted(seen)


def test_one_bad_kernel_does_not_spoil_the_others(client, load):
    handle = load("KERNELS").handle
    requests = [
        TimingRequest(handle, 0, (5,)),
        TimingRequest(handle, 2),  # crashes at once
        TimingRequest(handle, 3),  # reports a status
        TimingRequest(handle, 4),  # hangs
        TimingRequest(handle, 5),  # crashes in a later block
        TimingRequest(handle, 9),  # there is none
        TimingRequest(handle, 1, (5,)),  # takes two numbers
        TimingRequest(handle),  # says no index
        TimingRequest(handle, 1, (5, 6)),
    ]
    results = client.measure(requests, timeout_s=0.5, blocks=6, block_ms_min=2.0, calls_min=10, warmup_ms_max=3.0)
    assert [result.error for result in results] == [
        None,
        "its process was ended by SIGSEGV",
        "returned status 7",
        "its process did not answer within 0.5 s and was ended",
        "its process was ended by SIGABRT",
        "there is no kernel 9: the library has 6",
        "kernel 1 takes 2 numbers, got 1",
        "a kernel is timed by its index, a network without one",
        None,
    ]
    assert [len(result.blocks) for result in results if result.error is None] == [6, 6]


def test_a_network_that_crashes_while_it_is_timed_keeps_what_was_measured(client, load):
    good, bad = load().handle, load("CRASH_AFTER=60").handle
    results = client.measure([TimingRequest(bad), TimingRequest(good)], calls_min=10, blocks=8, block_ms_min=0.01)
    assert results[0].error == "its process was ended by SIGABRT"
    assert len(results[0].blocks) < 8
    assert results[1].error is None
    assert len(results[1].blocks) == 8
    with pytest.raises(RunFailed, match="SIGABRT"):
        client.run(bad, INPUT)


def test_the_time_limit_ends_a_measurement_with_what_there_is(client, load):
    handle = load("KERNELS").handle
    requests = [TimingRequest(handle, 0, (number,)) for number in (100, 200)]
    results = client.measure(requests, blocks=10000, max_s=0.5, block_ms_min=5.0)
    assert all(0 < len(result.blocks) < 10000 and result.error is None for result in results)

    results = client.measure(requests, max_s=0.001, warmup_ms_max=50.0)
    assert results[1].error.startswith("the time limit")
    assert not results[1].blocks


def test_a_run_of_another_size_is_refused(client, load):
    handle = load().handle
    with pytest.raises(RunFailed, match="the input has 4 bytes, the network takes 40"):
        client.run(handle, bytes(4))
    assert client.run(handle, INPUT) == EXPECTED


def test_a_handle_that_was_unloaded_is_refused(client, load):
    handle = load().handle
    client.unload(handle)
    for call in (
        lambda: client.unload(handle),
        lambda: client.run(handle, INPUT),
        lambda: client.measure([TimingRequest(handle)]),
    ):
        with pytest.raises(RequestRefused, match=f"there is no handle {handle}"):
            call()


def test_a_library_stays_on_the_device_for_the_next_agent(client, load, build, tmp_path):
    load()
    client.close()
    with AgentClient(LoopbackTransport(tmp_path / "agent")) as again:
        assert again.load(build()[1], self_test=SELF_TEST).handle == 1


def test_a_torn_library_is_refused_and_can_be_put_again(client, build, tmp_path):
    path, digest = build()
    (tmp_path / "torn.so").write_bytes(path.read_bytes()[:100])
    client.put(tmp_path / "torn.so", digest)
    with pytest.raises(LibraryMissing, match="torn and is removed: put it again"):
        client.load(digest)
    client.put(path, digest)
    assert client.load(digest, self_test=SELF_TEST).handle


def test_a_second_host_is_kept_out_until_the_first_is_gone(client, tmp_path):
    with pytest.raises(DeviceBusy, match=rf"used by .*@.* \(process {os.getpid()}, since "):
        AgentClient(LoopbackTransport(tmp_path / "agent"))
    client.close()
    with AgentClient(LoopbackTransport(tmp_path / "agent")) as again:
        assert again.state()


def test_a_request_that_the_agent_does_not_take_is_refused(client, load):
    handle = load().handle
    with pytest.raises(RequestRefused, match="expected an integer from 1"):
        client.measure([TimingRequest(handle)], blocks=0)
    with pytest.raises(RequestRefused, match="expected a SHA-256"):
        client.load("../../etc/passwd")


def test_a_killed_agent_is_lost_and_its_processes_end(client, load, tmp_path):
    handle = load().handle
    killer = threading.Timer(0.4, os.kill, [agent_of(tmp_path), signal.SIGKILL])
    killer.start()
    with pytest.raises(AgentLost, match="connect again"):
        client.measure([TimingRequest(handle)], blocks=10000)
    killer.join()
    wait_for(lambda: not processes(tmp_path))


def test_a_frozen_agent_times_out_and_is_ended(tmp_path):
    client = AgentClient(LoopbackTransport(tmp_path / "agent"), silence_s=0.5)
    os.kill(agent_of(tmp_path), signal.SIGSTOP)
    with pytest.raises(AgentTimeout, match=r"silent for 0\.5 s"):
        client.state()
    wait_for(lambda: not processes(tmp_path))


def test_an_agent_that_works_for_long_gives_signs_of_life(tmp_path, build):
    path, digest = build(HANGS_AFTER_LOADING)
    with AgentClient(LoopbackTransport(tmp_path / "agent"), silence_s=4.0) as client:
        client.put(path, digest)
        handle = client.load(digest).handle
        # Nothing but signs of life comes for 5 s, then the reason.
        with pytest.raises(RunFailed, match="did not answer within 5 s"):
            client.run(handle, INPUT, timeout_s=5.0)


def test_a_host_that_is_killed_leaves_nothing_running_on_the_device(tmp_path, build):
    path, digest = build(HANGS_AFTER_LOADING)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from device_agents.client import AgentClient\n"
        "from device_agents.transport import LoopbackTransport\n"
        "client = AgentClient(LoopbackTransport(Path(sys.argv[1]) / 'agent'))\n"
        "client.put(Path(sys.argv[2]), sys.argv[3])\n"
        "handle = client.load(sys.argv[3]).handle\n"
        "print('loaded', flush=True)\n"
        "client.run(handle, bytes(40), timeout_s=300.0)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path, path, digest], stdout=subprocess.PIPE) as host:
        assert host.stdout.readline() == b"loaded\n"
        time.sleep(0.3)  # until the call that never returns has begun
        assert len(processes(tmp_path)) == 3
        host.kill()
    wait_for(lambda: not processes(tmp_path))


def test_an_agent_that_hears_nothing_ends_itself(tmp_path):
    client = AgentClient(LoopbackTransport(tmp_path / "agent"), idle_s=0.3)
    wait_for(lambda: not processes(tmp_path))
    with pytest.raises(AgentLost):
        client.state()
