"""Boards that misbehave: each fault ends in a clear reason, the agent lives on, and nothing is left running."""

from __future__ import annotations

import array
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from watching import agent_of, compile_library, processes, wait_for

from device_agents.agent.libraries import SETTLING_CALLS
from device_agents.client import AgentClient, SelfTest, TimingRequest
from device_agents.errors import AgentError, AgentLost, DeviceBusy, LoadFailed, RunFailed
from device_agents.transport import LoopbackTransport

INPUT = array.array("f", range(10)).tobytes()
SELF_TEST = SelfTest(INPUT, INPUT)
QUICK = {"blocks": 3, "block_ms_min": 1.0, "warmup_ms_max": 20.0}

CRASHES = {
    "*(volatile int *)8 = 1": "was ended by SIGSEGV",
    "volatile int zero = 0; sink = 7 / zero": "was ended by SIGFPE",
    "__builtin_trap()": "was ended by SIG(ILL|TRAP)",
    "abort()": "was ended by SIGABRT",
    "recurse(1)": "was ended by SIGSEGV",
    "*(volatile char *)library_description() = 1": "was ended by SIGSEGV",
    "exit(3)": "ended with status 3",
    "_exit(0)": "ended with status 0",
    "raise(SIGRTMIN + 3)": r"was ended by signal \d+",
    "close_range_of_descriptors()": "closed its output|did not answer|ended with status",
    "babble()": "wrote into the agent's wire .* and was ended",
    "return 9": "returned status 9",
}
GLOBALS = """
static volatile float sink;
static int recurse(int depth) { volatile char room[4096]; room[0] = depth; return recurse(depth + 1) + room[0]; }
static void babble(void) { for (int file = 3; file < 12; file++) write(file, "{]\\n", 3); }
static void close_range_of_descriptors(void) { for (int file = 0; file < 64; file++) close(file); }
"""
NOISE = """
static char noise[1 << 13];
__attribute__((constructor)) static void make_noise(void) { memset(noise, 'x', sizeof noise - 1); }
"""


@pytest.fixture
def folder(tmp_path):
    """The agent's folder; when the test is over, nothing runs from it."""
    yield tmp_path / "agent"
    wait_for(lambda: not processes(tmp_path))


@pytest.fixture
def client(folder):
    with AgentClient(LoopbackTransport(folder), margin_s=10.0) as client:
        yield client


@pytest.fixture
def load(client, tmp_path):
    """Function that compiles a library with a fault, puts and loads it."""

    def load(fault="", after=0, globals="", timeout_s=10.0):
        path, digest = compile_library(tmp_path, fault, after, globals)
        client.put(path, digest)
        return client.load(digest, timeout_s=timeout_s, self_test=SELF_TEST).handle

    return load


def works(client, load):
    """Whether the agent still loads, runs and times a library."""
    handle = load()
    (result,) = client.measure([TimingRequest(handle)], **QUICK)
    return client.run(handle, INPUT) == INPUT and len(result.blocks) == QUICK["blocks"]


@pytest.mark.parametrize("fault", CRASHES)
def test_a_crash_inside_compiled_code_is_a_reason_and_harms_nothing_else(fault, client, load, tmp_path, monkeypatch):
    with pytest.raises(LoadFailed, match=CRASHES[fault]):
        load(fault, globals=GLOBALS, timeout_s=3.0)
    assert list(processes(tmp_path)) == [agent_of(tmp_path)]
    handle = load(fault, after=SETTLING_CALLS + 3, globals=GLOBALS)
    (result,) = client.measure([TimingRequest(handle)], timeout_s=2.0, **QUICK)
    assert result.error
    assert not result.blocks
    assert works(client, load)


def test_a_crash_leaves_no_core_file(client, folder, load, tmp_path):
    agent = agent_of(tmp_path)
    with contextlib.suppress(PermissionError):
        resource.prlimit(agent, resource.RLIMIT_CORE, (1 << 30, 1 << 30))
    with pytest.raises(LoadFailed, match="SIGABRT"):
        load('if (chdir("' + str(tmp_path) + '")) return 1; abort()')
    assert not list(tmp_path.glob("core*"))


@pytest.mark.parametrize("loop", ["for (;;) sink += 1", "for (;;) pause()", "sigset_t all; sigfillset(&all); "
                                  "sigprocmask(SIG_BLOCK, &all, 0); for (;;) sink += 1"])  # fmt: skip
