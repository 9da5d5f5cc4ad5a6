"""Who is given up early is surely worse; the test is exact."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwprune.accuracy.race import LEVEL, look_sizes, looks

BATCHES = [125] * 40


def test_looks_double_and_end_at_half_of_the_split() -> None:
    assert look_sizes(BATCHES) == [125, 250, 500, 1000, 2000]
    assert look_sizes([100, 100]) == []


@pytest.mark.parametrize("bar", [math.inf, 1.0, -0.1])
def test_without_a_bar_everything_is_seen(bar: float) -> None:
    assert looks(bar, BATCHES) == ()


def test_a_clearly_worse_candidate_is_given_up_at_the_first_look() -> None:
    (seen, errors), *_ = looks(0.12, BATCHES)
    assert seen == 125
    assert 0.12 * seen < errors < 0.3 * seen


def test_a_candidate_as_good_as_the_bar_is_hardly_ever_given_up() -> None:
    generator = np.random.default_rng(0)
    wrong = np.arange(5000) < 600
    limits, lost = looks(0.12, BATCHES), 0
    for _ in range(2000):
        order = generator.permutation(wrong)
        lost += any(order[:seen].sum() >= errors for seen, errors in limits)
    assert lost <= 2000 * LEVEL * 5  # 10 of 2000, 2 are allowed on average


@given(st.floats(0.01, 0.9))
def test_who_is_given_up_has_a_higher_share_of_errors_than_the_bar(bar: float) -> None:
    for seen, errors in looks(bar, BATCHES):
        assert errors / seen > bar or errors > seen
