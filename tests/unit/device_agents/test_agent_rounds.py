import itertools

import pytest

from device_agents.agent.rounds import is_steady


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
