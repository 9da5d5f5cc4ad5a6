import contextlib
import dataclasses
import os
import sqlite3
import struct
import time
from pathlib import Path

import pytest

from device_agents.client import SelfTest
from hwprune.errors import ConfigError
from hwprune.measurement.jobs import NetworkJob
from hwprune.measurement.measure import Measurer
from hwprune.records import Measurement
from hwprune.store import Store, shape_key
from latency_models.shapes import LayerShape


def kernel(in_channels: int, out_channels: int) -> LayerShape:
    return LayerShape("conv2d", in_channels, out_channels, 8, 8)


def trusted(store: Store, measurement: Measurement) -> Measurement:
    """The measurement in the store as one of grade A, whatever this computer was doing meanwhile."""
    measurement = dataclasses.replace(measurement, trust="A", trust_reason="")
    store.add_measurement(measurement)
    return measurement


def test_a_network_is_measured_whole(measurer: Measurer, compiler, sum_of_four: SelfTest) -> None:
    artifact = compiler.network(2000)
    found = measurer.network(NetworkJob(artifact, sum_of_four))
    assert found.error is None
    assert found.key == artifact.sha256
    low_ms, high_ms = found.interval_ms
    assert 0 < low_ms <= found.latency_ms <= high_ms
    assert found.planned_memory_bytes == 123
    assert found.process_peak_bytes > found.process_delta_bytes > 0
    assert found.load_ms > 0
    assert found.fallback_share == 0.0
    assert found.conditions.input_shape == (1, 4)
    assert (found.conditions.device, found.conditions.schedule_version) == ("local", "fixture")
    assert found.state_before["cpu_times_s"]["busy"] <= found.state_after["cpu_times_s"]["busy"]
    assert found.state_before["missing"]
    assert found.trust_reason or found.trust == "A"


def test_latency_grows_with_the_work(measurer: Measurer, compiler) -> None:
    little, much = measurer.networks([NetworkJob(compiler.network(500)), NetworkJob(compiler.network(4000))])
    assert 4 < much.latency_ms / little.latency_ms < 16


def test_every_measurement_is_kept(measurer: Measurer, compiler, store: Store) -> None:
    job = NetworkJob(compiler.network())
    found = [measurer.network(job, remeasure=True) for _ in range(2)]
    assert store.measurements() == found


def test_a_final_measurement_has_three_processes(measurer: Measurer, compiler) -> None:
    job = NetworkJob(compiler.network())
    assert len(measurer.network(job, final=True, processes=1).values_ms) == 3
    assert len(measurer.network(job, remeasure=True, processes=2).values_ms) == 2


def test_a_trusted_measurement_is_served_from_the_store(measurer: Measurer, compiler, store: Store) -> None:
    job = NetworkJob(compiler.network())
    known = trusted(store, measurer.network(job))
    assert measurer.network(job) == known
    assert measurer.networks([job, job]) == [known, known]


def test_final_remeasured_and_outdated_numbers_are_made_afresh(measurer: Measurer, compiler, store: Store) -> None:
    job = NetworkJob(compiler.network())
    known = trusted(store, measurer.network(job))
    for options in ({"final": True}, {"remeasure": True}, {"max_age_s": 0.0}):
        assert measurer.network(job, **options).measured_at > known.measured_at


def test_numbers_at_a_superseded_reference_level_are_made_afresh(measurer: Measurer, compiler, store: Store) -> None:
    job = NetworkJob(compiler.network())
    first = measurer.network(job)
    known = trusted(store, dataclasses.replace(first, device_reference_ms=first.reference_ms))
    again = Measurer(measurer.link, None, store, measurer.device, wait_s=0.0)
    assert again.network(job) == known
    slower = dataclasses.replace(first, key="0" * 64, device_reference_ms=first.reference_ms * 2)
    trusted(store, slower)
    said: list[str] = []
    later = dataclasses.replace(measurer, say=said.append)
    renewed = later.network(job)
    assert renewed.measured_at > known.measured_at
    if said:  # while other programs are busy the level stands, and the numbers are renewed all the same
        assert "now runs at" in said[0]


