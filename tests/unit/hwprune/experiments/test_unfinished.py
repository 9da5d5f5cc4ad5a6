"""What an interrupted profile leaves to the next one."""

import json

import pytest

from hwprune.experiments.unfinished import KEPT_S, UnfinishedProfile
from latency_models.kernel_table import KernelTime

TIMES = [KernelTime(0.1, 0.001), KernelTime(0.2, 0.002)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "local-0123.part"


def test_what_was_timed_is_found_again_and_the_profile_keeps_its_age(path):
    began = UnfinishedProfile(path)
    began.add((16, 8), 0.04, TIMES)
    again = UnfinishedProfile(path)
    assert again.find((16, 8), 0.04) == TIMES
    assert again.find((16, 4), 0.04) is None
    assert again.started_s == began.started_s
    assert again.age_s >= 0
    assert again.networks == 1


def test_times_of_another_clock_are_not_used(path):
    UnfinishedProfile(path).add((16, 8), 0.04, TIMES)
    assert UnfinishedProfile(path).find((16, 8), 0.05) is None


def test_a_profile_of_days_ago_is_made_afresh(path):
    UnfinishedProfile(path).add((16, 8), 0.04, TIMES)
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "started_s": data["started_s"] - KEPT_S - 1}))
    assert UnfinishedProfile(path).networks == 0


def test_a_damaged_file_is_made_afresh(path):
    path.write_text('{"started_s": ')
    assert UnfinishedProfile(path).networks == 0


def test_a_complete_profile_leaves_nothing(path):
    part = UnfinishedProfile(path)
    part.add((16, 8), 0.04, TIMES)
    part.remove()
    assert not path.exists()


def test_without_a_file_it_lives_in_memory():
    part = UnfinishedProfile()
    part.add((16, 8), None, TIMES)
    assert part.find((16, 8), None) == TIMES
