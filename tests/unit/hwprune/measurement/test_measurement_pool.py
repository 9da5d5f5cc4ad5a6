"""Boards of a pool, each a real agent of its own on this computer."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_agents.client import AgentClient
from device_agents.errors import AgentLost
from device_agents.registry import Device
from device_agents.transport import LoopbackTransport
from hwprune.errors import ConfigError
from hwprune.experiments.home import Home
from hwprune.experiments.members import members_of
from hwprune.experiments.pool import OneAtATime, PoolSession
from hwprune.experiments.progress import Silent
from hwprune.experiments.session import DeviceSession
from hwprune.measurement.jobs import NetworkJob
from hwprune.measurement.link import Link
from hwprune.measurement.measure import Measurer
from hwprune.measurement.session import Settings
from hwprune.store import Store
from latency_models.shapes import LayerShape

BRIEF = Settings(blocks=4, calls_min=3, block_ms_min=0.3, repeats_max=0, repeat_s=1.0, timeout_s=5.0)


def quiet(_text: str) -> None:
    pass


@pytest.fixture
def pool(tmp_path: Path, compiler, store: Store) -> Iterator[PoolSession]:
    """Boards a, b and c; b takes 1.1 times as long as a."""
    in_turns = OneAtATime(compiler)
    with contextlib.ExitStack() as opened:
        members = []
        for name in "abc":
            client = opened.enter_context(AgentClient(LoopbackTransport(tmp_path / name)))
            described = client.describe()
            device = Device(name=name, transport="local", platform="cpu", target={}, description=described)

            def connect(client: AgentClient = client) -> AgentClient:
                if client._closed:
                    raise AgentLost("it does not answer")
                return client

            link = Link(connect, say=quiet)
            measurer = Measurer(link, in_turns, store, device, BRIEF, BRIEF, BRIEF, wait_s=0.0, say=quiet)
            members.append(DeviceSession(Home(tmp_path), device, compiler, measurer))
        first = members[0]
        pool = PoolSession(first.home, first.device, first.compiler, first.measurer, None, "a+b+c", members, Silent())
        pool.ratios = {"a": 1.0, "b": 1.1, "c": 1.0}
        yield pool


def kernels(count: int) -> list[LayerShape]:
    return [LayerShape("conv2d", 1, number + 1, 8, 8) for number in range(count)]


def test_all_boards_take_from_one_queue_and_every_value_names_its_board(pool: PoolSession) -> None:
    shapes = kernels(12)
    found = pool.measure_kernels(shapes)
    assert set(found) == set(shapes)
    assert {row.conditions.device for row in found.values()} == {"a", "b", "c"}
    assert {row.board_ratio for row in found.values() if row.conditions.device == "b"} == {1.1}


def test_the_store_keeps_what_each_board_measured_as_it_was(pool: PoolSession, store: Store) -> None:
    found = pool.measure_kernels(kernels(6))
    for shape, row in found.items():
        store.add_kernel_measurements([(shape, dataclasses.replace(row, trust="A", board_ratio=1.0))])
    fingerprint = pool.device.fingerprint
    for board in "abc":
        kept = dict(store.kernel_measurements(fingerprint, "fixture", device=board))
        assert {row.conditions.device for row in kept.values()} <= {board}
        assert set(kept) == {shape for shape, row in found.items() if row.conditions.device == board}


def test_what_a_lost_board_had_goes_to_the_others(pool: PoolSession) -> None:
    pool.members[1].measurer.client.close()
    found = pool.measure_kernels(kernels(9))
    assert len(found) == 9
    assert {row.conditions.device for row in found.values()} <= {"a", "c"}
    assert [member.device.name for member in pool.members] == ["a", "c"]
    assert pool.name == "a+b+c"


def test_a_pool_without_boards_ends_with_the_reason_of_the_last(pool: PoolSession) -> None:
    for member in pool.members:
        member.measurer.client.close()
    with pytest.raises(AgentLost, match="it does not answer"):
        pool.measure_kernels(kernels(3))


def test_a_single_board_is_not_enough_for_a_front(pool: PoolSession) -> None:
    del pool.members[1:]
    with pytest.raises(AgentLost, match="only a is left of a\\+b\\+c"):
        pool.measure_final(None, [], None, Silent())  # type: ignore[arg-type]


def test_every_job_of_a_front_is_measured_on_two_boards(pool: PoolSession, compiler) -> None:
    jobs = [NetworkJob(compiler.network(500 + number)) for number in range(4)]
    rows = pool.measured_twice(jobs, Silent())
    assert [sorted(set(row.boards)) for row in rows] == [["a", "b"], ["b", "c"], ["a", "c"], ["a", "b"]]
    assert all(len(row.boards) == len(row.values_ms) == 6 for row in rows)
    assert {row.conditions.device for row in rows} == {"a+b+c"}


def test_boards_that_are_not_identical_are_refused_by_what_differs(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    one = Device(name="a", transport="local", platform="cpu", target={}, description={"cpu_model": "x", "kernel": "6"})
    home.devices.add(one)
    home.devices.add(one.model_copy(update={"name": "twin"}))
    home.devices.add(one.model_copy(update={"name": "other", "threads": 2, "description": {"cpu_model": "y"}}))
    assert [board.name for board in members_of(home, "a+twin")] == ["a", "twin"]
    assert [board.name for board in members_of(home, "a")] == ["a"]
    with pytest.raises(ConfigError, match="a and other are not identical, they differ in cpu_model, kernel, threads"):
        members_of(home, "a+twin+other")
    with pytest.raises(ConfigError, match="name each board of a pool once"):
        members_of(home, "a+a")
