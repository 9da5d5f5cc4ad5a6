import pytest

from device_agents.client import Block
from hwprune.measurement.session import Settings, limit_s


@pytest.mark.parametrize(("reference_ms", "seconds"), [(0.05, 30.0), (1.9, 30.0), (2.1, 10.0), (40.0, 10.0)])
def test_less_effort_is_made_where_the_reference_is_slow_to_read(reference_ms, seconds):
    assert limit_s(Settings(repeat_s=30.0), [Block((1.0,), reference_ms, reference_ms)] * 3) == pytest.approx(seconds)


def test_a_moment_of_something_else_makes_no_device_slow():
    blocks = [Block((1.0,), 0.05, 0.05), Block((1.0,), 30.0, 0.05)]
    assert limit_s(Settings(repeat_s=30.0), blocks) == 30.0


def test_before_the_first_block_nothing_is_slow():
    assert limit_s(Settings(repeat_s=30.0), []) == 30.0