def test_a_library_that_a_power_cut_tore_is_sent_again(measurer: Measurer, compiler, tmp_path: Path) -> None:
    job = NetworkJob(compiler.network())
    assert measurer.network(job).error is None
    there = tmp_path / "agent" / f"{job.artifact.sha256}.so"
    there.unlink()  # a link to the artifact, which stays whole
    there.write_bytes(job.artifact.path.read_bytes()[:100])
    assert measurer.network(job, remeasure=True).error is None
    assert there.read_bytes() == job.artifact.path.read_bytes()
    there.unlink()
    assert measurer.network(job, remeasure=True).error is None


def test_a_network_in_two_jobs_is_measured_once(measurer: Measurer, compiler, store: Store) -> None:
    job = NetworkJob(compiler.network())
    first, second = measurer.networks([job, job])
    assert first is second
    assert len(store.measurements()) == 1


def test_a_failed_self_test_is_data_and_spoils_no_other(
    measurer: Measurer, compiler, store: Store, sum_of_four: SelfTest
) -> None:
    wrong = SelfTest(sum_of_four.input_bytes, struct.pack("f", 11))
    good, bad = compiler.network(100), compiler.network(200)
    fine, failed = measurer.networks([NetworkJob(good, sum_of_four), NetworkJob(bad, wrong)])
    assert fine.error is None
    assert "self-test" in failed.error
    assert (failed.values_ms, failed.trust) == ((), "C")
    assert store.find_measurement(bad.sha256, failed.conditions) is None


def test_a_network_that_crashes_in_the_measurement_is_data(measurer: Measurer, compiler) -> None:
    fine, failed = measurer.networks([NetworkJob(compiler.network()), NetworkJob(compiler.network(fatal_call=30))])
    assert fine.error is None
    assert "SIGABRT" in failed.error
    assert failed.latency_ms != failed.latency_ms  # not a number


def test_a_network_that_never_answers_is_data(measurer: Measurer, compiler) -> None:
    measurer.settings = dataclasses.replace(measurer.settings, timeout_s=0.5)
    failed = measurer.network(NetworkJob(compiler.network(2_000_000_000)))
    assert "0.5 s" in failed.error


def test_a_file_that_is_no_library_is_data(measurer: Measurer, compiler) -> None:
    artifact = compiler.network()
    artifact.path.write_bytes(b"nothing to run")
    assert measurer.network(NetworkJob(artifact)).error


def test_networks_of_a_resident_library_share_a_process_and_have_numbers_of_their_own(
    measurer: Measurer, compiler, store: Store, sum_of_four: SelfTest
) -> None:
    library = compiler.resident()
    jobs = [NetworkJob(library, sum_of_four, numbers=(work, 0), memory_bytes=work) for work in (500, 4000)]
    little, much = measurer.networks(jobs)
    assert (little.error, much.error) == (None, None)
    assert 4 < much.latency_ms / little.latency_ms < 16
    assert (little.planned_memory_bytes, much.planned_memory_bytes) == (500, 4000)
    assert little.conditions.engine == "tvm-resident"
    assert (little.load_ms, little.process_peak_bytes, little.fallback_share) == (None, None, 0.0)
    assert len({little.key, much.key, library.sha256}) == 3
    (agent,) = children(os.getpid())
    before = children(agent)
    assert len(before) == 1
    measurer.network(NetworkJob(library, sum_of_four, numbers=(700, 0), memory_bytes=700))
    assert children(agent) == before


def test_a_resident_number_is_served_from_the_store_and_never_as_a_linked_one(
    measurer: Measurer, compiler, store: Store
) -> None:
    library = compiler.resident()
    job = NetworkJob(library, numbers=(500, 0))
    known = trusted(store, measurer.network(job))
    assert measurer.network(job) == known
    assert measurer.network(NetworkJob(library, numbers=(501, 0))).key != known.key
    assert store.find_measurement(known.key, dataclasses.replace(known.conditions, engine="tvm"), None) is None


def test_a_resident_network_that_fails_spoils_none_that_come_later(measurer: Measurer, compiler) -> None:
    library = compiler.resident()
    for numbers, reason in (((500, -1), "SIGABRT"), ((500, 3), "returned status 3")):
        assert reason in measurer.network(NetworkJob(library, numbers=numbers)).error
        assert measurer.network(NetworkJob(library, numbers=(500, 0)), remeasure=True).error is None


