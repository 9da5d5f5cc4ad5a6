"""What can happen to a whole machine while it is measured: a clear error soon, and a board that works again."""

import hashlib
import subprocess
import threading
import time
from pathlib import Path

import pytest
from board_networks import SmallNetwork, fastest_ms

from device_agents.client import AgentClient, TimingRequest
from device_agents.errors import AgentLost, LoadFailed
from device_agents.ssh import SshTransport

pytestmark = [pytest.mark.boards, pytest.mark.ssh, pytest.mark.timeout(280)]

SOURCE = Path(__file__).parents[2] / "unit/device_agents/plain_library.c"

#: The watchdog's patience and what surrounds it, on a busy machine that emulates another one.
FREED_S = 30.0


@pytest.fixture(scope="module")
def network(machine, tmp_path_factory):
    """The small network, compiled for the machine."""
    with AgentClient(SshTransport(machine.way)) as client:
        return SmallNetwork.compiled(client.describe(), tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def measured_and_lost(machine, network):
    """Function that measures for long and does something to the machine meanwhile; the error, and after what time."""

    def measure(happens):
        with AgentClient(SshTransport(machine.way)) as client:
            handle, began, measuring = network.load(client), [], threading.Event()

            def happen():
                measuring.wait(60)
                began.append(time.monotonic())
                happens()

            thread = threading.Thread(target=happen)
            thread.start()
            with pytest.raises(AgentLost) as lost:
                client.measure(
                    [TimingRequest(handle)],
                    blocks=5000,
                    max_s=200.0,
                    timeout_s=60.0,
                    on_progress=lambda *_: measuring.set(),
                )
            elapsed_s = time.monotonic() - began[0]
            thread.join()
        return str(lost.value), elapsed_s

    return measure


def greedy_library(folder):
    """A library for the machine that wants 200 MiB as soon as it is opened; path and digest."""
    (folder / "greedy.c").write_text(
        "static char much[200 << 20];\n"
        "__attribute__((constructor)) static void grow(void)\n"
        "{ for (long i = 0; i < sizeof much; i += 4096) ((volatile char *)much)[i] = 1; }\n"
    )
    path = folder / "greedy.so"
    command = ["aarch64-linux-gnu-gcc", "-O1", "-shared", "-fPIC", SOURCE, folder / "greedy.c", "-o", path]
    subprocess.run(command, check=True)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def works(machine, network):
    """Whether it can be measured, and what ran for the lost host has ended there."""
    with AgentClient(SshTransport(machine.way)) as client:
        try:
            result = network.time(client)
        except LoadFailed:  # the power went before the disk had all of the library; the agent has removed it
            result = network.time(client)
        agents = machine.run("pgrep -c -f '[a]gent-.*pyz'").strip()
    return fastest_ms(result) > 0 and agents == "2"  # the agent and the library's process


def test_a_reboot_in_mid_measurement_is_told_and_the_board_works_again(machine, network, measured_and_lost):
    message, elapsed_s = measured_and_lost(machine.reboot)
    assert "connect again" in message
    assert elapsed_s < FREED_S
    machine.wait()
    assert works(machine, network)


def test_a_power_cut_in_mid_measurement_is_told_and_the_board_works_again(machine, network, measured_and_lost):
    message, elapsed_s = measured_and_lost(machine.cut_power)
    assert "connect again" in message
    assert elapsed_s < FREED_S
    machine.power_on()
    assert works(machine, network)


def test_a_machine_that_freezes_is_told_and_works_again(machine, network, measured_and_lost):
    message, elapsed_s = measured_and_lost(machine.freeze)
    assert "connect again" in message
    assert elapsed_s < FREED_S
    machine.thaw()
    machine.wait()
    assert works(machine, network)


def test_a_process_over_the_memory_limit_is_ended_and_the_agent_lives_on(machine, network, tmp_path):
    limit = "/sys/fs/cgroup/limit"
    with AgentClient(SshTransport(machine.way)) as client:
        # The group of all that the agent starts from now on.
        machine.run(
            f"echo +memory >/sys/fs/cgroup/cgroup.subtree_control; mkdir -p {limit}; echo 60M >{limit}/memory.max; "
            f"for pid in $(pgrep -f agent-.*pyz); do echo $pid >{limit}/cgroup.procs; done"
        )
        path, sha256 = greedy_library(tmp_path)
        client.put(path, sha256)
        with pytest.raises(LoadFailed, match="SIGKILL"):
            client.load(sha256)
        assert network.load(client) > 0
