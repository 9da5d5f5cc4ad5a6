"""Which of two is faster, told by pairs of blocks."""

import numpy as np
import pytest

from device_agents.client import Block, TimingRequest
from hwprune.errors import UntrustedError
from hwprune.measurement.pairs import PROCESSES_MIN, compare, judge


def blocks(times_ms):
    return [Block(tuple(time * (1 + 0.01 * call) for call in range(4)), 0.1, 0.1) for time in times_ms]


def disturbed(n, seed):
    """Slow stretches of some blocks' length, up to twice the time, and a little noise."""
    generator = np.random.default_rng(seed)
    stretches = np.repeat(1 + generator.random(n // 4 + 1) * (generator.random(n // 4 + 1) < 0.4), 4)[:n]
    return stretches, lambda: 1 + 0.004 * np.abs(generator.standard_normal(n))


def processes(times_ms, count=5):
    """The blocks of several processes that took turns."""
    return [blocks(times_ms[number::count]) for number in range(count)]


def test_the_same_is_the_same_however_disturbed():
    for seed in range(200):
        stretches, noise = disturbed(60, seed)
        assert judge(processes(stretches * noise()), processes(stretches * noise())).verdict == "same"


def test_five_percent_are_found_however_disturbed():
    for seed in range(200):
        stretches, noise = disturbed(60, seed)
        found = judge(processes(stretches * noise()), processes(1.05 * stretches * noise()))
        assert found.verdict == "slower"
        assert found.low < found.ratio < found.high
        assert found.ratio == pytest.approx(1.05, abs=0.01)


def test_processes_that_found_their_memory_elsewhere_are_no_difference():
    """A process in three is 2 % slow for as long as it runs; libraries 5 % apart are told apart all the same."""
    generator = np.random.default_rng(0)
    alarms = found = 0
    for _ in range(300):
        places = [1 + 0.02 * (generator.random(5) < 1 / 3) for _ in range(2)]
        first, second = ([blocks(np.full(12, time)) for time in times] for times in places)
        alarms += judge(first, second).verdict != "same"
        slower = [blocks(np.full(12, 1.05 * time)) for time in places[1]]
        found += judge(first, slower).verdict == "slower"
    assert alarms <= 3
    assert found >= 270


def test_what_is_faster_is_told_so():
    assert judge(processes(np.full(20, 1.0)), processes(np.full(20, 0.9))).verdict == "faster"


def test_a_difference_below_the_margin_is_none():
    assert judge(processes(np.full(20, 1.0)), processes(np.full(20, 1.008))).verdict == "same"


def test_a_handful_of_blocks_decides_nothing():
    with pytest.raises(UntrustedError, match="only 5 pairs"):
        judge(processes(np.ones(5)), processes(np.ones(60)))


def test_blocks_with_the_reference_off_its_level_are_left_out():
    def half_disturbed(time):
        calm, slow = blocks(np.full(8, time)), [Block((3 * time,) * 4, 0.13, 0.13)] * 4
        return [[*calm, *slow] for _ in range(5)]

    found = judge(half_disturbed(1.0), [blocks(np.full(12, 1.05)) for _ in range(5)])
    assert found.ratio == pytest.approx(1.05)
    assert found.pairs == 40


def test_one_load_of_each_decides_nothing():
    with pytest.raises(UntrustedError, match="in 3 processes each"):
        judge([blocks(np.ones(60))], [blocks(np.ones(60))])


def loaded(client, artifact, *numbers):
    client.put(artifact.path, artifact.sha256)
    return [TimingRequest(client.load(artifact.sha256).handle, numbers=numbers) for _ in range(PROCESSES_MIN)]


@pytest.mark.measures
def test_a_library_with_twice_the_work_is_slower(client, compiler):
    artifact = compiler.resident()
    once, twice = loaded(client, artifact, 1000, 0), loaded(client, artifact, 2000, 0)
    assert compare(client, once, twice).verdict == "slower"
    assert compare(client, twice, once).verdict == "faster"


def test_a_library_that_fails_cannot_be_compared(client, compiler):
    artifact = compiler.resident()
    with pytest.raises(UntrustedError, match="cannot be compared"):
        compare(client, loaded(client, artifact, 10, 0), loaded(client, artifact, 10, 3))