def test_a_kernel_that_loops_for_ever_is_ended_in_its_time(loop, client, load, tmp_path):
    began = time.monotonic()
    with pytest.raises(LoadFailed, match=r"did not answer within 0.5 s and was ended"):
        load(loop, timeout_s=0.5)
    good, bad = load(), load(loop, after=SETTLING_CALLS)
    with pytest.raises(RunFailed, match=r"did not answer within 0.5 s and was ended"):
        client.run(bad, INPUT, timeout_s=0.5)
    bad = load(loop, after=SETTLING_CALLS + 50)
    results = client.measure([TimingRequest(bad), TimingRequest(good)], timeout_s=0.5, **QUICK)
    assert results[0].error == "its process did not answer within 0.5 s and was ended"
    assert results[1].error is None
    assert len(results[1].blocks) == QUICK["blocks"]
    assert time.monotonic() - began < 20
    client.unload(good)


def test_a_library_that_never_finishes_opening_is_ended_in_its_time(client, load, tmp_path):
    stuck = "__attribute__((constructor)) static void stuck(void) { for (;;) pause(); }"
    with pytest.raises(LoadFailed, match=r"did not answer within 0.5 s"):
        load(globals=stuck, timeout_s=0.5)
    assert list(processes(tmp_path)) == [agent_of(tmp_path)]
    assert works(client, load)


def test_a_library_that_prints_without_end_does_not_stop_the_agent(client, load):
    handle = load("for (int line = 0; line < 9; line++) { puts(noise); fputs(noise, stderr); }", globals=NOISE)
    (result,) = client.measure([TimingRequest(handle)], **QUICK)
    assert result.error is None
    assert client.run(handle, INPUT) == INPUT


def test_a_limit_of_the_address_space_is_told(client, load, tmp_path):
    agent = agent_of(tmp_path)
    resource.prlimit(agent, resource.RLIMIT_AS, (1 << 30, 1 << 30))
    with pytest.raises(LoadFailed, match=r"cannot be opened: .*([Cc]annot allocate|failed to map|zero-fill)"):
        load(globals="char arena[1500 << 20];")
    with pytest.raises(LoadFailed, match="returned status 12"):
        load("char *volatile memory = malloc(2ul << 30); if (!memory) return 12")
    assert works(client, load)


@contextlib.contextmanager
def memory_group(limit_bytes):
    """Folder of a control group with a memory limit, of either version."""
    first, second = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    is_second = (second / "cgroup.controllers").exists()
    group = (second if is_second else first) / f"hwprune-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.max" if is_second else "memory.limit_in_bytes")).write_text(str(limit_bytes))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"no control groups of memory for this user: {error}")
    try:
        yield group
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def test_a_child_that_the_memory_limit_ends_is_told_and_the_agent_survives_it(tmp_path):
    folder = tmp_path / "agent"
    touch = "for (long place = 0; place < 400 << 20; place += 4096) memory[place] = 1"
    hog = f"volatile char *memory = malloc(400 << 20); {touch}"
    with memory_group(100 << 20) as group, AgentClient(LoopbackTransport(folder), margin_s=10.0) as client:
        agent = agent_of(tmp_path)
        (group / "cgroup.procs").write_text(str(agent))
        path, digest = compile_library(tmp_path, hog, after=SETTLING_CALLS + 3)
        client.put(path, digest)
        handle = client.load(digest, self_test=SELF_TEST).handle
        with pytest.raises(RunFailed, match="was ended by SIGKILL, as the system does where memory runs out"):
            [client.run(handle, INPUT) for _ in range(9)]
        (result,) = client.measure([TimingRequest(handle)], **QUICK)
        assert "SIGKILL" in result.error
        assert agent_of(tmp_path) == agent
        path, digest = compile_library(tmp_path)
        client.put(path, digest)
        assert client.run(client.load(digest).handle, INPUT) == INPUT
    wait_for(lambda: not processes(tmp_path))


def test_a_child_that_somebody_kills_is_told(client, load, tmp_path):
    handle = load()
    for _ in range(3):
        (child,) = set(processes(tmp_path)) - {agent_of(tmp_path)}
        killer = threading.Timer(0.3, os.kill, [child, signal.SIGKILL])
        killer.start()
        (result,) = client.measure([TimingRequest(handle)], blocks=10000, max_s=5.0)
        killer.join()
        if result.error is not None:  # else it was killed just between two blocks, and another one went on
            break
    assert "SIGKILL" in result.error
    assert result.blocks
    assert works(client, load)