def test_a_resident_library_that_computes_something_else_is_data(
    measurer: Measurer, compiler, sum_of_four: SelfTest
) -> None:
    wrong = SelfTest(sum_of_four.input_bytes, struct.pack("f", 11))
    job = NetworkJob(compiler.resident(), wrong, numbers=(500, 0))
    assert "self-test" in measurer.network(job).error
    assert measurer.network(dataclasses.replace(job, self_test=sum_of_four)).error is None


def test_processes_end_with_the_measurement(measurer: Measurer, compiler) -> None:
    measurer.network(NetworkJob(compiler.network()), processes=3)
    (agent,) = children(os.getpid())
    deadline = time.monotonic() + 5
    while children(agent) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children(agent) == []


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


@pytest.mark.parametrize(("own_share", "expected"), [(0.5, 0.5), (10.0, None), (None, None)])
def test_time_in_kernels_without_a_schedule_is_what_the_others_leave(
    measurer: Measurer, compiler, own_share: float | None, expected: float | None
) -> None:
    artifact = compiler.network(fallback_calls=2, fallback_ops=["softmax"])
    latency_ms = measurer.network(NetworkJob(artifact)).latency_ms
    job = NetworkJob(artifact, own_kernels_ms=own_share and own_share * latency_ms)
    found = measurer.network(job, remeasure=True)
    if expected is None:
        assert found.fallback_share is None
        assert found.trust != "A"
        assert found.trust == "C" or "softmax" in found.trust_reason or "A allows" in found.trust_reason
    else:
        assert found.fallback_share is not None
        assert 0 < found.fallback_share < 1


def test_kernels_are_measured_stored_and_not_measured_again(measurer: Measurer, compiler, store: Store) -> None:
    shapes = [kernel(1, 100), kernel(4, 100), kernel(1, 100)]
    found = measurer.kernels(shapes)
    assert list(found) == shapes[:2]
    assert compiler.packs == 1
    assert found[shapes[0]].key == shape_key(shapes[0])
    assert found[shapes[0]].conditions.input_shape == (1, 1, 8, 8)
    assert 2 < found[shapes[1]].latency_ms / found[shapes[0]].latency_ms < 8
    known = {shape: dataclasses.replace(row, trust="A") for shape, row in found.items()}
    store.add_kernel_measurements(known.items())
    assert measurer.kernels(shapes) == known
    assert compiler.packs == 1
    assert measurer.kernels(shapes[:1], remeasure=True)[shapes[0]].measured_at > known[shapes[0]].measured_at
    assert store.measurements() == []


def test_a_kernel_that_fails_is_data_and_spoils_no_other(measurer: Measurer, store: Store) -> None:
    found = measurer.kernels([kernel(1, 100), kernel(1001, 1)])
    assert found[kernel(1, 100)].error is None
    assert "status 1" in found[kernel(1001, 1)].error


def test_progress_ends_at_the_total_and_never_goes_back(measurer: Measurer, compiler) -> None:
    seen: list[tuple[int, int]] = []
    shapes = [kernel(1, count) for count in range(1, 41)]
    measurer.kernels(shapes, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (40, 40)
    seen.clear()
    measurer.networks([NetworkJob(compiler.network())], progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (1, 1)


def test_an_interrupted_profile_keeps_what_was_measured(measurer: Measurer, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done > 34:
            raise KeyboardInterrupt

    shapes = [kernel(1, count) for count in range(1, 41)]
    with pytest.raises(KeyboardInterrupt):
        measurer.kernels(shapes, progress=interrupt)
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as rows:
        kept = {key for (key,) in rows.execute("SELECT key FROM measurements")}
    assert kept == {shape_key(shape) for shape in shapes[:32]}


def test_kernels_need_a_compiler(measurer: Measurer) -> None:
    with pytest.raises(ConfigError, match="with a compiler"):
        dataclasses.replace(measurer, compiler=None).kernels([kernel(1, 1)])
