import dataclasses
import itertools

import numpy as np
import pytest

from device_agents.client import NO_LOAD, Block
from hwprune.measurement.jobs import NetworkJob
from hwprune.measurement.measure import NETWORK_SETTINGS, Measurer
from hwprune.measurement.scenarios import grade_steady, kept_blocks, settings_of
from hwprune.records import Conditions, Measurement
from hwprune.scenario import BURST, Scenario
from hwprune.store import Store

PACED = Scenario.parse("paced:50Hz")


def block(latency_ms: float, elapsed_s: float, busy_s: float) -> Block:
    """A block that began at a time at which both cores together had been busy for so long."""
    values = tuple(latency_ms * (1 + 0.001 * number) for number in range(8))
    times = {"busy": busy_s, "idle": 2 * elapsed_s - busy_s, "stolen": 0.0}
    state = {"elapsed_s": elapsed_s, "clocks_mhz": [1500.0], "cpu_times_s": times}
    return Block(values, latency_ms / 10, latency_ms / 10, state=state)


def test_a_paced_network_is_measured_and_told_apart(measurer: Measurer, compiler, store: Store, sum_of_four) -> None:
    job = NetworkJob(compiler.network(2000), sum_of_four)
    found = measurer.networks([job], scenario=PACED)[0]
    assert found.error is None
    assert found.conditions.scenario == "paced:50Hz"
    assert found.clock_ratio == 1.0
    assert {len(values) for process in found.values_ms for values in process} == {12}
    store.add_measurement(dataclasses.replace(found, trust="A"))
    assert measurer.networks([job], scenario=PACED)[0].measured_at == found.measured_at
    burst = measurer.network(job)
    assert (burst.conditions.scenario, burst.measured_at > found.measured_at) == ("burst", True)


def test_a_pace_that_a_network_cannot_keep_is_data(measurer: Measurer, compiler) -> None:
    found = measurer.networks([NetworkJob(compiler.network(200_000))], scenario=Scenario(rate_hz=1000.0))[0]
    assert found.error is not None
    assert "at 1000 Hz" in found.error


def test_a_loads_level_is_not_taken_for_the_devices_own(measurer: Measurer, compiler, store: Store) -> None:
    job = NetworkJob(compiler.network(2000))
    paced = measurer.networks([job], scenario=PACED)[0]
    assert paced.device_reference_ms is None
    assert paced.reference_ms is not None


def test_a_steady_load_tells_how_the_device_fared(measurer: Measurer, compiler, sum_of_four) -> None:
    job = NetworkJob(compiler.network(2000), sum_of_four)
    found = measurer.networks([job], final=True, scenario=Scenario(seconds=10.0))[0]
    assert found.error is None
    assert len(found.values_ms) == 1
    times = [moment["elapsed_s"] for moment in found.timeline]
    assert 7 <= len(times) <= 10
    assert all(0.9 < later - earlier < 3 for earlier, later in itertools.pairwise(times))
    assert {"clocks_mhz", "temperatures_celsius", "latency_ms", "counts"} <= set(found.timeline[0])
    assert not any(moment["counts"] for moment in found.timeline if moment["elapsed_s"] < 5)
    assert sum(moment["counts"] for moment in found.timeline) == len(found.values_ms[0])
    assert Measurement.from_dict(found.as_dict()) == found


def test_a_steady_loads_early_blocks_and_those_beside_other_programs_do_not_count() -> None:
    calm = [block(1.0, float(second), float(second)) for second in range(1, 13)]
    assert kept_blocks(calm, 12.0, threads=1) == (calm[5:], calm[5:])
    busy = [*calm[:-1], block(1.0, 12.0, 12.9)]  # almost both cores in the last second
    assert kept_blocks(busy, 12.0, threads=1) == (busy[5:-1], busy[5:-1])
    assert kept_blocks(busy, 12.0, threads=2) == (busy[5:], busy[5:])
    untold = [dataclasses.replace(one, state={"elapsed_s": 12.0, "cpu_times_s": None}) for one in calm]
    assert kept_blocks(untold, 12.0, threads=1)[1] == untold


def test_where_too_few_blocks_were_undisturbed_all_of_the_warm_device_are_evidence() -> None:
    loud = [block(1.0, float(second), 1.9 * second) for second in range(1, 13)]
    kept, quiet = kept_blocks(loud, 12.0, threads=1)
    assert (kept, quiet) == (loud[5:], [])
    grade = grade_steady(kept, len(quiet))
    assert (grade.trust, grade.reason) == ("C", "other programs rested during 0 of the 7 blocks of the warm device")
    assert len(grade.values_ms[0]) == 7


def test_a_steady_loads_grade_asks_for_its_interval_alone() -> None:
    steady = [block(1.0, 0.0, 0.0)] * 20
    assert grade_steady(steady, 20).trust == "A"
    slowing = [block(1.0 + 0.05 * number, 0.0, 0.0) for number in range(20)]
    grade = grade_steady(slowing, 20)
    assert grade.trust == "C"
    assert "interval" in grade.reason
    assert grade.drift > 0.3


def test_settings_leave_time_for_the_gaps() -> None:
    assert settings_of(BURST, NETWORK_SETTINGS) == NETWORK_SETTINGS
    assert NETWORK_SETTINGS.load == NO_LOAD
    for rate_hz in (0.1, 30.0, 1000.0):
        settings = settings_of(Scenario(rate_hz=rate_hz), NETWORK_SETTINGS)
        block_s = (settings.calls_min + 1) / rate_hz
        assert settings.timeout_s > block_s
        assert settings.request_s > settings.blocks * block_s
    for seconds in (10.0, 600.0, 8 * 3600.0):
        settings = settings_of(Scenario(seconds=seconds), NETWORK_SETTINGS)
        assert settings.request_s == seconds
        assert settings.blocks * settings.load.busy_ms >= 1e3 * seconds
        assert settings.timeout_s * 1e3 > 2 * settings.load.busy_ms


def test_numbers_of_before_there_were_scenarios_are_found_as_bursts() -> None:
    conditions = Conditions("board", "f", "tvm", "float32", (1, 3, 8, 8), 1, "s1")
    told = {name: value for name, value in dataclasses.asdict(conditions).items() if name != "scenario"}
    assert Conditions(**told) == conditions
    # The digest that such a store has, computed by the version that had no scenarios.
    assert conditions.digest == "6b7bdccf94dc12bffb995a2744e3557e21df35b1a88e3e8da04636b279fa449e"
    assert len({conditions.digest, *(dataclasses.replace(conditions, scenario=text).digest for text in "ab")}) == 3


@pytest.mark.parametrize("scenario", ["burst", "paced:30Hz"])
def test_only_bursts_are_given_at_the_devices_own_clock(scenario: str) -> None:
    conditions = Conditions("board", "f", "tvm", "float32", (1, 3, 8, 8), 1, "s1", scenario=scenario)
    row = Measurement("k", conditions, (((1.0, 2.0),),), reference_ms=0.5, device_reference_ms=0.4)
    assert row.clock_ratio == (pytest.approx(0.8) if scenario == "burst" else 1.0)
    assert row.latency_ms == pytest.approx(np.percentile([1.0, 2.0], 10) * row.clock_ratio)
