import dataclasses
from typing import NoReturn

import pytest

from hwprune.compilation.compiler import Compiler
from hwprune.compilation.memory_probe import PROBE_BYTES
from hwprune.compilation.targets import CpuTarget
from hwprune.errors import CompileError
from hwprune.measurement.contention import PRIVATE_CACHE_BYTES
from hwprune.measurement.jobs import NetworkJob
from hwprune.measurement.measure import Measurer, _capped
from hwprune.measurement.session import Subject
from hwprune.records import MEMORY_DOUBT, MEMORY_DOUBT_MAX, Conditions, Measurement, MemoryReading
from hwprune.store import Store

CONDITIONS = Conditions("local", "f", "tvm", "float32", (1, 3, 32, 32), 1, "3")


def measured(memory: MemoryReading | None, cold_share: float) -> Measurement:
    blocks = tuple((2.0, 2.0, 2.01) for _ in range(6))
    return Measurement("k", CONDITIONS, (blocks,), trust="A", memory=memory, cold_share=cold_share)


@pytest.fixture
def large(compiler) -> NetworkJob:
    return NetworkJob(compiler.network(weights_bytes=1 << 30))


def test_an_interval_reaches_down_to_what_a_network_takes_when_others_rest() -> None:
    alone, shared = measured(None, 1.0), measured(MemoryReading(1.2, 1.0), 0.5)
    assert shared.latency_ms == alone.latency_ms, "what was measured stays as it is"
    assert shared.interval_ms[1] == alone.interval_ms[1]
    assert shared.interval_ms[0] == pytest.approx(alone.interval_ms[0] * (1 - 0.2 * 0.5 * MEMORY_DOUBT))


def test_a_network_in_its_own_cache_is_in_no_doubt_and_no_doubt_is_endless() -> None:
    assert measured(MemoryReading(2.0, 1.0), 0.0).memory_doubt == 0
    assert measured(MemoryReading(0.9, 1.0), 1.0).memory_doubt == 0
    assert measured(MemoryReading(9.0, 1.0), 1.0).memory_doubt == MEMORY_DOUBT_MAX


def test_the_grade_is_capped_where_others_use_the_memory(large) -> None:
    capped = _capped(measured(MemoryReading(1.2, 1.0), 1.0), large)
    assert capped.trust == "B"
    assert "20.0% less" in capped.trust_reason
    assert _capped(measured(MemoryReading(1.001, 1.0), 1.0), large).trust == "A"


def test_final_numbers_of_large_networks_know_the_memory(measurer: Measurer, large, store: Store) -> None:
    found = measurer.network(large, final=True)
    assert found.memory is not None
    assert 0 < found.memory.fastest_ms <= found.memory.latency_ms
    own = measurer.device.description["private_cache_bytes"] or PRIVATE_CACHE_BYTES
    assert found.cold_share == pytest.approx(1 - own / large.planned_memory_bytes)
    assert Measurement.from_dict(found.as_dict()) == found
    assert measurer.network(large, remeasure=True).memory is None, "searches look at many networks in passing"
    assert measurer.network(large, remeasure=True, processes=3).memory is not None


def test_small_networks_are_not_asked(measurer: Measurer, compiler) -> None:
    assert measurer.network(NetworkJob(compiler.network()), final=True).memory is None


def test_the_probe_is_linked_once(measurer: Measurer, large, compiler, monkeypatch) -> None:
    linked = []
    monkeypatch.setattr(compiler, "memory_probe", lambda make=compiler.memory_probe: linked.append(1) or make())
    for _ in range(2):
        assert measurer.network(large, final=True).memory is not None
    assert len(linked) == 1


def test_without_a_probe_networks_are_measured_all_the_same(measurer: Measurer, large, compiler, monkeypatch) -> None:
    def refuse() -> NoReturn:
        raise CompileError("no memchr here")

    monkeypatch.setattr(compiler, "memory_probe", refuse)
    found = measurer.network(large, final=True)
    assert found.error is None
    assert found.memory is None


def test_a_witness_is_never_waited_for() -> None:
    assert not Subject([], is_witness=True).is_pending
    assert Subject([]).is_pending


def test_the_fastest_pass_is_remembered(measurer: Measurer, large, store: Store) -> None:
    device = measurer.device
    fast = dataclasses.replace(
        measured(MemoryReading(2e-6, 1e-6), 1.0),
        measured_at="2026-01-01T00:00:00+00:00",
        conditions=dataclasses.replace(CONDITIONS, fingerprint=device.fingerprint, schedule_version="fixture"),
    )
    store.add_measurement(fast)
    found = measurer.network(large, final=True).memory
    assert found is not None
    assert found.fastest_ms == 1e-6


def test_the_probe_reads_more_than_a_core_has_for_itself(measurer: Measurer, tmp_path) -> None:
    artifact = Compiler(CpuTarget.from_dict({"kind": "llvm", "mcpu": "x86-64-v3"}), tmp_path).memory_probe()
    found = measurer.network(NetworkJob(artifact))
    assert found.error is None
    bytes_a_ms = PROBE_BYTES / found.latency_ms
    assert bytes_a_ms < 200e6, "no memory is as fast as 200 GB/s for one core: something was not read"
