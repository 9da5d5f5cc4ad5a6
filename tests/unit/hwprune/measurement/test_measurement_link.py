"""Devices that are lost in the middle of a measurement; the agents are real processes."""

import dataclasses
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from device_agents.client import AgentClient
from device_agents.errors import AgentError, AgentLost, DeviceBusy, RequestRefused
from device_agents.transport import LoopbackTransport
from hwprune.measurement.jobs import NetworkJob
from hwprune.measurement.link import LOSSES_MAX, Link, LostByWork
from hwprune.measurement.measure import Measurer
from hwprune.store import Store
from latency_models.shapes import LayerShape

QUICK = (0.01, 0.02, 0.04)


class Agents:
    """Agents of one folder, and what was said of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.started = 0
        self.obstacles: list[AgentError] = []

    def connect(self) -> AgentClient:
        if self.started and self.obstacles:
            raise self.obstacles.pop(0)
        self.started += 1
        return AgentClient(LoopbackTransport(self.folder))

    def link(self) -> Link:
        return Link(self.connect, waits_s=QUICK, say=self.said.append)


@pytest.fixture
def agents(tmp_path: Path) -> Agents:
    return Agents(tmp_path / "agent")


def processes() -> list[int]:
    """Children of this process."""
    tasks = Path(f"/proc/{os.getpid()}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def kill_agent() -> None:
    (agent,) = processes()
    os.kill(agent, signal.SIGKILL)


def test_work_is_done_once_while_nothing_is_lost(agents: Agents) -> None:
    with agents.link() as link:
        assert link.do(lambda client: client.describe())["python"]
        assert link.do(lambda client: client) is link.client()
    assert (agents.started, agents.said, processes()) == (1, [], [])


def test_work_is_begun_anew_with_a_new_agent(agents: Agents) -> None:
    tries = []

    def work(client: AgentClient) -> str:
        tries.append(client)
        if len(tries) == 1:
            kill_agent()
        return str(client.describe()["python"])

    with agents.link() as link:
        assert link.do(work)
    assert len({*tries}) == agents.started == 2
    assert agents.said[0].startswith("the device is lost (describe: the agent ended or the way to it broke")
    assert agents.said[1:] == ["the device is back"]


def test_a_device_that_is_busy_with_its_lost_agent_is_asked_again(agents: Agents) -> None:
    agents.obstacles = [DeviceBusy("the lost agent has not noticed yet"), AgentLost("no way there")]

    def work(client: AgentClient) -> bool:
        if agents.started == 1:
            kill_agent()
        return bool(client.state())

    with agents.link() as link:
        assert link.do(work)
    assert agents.started == 2


def test_a_device_that_stays_away_is_given_up_with_cause_and_remedy(agents: Agents) -> None:
    agents.obstacles = [AgentLost(f"no way there, attempt {number}") for number in (1, 2, 3, 4)]

    def work(client: AgentClient) -> None:
        kill_agent()
        client.state()

    with agents.link() as link, pytest.raises(AgentLost, match=r"stays away.*attempt 4.*device check") as raised:
        link.do(work)
    assert not isinstance(raised.value, LostByWork)
    assert raised.value.exit_code == 3
    assert agents.obstacles == []


def test_an_error_that_is_no_loss_ends_the_attempts_at_once(agents: Agents) -> None:
    agents.obstacles = [RequestRefused("another host key")]

    def work(client: AgentClient) -> None:
        kill_agent()
        client.state()

    with agents.link() as link, pytest.raises(RequestRefused):
        link.do(work)


def test_work_that_the_device_is_lost_by_each_time_is_told_apart(agents: Agents) -> None:
    def work(client: AgentClient) -> None:
        kill_agent()
        client.state()

    with agents.link() as link:
        with pytest.raises(LostByWork, match=f"lost {LOSSES_MAX} times by the same work"):
            link.do(work)
        assert link.do(lambda client: client.state())
    assert agents.started == LOSSES_MAX + 1


def test_a_device_that_is_lost_between_two_pieces_of_work_is_waited_for_too(agents: Agents) -> None:
    with agents.link() as link:
        link.do(lambda client: client.state())
        link.close()
        agents.obstacles = [AgentLost("no way there"), AgentLost("no way there")]
        assert link.do(lambda client: client.state())


def test_the_first_agent_waits_for_a_busy_device_and_says_so(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwprune.measurement.link.BUSY_POLL_S", 0.05)
    busy = [DeviceBusy("the board is used by somebody")] * 2

    def connect() -> AgentClient:
        if busy:
            raise busy.pop()
        return agents.connect()

    with Link(connect, say=agents.said.append) as link:
        with pytest.raises(DeviceBusy):
            link.client()
        link.client(busy_wait_s=20)
    assert agents.said == ["the board is used by somebody: waiting for up to 20 s"]


@pytest.fixture
def measurer_on(agents: Agents, measurer: Measurer, client: AgentClient) -> Iterator[Callable[[], Measurer]]:
    """Function that gives a measurer on agents that can be lost."""
    client.close()
    links = []

    def build() -> Measurer:
        links.append(agents.link())
        return dataclasses.replace(measurer, link=links[-1])

    yield build
    for link in links:
        link.close()


def killing(times: int) -> Callable[[int, int], None]:
    """Progress that kills the agent when the first blocks are done, so many times."""
    left = [times]

    def progress(done: int, total: int) -> None:
        if left[0]:
            left[0] -= 1
            kill_agent()

    return progress


def test_a_sitting_that_the_device_was_lost_in_is_measured_again_and_kept_once(
    measurer_on: Callable[[], Measurer], compiler, store: Store, agents: Agents, sum_of_four
) -> None:
    jobs = [NetworkJob(compiler.network(work), sum_of_four) for work in (500, 600)]
    found = measurer_on().networks(jobs, progress=killing(1))
    assert [(each.error, len(each.values_ms)) for each in found] == [(None, 1), (None, 1)]
    assert store.measurements() == found
    assert agents.started == 2


def test_a_library_that_went_with_the_boards_folder_is_uploaded_again(
    measurer_on: Callable[[], Measurer], compiler, agents: Agents
) -> None:
    def progress(done: int, total: int) -> None:
        if agents.started == 1:
            kill_agent()
            for file in agents.folder.glob("*.so"):
                file.unlink()

    assert measurer_on().network(NetworkJob(compiler.network()), progress=progress).error is None
    assert len(list(agents.folder.glob("*.so"))) == 1


def test_a_resident_library_is_loaded_again_after_a_loss(
    measurer_on: Callable[[], Measurer], compiler, agents: Agents
) -> None:
    measurer, library = measurer_on(), compiler.resident()
    assert measurer.network(NetworkJob(library, numbers=(500, 0))).error is None
    kill_agent()
    assert measurer.network(NetworkJob(library, numbers=(600, 0))).error is None
    assert agents.started == 2


def test_of_a_device_that_stays_away_nothing_is_kept_but_what_was_measured_before(
    measurer_on: Callable[[], Measurer], compiler, store: Store, agents: Agents
) -> None:
    measurer = measurer_on()
    known = measurer.network(NetworkJob(compiler.network(500)))
    agents.obstacles = [AgentLost("no way there")] * 4
    with pytest.raises(AgentLost, match="stays away"):
        measurer.network(NetworkJob(compiler.network(600)), progress=killing(1))
    assert store.measurements() == [known]
    assert measurer.network(NetworkJob(compiler.network(600))).error is None


def test_the_network_that_a_device_is_lost_by_is_found_out_and_fails_alone(
    measurer_on: Callable[[], Measurer], compiler, store: Store
) -> None:
    good, bad = compiler.network(500), compiler.network(700, kills_parent=1)
    fine, failed = measurer_on().networks([NetworkJob(good), NetworkJob(bad)])
    assert fine.error is None
    assert failed.error.startswith(f"the device was lost {LOSSES_MAX} times by the same work (")
    assert (failed.values_ms, failed.trust, failed.key) == ((), "C", bad.sha256)
    assert [row.key for row in store.measurements()] == [good.sha256, bad.sha256]


def test_the_kernel_that_a_device_is_lost_by_is_found_out_and_fails_alone(
    measurer_on: Callable[[], Measurer], compiler
) -> None:
    good, bad = (LayerShape("conv2d", 1, channels, 8, 8) for channels in (100, 666))
    found = measurer_on().kernels([good, bad])
    assert found[good].error is None
    assert "by the same work" in found[bad].error
