"""Which of two is faster, told by pairs of blocks."""

import numpy as np
import pytest

from device_agents.client import Block, TimingRequest
from hwprune.errors import UntrustedError
from hwprune.measurement.pairs import compare, judge


def blocks(times_ms):
    return [Block(tuple(time * (1 + 0.01 * call) for call in range(4)), 0.1, 0.1) for time in times_ms]


def disturbed(n, seed):
    """Slow stretches of some blocks' length, up to twice the time, and a little noise."""
    generator = np.random.default_rng(seed)
    stretches = np.repeat(1 + generator.random(n // 4 + 1) * (generator.random(n // 4 + 1) < 0.4), 4)[:n]
    return stretches, lambda: 1 + 0.004 * np.abs(generator.standard_normal(n))


def test_the_same_is_the_same_however_disturbed():
    for seed in range(200):
        stretches, noise = disturbed(60, seed)
        assert judge(blocks(stretches * noise()), blocks(stretches * noise())).verdict == "same"


def test_five_percent_are_found_however_disturbed():
    for seed in range(200):
        stretches, noise = disturbed(60, seed)
        found = judge(blocks(stretches * noise()), blocks(1.05 * stretches * noise()))
        assert found.verdict == "slower"
        assert found.low < found.ratio < found.high
        assert found.ratio == pytest.approx(1.05, abs=0.01)


def test_what_is_faster_is_told_so():
    assert judge(blocks(np.full(20, 1.0)), blocks(np.full(20, 0.9))).verdict == "faster"


def test_a_difference_below_the_margin_is_none():
    assert judge(blocks(np.full(20, 1.0)), blocks(np.full(20, 1.008))).verdict == "same"


def test_a_handful_of_blocks_decides_nothing():
    with pytest.raises(UntrustedError, match="only 5 pairs"):
        judge(blocks(np.ones(5)), blocks(np.ones(60)))


@pytest.mark.measures
def test_a_library_with_twice_the_work_is_slower(client, compiler):
    artifact = compiler.resident()
    client.put(artifact.path, artifact.sha256)
    handle = client.load(artifact.sha256).handle
    once, twice = TimingRequest(handle, numbers=(1000, 0)), TimingRequest(handle, numbers=(2000, 0))
    assert compare(client, once, twice).verdict == "slower"
    assert compare(client, twice, once).verdict == "faster"


def test_a_library_that_fails_cannot_be_compared(client, compiler):
    artifact = compiler.resident()
    client.put(artifact.path, artifact.sha256)
    handle = client.load(artifact.sha256).handle
    with pytest.raises(UntrustedError, match="cannot be compared"):
        compare(client, TimingRequest(handle, numbers=(10, 0)), TimingRequest(handle, numbers=(10, 3)))
