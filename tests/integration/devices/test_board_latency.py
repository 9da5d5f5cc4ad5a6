"""From a freshly booted arm64 system to a measured latency; emulated, so no number here says anything of hardware."""

import time

import board_networks
import pytest
from board_networks import SmallNetwork, fastest_ms
from boards import MachineBoard

from device_agents.client import AgentClient, TimingRequest
from device_agents.ssh import SshTransport
from hwprune.compilation.targets import target_of
from hwprune.records import bootstrap_interval_ms

pytestmark = [pytest.mark.boards, pytest.mark.ssh, pytest.mark.timeout(280)]

FRESH_TO_MEASURED_S = 180.0


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """Folder of compiled kernels that all tests share."""
    return tmp_path_factory.mktemp("kernels")


def test_a_freshly_booted_machine_is_measured_within_three_minutes(start_machine, kernels):
    began = time.monotonic()
    board = start_machine()
    with AgentClient(SshTransport(board.way)) as client:
        description = client.describe()
        assert description["arch"] == "aarch64"
        assert description["platform"] == "arm"
        assert target_of(description)["mcpu"] == "cortex-a72"
        # Loading it is the comparison with torch.
        result = SmallNetwork.compiled(description, kernels).time(client)
    assert len(result.blocks) == board_networks.QUICK["blocks"]
    assert fastest_ms(result) > 0
    assert time.monotonic() - began < FRESH_TO_MEASURED_S


def test_a_system_whose_programs_are_emulated_is_measured(start_user_board, kernels):
    with AgentClient(SshTransport(start_user_board(201).way)) as client:
        description = client.describe()
        assert target_of(description)["mcpu"] == "generic"
        assert fastest_ms(SmallNetwork.compiled(description, kernels).time(client)) > 0


@pytest.fixture(scope="module")
def counted(board_files, tmp_path_factory, kernels):
    """A machine of 2 ns an instruction; a function that measures the network there, always by the same connection."""
    board = MachineBoard(board_files, tmp_path_factory.mktemp("counted"), shift=1)
    try:
        board.power_on()
        with AgentClient(SshTransport(board.way)) as client:
            network = SmallNetwork.compiled(client.describe(), kernels)
            handle = network.load(client)

            def measure():
                (result,) = client.measure([TimingRequest(handle)], **{**board_networks.QUICK, "blocks": 12})
                assert result.error is None
                return result

            yield board, client, measure
    finally:
        board.cut_power()


def test_a_board_of_a_quarter_of_the_speed_takes_four_times_as_long(counted, start_machine, kernels):
    _, _, measure = counted
    with AgentClient(SshTransport(start_machine(3).way)) as client:
        slow_ms = fastest_ms(SmallNetwork.compiled(client.describe(), kernels).time(client))
    assert slow_ms / fastest_ms(measure()) == pytest.approx(4, rel=0.02)


def test_a_slow_way_to_the_board_does_not_slow_the_network_down(counted):
    board, client, measure = counted
    intervals_ms, round_trips_s = [], []
    for command in ("true", "tc qdisc add dev eth0 root netem delay 100ms"):
        board.run(command)
        result, began = measure(), time.monotonic()
        client.state()
        round_trips_s.append(time.monotonic() - began)
        # Intervals of a counted clock are narrow: to differ by a thousandth is no difference.
        low, high = bootstrap_interval_ms((tuple(block.values_ms for block in result.blocks),))
        intervals_ms.append((low * 0.999, high * 1.001))
    assert round_trips_s[1] > 0.1
    (low, high), (low_delayed, high_delayed) = intervals_ms
    assert low <= high_delayed
    assert low_delayed <= high
