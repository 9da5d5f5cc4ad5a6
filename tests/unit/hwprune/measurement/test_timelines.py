"""Kernels timed inside networks, on a device that is this computer, and on pools of two that are."""

import contextlib
import dataclasses
import hashlib
import itertools
import os

import numpy as np
import pytest
import torch
from torch import nn

from device_agents.client import AgentClient
from device_agents.errors import AgentLost
from device_agents.registry import Device
from device_agents.transport import LoopbackTransport
from hwprune.compilation.compiler import Compiler
from hwprune.compilation.graph import trace
from hwprune.compilation.targets import host_target
from hwprune.experiments.home import Home
from hwprune.experiments.pool import PoolSession
from hwprune.experiments.progress import Silent
from hwprune.experiments.session import DeviceSession
from hwprune.measurement.link import Link
from hwprune.measurement.measure import Measurer
from hwprune.measurement.timelines import open_timer
from hwprune.store import Store

pytestmark = pytest.mark.measures


def chain(width):
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 32, 3, padding=1), nn.ReLU())


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    compiler = Compiler(host_target(), tmp_path_factory.mktemp("compiled"))
    graph = trace(chain(64), torch.zeros(1, 3, 16, 16))
    resident = compiler.resident(graph, chain(64), map(chain, range(1, 64, 3)))
    return compiler, graph, compiler.timeline(resident)


@pytest.fixture
def measurer(tmp_path, compiled):
    with (
        Store.open(tmp_path / "store.db", tmp_path / "artifacts") as store,
        AgentClient(LoopbackTransport(tmp_path / "agent")) as client,
    ):
        description = client.describe()
        device = Device(
            name="here", transport="local", platform="cpu", target={"kind": "llvm"}, description=description
        )
        yield Measurer(Link(lambda: client), compiled[0], store, device, wait_s=0.0)


def test_calls_of_networks_get_times_with_a_spread(measurer, compiled):
    compiler, graph, timeline = compiled
    plans = [graph.for_target(compiler.target).plan(chain(width)) for width in (64, 16)]
    with open_timer(measurer, timeline) as timer:
        wide, narrow = timer.times([timeline.family.numbers(plan) for plan in plans])
    if wide is None or narrow is None:
        pytest.skip("this machine is too busy to measure anything")
    assert len(wide) == len(narrow) == timeline.calls
    assert all(time.latency_ms > 0 and time.spread_ms > 0 for time in [*wide, *narrow])
    total = [sum(time.latency_ms for time in times) for times in (wide, narrow)]
    assert total[1] < 0.6 * total[0], "a quarter of the width"


def test_a_network_that_cannot_run_has_no_times_and_the_others_have(measurer, compiled):
    compiler, graph, timeline = compiled
    nonsense = tuple(np.full(sum(timeline.family.slots), 99))
    good = timeline.family.numbers(graph.for_target(compiler.target).plan(chain(32)))
    with open_timer(measurer, timeline) as timer:
        failed, timed = timer.times([nonsense, good])
    assert failed is None
    if timed is None:
        pytest.skip("this machine is too busy to measure anything")
    assert len(timed) == timeline.calls


def test_a_spare_core_that_cannot_be_used_is_done_without(measurer, compiled):
    cores = (max(os.sched_getaffinity(0)), 4095)
    measurer.device = measurer.device.model_copy(update={"cores": cores})
    with open_timer(measurer, compiled[2]) as timer:
        assert timer is not None


def test_a_lost_agent_is_started_again_and_the_library_loaded_there(tmp_path, compiled):
    compiler, graph, timeline = compiled
    numbers = timeline.family.numbers(graph.for_target(compiler.target).plan(chain(32)))
    link = Link(lambda: AgentClient(LoopbackTransport(tmp_path / "agent")), waits_s=(0.1,), say=lambda _text: None)
    with Store.open(tmp_path / "store.db", tmp_path / "artifacts") as store, link:
        device = Device(name="here", transport="local", platform="cpu", target={}, description=link.client().describe())
        lost = Measurer(link, compiler, store, device, wait_s=0.0, say=lambda _text: None)
        with open_timer(lost, timeline) as timer:
            link.client().close()
            (timed,) = timer.times([numbers])
    if timed is None:
        pytest.skip("this machine is too busy to measure anything")
    assert len(timed) == timeline.calls


@pytest.fixture
def broken(compiled, tmp_path):
    """A timeline that no device can load."""
    path = tmp_path / "broken.so"
    path.write_bytes(b"no library")
    artifact = dataclasses.replace(compiled[2].artifact, path=path, sha256=hashlib.sha256(b"no library").hexdigest())
    return dataclasses.replace(compiled[2], artifact=artifact)


def test_a_library_that_the_device_cannot_load_gives_no_timer(measurer, broken):
    said = []
    measurer.say = said.append
    with open_timer(measurer, broken) as timer:
        assert timer is None
    assert "cannot be timed inside networks" in said[0]


@pytest.fixture
def pool(tmp_path, compiled):
    """Two boards, the second of which is said to take eight times as long; each starts its agent once."""
    with Store.open(tmp_path / "store.db", tmp_path / "artifacts") as store, contextlib.ExitStack() as opened:
        members = []
        for name in ("first", "second"):
            agents = iter([opened.enter_context(AgentClient(LoopbackTransport(tmp_path / name)))])
            link = opened.enter_context(Link(lambda agents=agents: started(agents), say=lambda _text: None))
            device = Device(
                name=name, transport="local", platform="cpu", target={}, description=link.client().describe()
            )
            measurer = Measurer(link, compiled[0], store, device, wait_s=0.0, say=lambda _text: None)
            members.append(DeviceSession(Home(tmp_path), device, compiled[0], measurer))
        first = members[0]
        pool = PoolSession(
            first.home, first.device, first.compiler, first.measurer, None, "first+second", members, Silent()
        )
        pool.ratios = {"first": 1.0, "second": 8.0}
        yield pool


def started(agents):
    for agent in agents:
        return agent
    raise AgentLost("it stays away")


def test_the_boards_of_a_pool_share_the_networks_and_give_times_at_the_speed_of_the_first(pool, compiled):
    compiler, graph, timeline = compiled
    numbers = timeline.family.numbers(graph.for_target(compiler.target).plan(chain(48)))
    with pool.open_timer(timeline) as timer:
        found = timer.times([numbers] * 4)
    if None in found:
        pytest.skip("this machine is too busy to measure anything")
    totals = sorted(sum(time.latency_ms for time in times) for times in found)
    # Equal networks on equal boards, of which one is divided by 8: two and two, far apart.
    steps = [later / earlier for earlier, later in itertools.pairwise(totals)]
    assert steps[1] == max(steps)
    assert steps[1] > 4


def test_networks_of_a_board_that_is_lost_are_timed_on_the_others(pool, compiled):
    compiler, graph, timeline = compiled
    numbers = timeline.family.numbers(graph.for_target(compiler.target).plan(chain(48)))
    with pool.open_timer(timeline) as timer:
        pool.members[1].board.client.close()
        found = timer.times([numbers] * 3)
    assert [member.device.name for member in pool.members] == ["first"]
    assert len(found) == 3
    if None in found:
        pytest.skip("this machine is too busy to measure anything")
    totals = [sum(time.latency_ms for time in times) for times in found]
    assert max(totals) < 4 * min(totals), "none of them is divided by the ratio of the lost board"


def test_a_pool_whose_boards_cannot_load_the_library_has_no_timer(pool, broken):
    with pool.open_timer(broken) as timer:
        assert timer is None
