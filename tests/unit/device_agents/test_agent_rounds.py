import itertools

import pytest

from device_agents.agent.rounds import SLOW_BLOCKS, is_steady
from device_agents.agent.timing import GATED_NS_MAX


def blocks_at(*references_ns):
    return [{"before_ns": before, "after_ns": after} for before, after in itertools.pairwise(references_ns)]


@pytest.mark.parametrize(
    ("references_ns", "enough", "steady"),
    [
        ((1000, 1004, 1009), 2, True),
        ((1000, 1004, 1011), 2, False),
        ((1200, 1000, 1000, 1000), 2, True),  # an unsteady beginning is forgiven
        ((1000, 1000, 1000, 1200), 2, False),
        ((1000, 1000), 2, False),
        ((1000, 1000, 1000), 0, False),
        ((1000,), 0, False),
    ],
)
def test_a_job_is_steady_when_the_reference_stood_still_during_its_last_blocks(references_ns, enough, steady):
    assert is_steady(blocks_at(*references_ns), enough) is steady


@pytest.mark.parametrize(
    ("references_ns", "enough", "steady"),
    [
        ((1000, 1004, 1009), 2, True),
        ((1000, 1000, 1200, 1200, 1000, 1000), 2, True),  # the level may come and go
        ((1000, 1000, 1200, 1200, 1000, 1000), 3, False),
        ((1200, 1200, 1200, 1200), 2, False),  # still, but not at the device's own level
        ((1000, 1020, 1000, 1020), 2, False),
        ((900, 900, 900), 2, True),  # a device that has become faster has a new level
        ((900_000, 1_200_000) * SLOW_BLOCKS, 2, False),
    ],
)
def test_where_the_level_is_known_only_blocks_at_it_count(references_ns, enough, steady):
    assert is_steady(blocks_at(*references_ns), enough, level_ns=1000) is steady


@pytest.mark.parametrize("level_ns", [0, GATED_NS_MAX])
def test_a_few_blocks_are_enough_where_the_reference_is_too_slow_to_choose_moments_by(level_ns):
    slow = [(2 + number % 3) * GATED_NS_MAX for number in range(SLOW_BLOCKS + 1)]
    assert is_steady(blocks_at(*slow), 12, level_ns)
    assert not is_steady(blocks_at(*slow[1:]), 12, level_ns)
    assert not is_steady(blocks_at(*slow), 0, level_ns)
    assert not is_steady(blocks_at(*slow[1:], GATED_NS_MAX), 12, level_ns)