@contextlib.contextmanager
def small_disk(folder, size):
    """A file system of a few megabytes on ``folder``."""
    folder.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run([mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if not done or done.returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_full_is_cleaned_once_and_else_told(tmp_path):
    folder = tmp_path / "agent"
    fits = [compile_library(tmp_path, globals=f"char weights[600000] = {{{number}, 1}};") for number in range(8)]
    too_large, its_digest = compile_library(tmp_path, globals="char weights[5000000] = {1};")
    with small_disk(folder, "4m"), AgentClient(LoopbackTransport(folder), margin_s=10.0) as client:
        handles = []
        for path, digest in fits:  # more than fit together
            client.put(path, digest)
            handles.append(client.load(digest, self_test=SELF_TEST).handle)
            if len(handles) > 2:
                client.unload(handles.pop(0))
        with pytest.raises(AgentError, match="No space left on device"):
            client.put(too_large, its_digest)
        assert not list(folder.glob("*.part"))
        assert not (folder / f"{its_digest}.so").exists()
        assert [client.run(handle, INPUT) for handle in handles] == [INPUT] * 2
        client.put(*fits[0])
        assert client.load(fits[0][1], self_test=SELF_TEST).handle
        assert client.state()["disk_free_bytes"] < 4 << 20
    wait_for(lambda: not processes(tmp_path))


def test_the_folder_keeps_to_its_size_and_is_cleaned(folder, tmp_path):
    libraries = [compile_library(tmp_path, globals=f"char weights[200000] = {{{number}, 1}};") for number in range(5)]
    with AgentClient(LoopbackTransport(folder), folder_bytes_max=1_000_000) as client:
        for path, digest in libraries:
            client.put(path, digest)
            client.unload(client.load(digest).handle)
        left = {path.stem for path in folder.glob("*.so")}
        assert left == {digest for _, digest in libraries[-len(left) :]}
        assert 2 <= len(left) < 5
        client.put(*libraries[0])  # the client knows that it was dropped
        used = client.load(libraries[0][1]).handle
        assert client.clean() >= 200_000
        assert [path.stem for path in folder.glob("*.so")] == [libraries[0][1]]
        assert client.run(used, INPUT) == INPUT
        client.put(*libraries[1])
        assert client.load(libraries[1][1]).handle


#: The system's time of day is another one at each look: a year ahead, a year back.
JUMPS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
static long jump(void) { static int looks; return ++looks % 2 ? 31536000l : -31536000l; }
int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += jump();
    return status;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    now->tv_sec = time.tv_sec;
    now->tv_usec = time.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *place) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (place) *place = now.tv_sec;
    return now.tv_sec;
}
"""


def test_a_clock_that_jumps_by_years_changes_nothing(tmp_path, monkeypatch):
    preload = tmp_path / "jumps.so"
    command = ["cc", "-O1", "-shared", "-fPIC", "-x", "c", "-", "-o", preload, "-ldl"]
    subprocess.run(command, input=JUMPS.encode(), check=True)
    looks = [sys.executable, "-c", "import time; print(time.time() - time.time())"]
    monkeypatch.setenv("LD_PRELOAD", str(preload))
    assert abs(float(subprocess.run(looks, capture_output=True, check=True).stdout)) > 3e7
    path, digest = compile_library(tmp_path, "usleep(1000)")
    stuck, its_digest = compile_library(tmp_path, "for (;;) pause()", after=SETTLING_CALLS)
    folder = tmp_path / "agent"
    transport = LoopbackTransport(folder)
    start = transport.start

    def start_only():  # the host's own clock stands still
        ends = start()
        monkeypatch.delenv("LD_PRELOAD")
        return ends

    transport.start = start_only
    with AgentClient(transport, margin_s=10.0, idle_s=30.0) as client:
        client.put(path, digest)
        client.put(stuck, its_digest)
        handle, its_handle = client.load(digest, self_test=SELF_TEST).handle, client.load(its_digest).handle
        began = time.monotonic()
        (result,) = client.measure([TimingRequest(handle)], max_s=10.0, **QUICK)
        assert time.monotonic() - began < 10
        assert result.error is None
        assert all(1.0 < value < 100.0 for block in result.blocks for value in block.values_ms)
        with pytest.raises(RunFailed, match=r"did not answer within 0.5 s"):
            client.run(its_handle, INPUT, timeout_s=0.5)
    wait_for(lambda: not processes(tmp_path))


def test_a_second_host_is_told_who_is_in_and_gets_in_when_that_host_was_killed(folder, tmp_path):
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from device_agents.client import AgentClient, TimingRequest\n"
        "from device_agents.transport import LoopbackTransport\n"
        "client = AgentClient(LoopbackTransport(Path(sys.argv[1])), holder='anna@laptop (process 7)')\n"
        "client.put(Path(sys.argv[2]), sys.argv[3])\n"
        "handle = client.load(sys.argv[3]).handle\n"
        "print('loaded', flush=True)\n"
        "client.measure([TimingRequest(handle)], blocks=10000, max_s=600.0)\n"
    )
    path, digest = compile_library(tmp_path)
    with subprocess.Popen([sys.executable, "-c", code, folder, path, digest], stdout=subprocess.PIPE) as host:
        assert host.stdout.readline() == b"loaded\n"
        with pytest.raises(DeviceBusy, match=r"used by anna@laptop \(process 7\): wait until that has ended"):
            AgentClient(LoopbackTransport(folder))
        host.kill()
    began = time.monotonic()
    with AgentClient(LoopbackTransport(folder)) as client:
        assert time.monotonic() - began < 5
        client.put(path, digest)
        assert client.run(client.load(digest).handle, INPUT) == INPUT


POLICY = "sys/devices/system/cpu/cpufreq/policy0"


@pytest.fixture
def board(tmp_path, monkeypatch):
    """Root of a board with a governor and an energy counter, which the agent takes for its own."""
    root = tmp_path / "board"
    files = {
        f"{POLICY}/scaling_governor": "ondemand",
        f"{POLICY}/scaling_available_governors": "ondemand performance",
        "sys/class/powercap/intel-rapl:0/name": "package-0",
        "sys/class/powercap/intel-rapl:0/energy_uj": "1000000",
        "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "262143328850",
    }
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text + "\n")
    monkeypatch.setenv("HWPRUNE_ROOT", str(root))
    return root


def governor_of(board):
    return (board / POLICY / "scaling_governor").read_text().strip()


@pytest.mark.parametrize("end", ["close", "kill"])
def test_the_governor_is_set_while_an_agent_works_and_put_back_however_it_ends(end, board, folder, tmp_path):
    client = AgentClient(LoopbackTransport(folder))
    assert client.warnings == ()
    assert client.describe()["governor"] == "performance"
    if end == "close":
        client.close()
    else:
        os.kill(agent_of(tmp_path), signal.SIGKILL)
    # The next agent comes in once all is as it was, and sets it again.
    with AgentClient(LoopbackTransport(folder)) as other:
        assert other.state()["governor"] == "performance"
    wait_for(lambda: governor_of(board) == "ondemand")
    with contextlib.suppress(AgentLost):
        client.close()


def test_energy_of_a_call_is_what_the_counter_rose_by_over_the_calls(board, client, load):
    counter = board / "sys/class/powercap/intel-rapl:0/energy_uj"
    each_call_takes_3_mj = f"""
        FILE *file = fopen("{counter}", "r+");
        long spent;
        if (!file || fscanf(file, "%ld", &spent) != 1) return 1;
        rewind(file);
        fprintf(file, "%ld\\n", spent + 3000);
        fclose(file)"""
    handle = load(each_call_takes_3_mj)
    results = client.measure([TimingRequest(handle), TimingRequest(load())], **QUICK)
    assert [result.error for result in results] == [None, None]
    assert results[0].energy_mj == pytest.approx(3.0)
    assert results[1].energy_mj is None  # the counter stood still
    assert results[0].energy_missing == ""


def test_without_a_counter_there_is_no_energy_but_a_reason(monkeypatch, folder, tmp_path):
    monkeypatch.setenv("HWPRUNE_ROOT", str(tmp_path / "nothing"))
    path, digest = compile_library(tmp_path)
    with AgentClient(LoopbackTransport(folder)) as client:
        client.put(path, digest)
        (result,) = client.measure([TimingRequest(client.load(digest).handle)], **QUICK)
    assert result.energy_mj is None
    assert result.energy_missing == "no readable /sys/class/powercap/intel-rapl:*/name"
