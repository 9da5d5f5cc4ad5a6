import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_models.evaluation import (
    grouped_folds,
    held_out_error,
    interval_coverage,
    kendall,
    mape,
    scores,
    spearman,
    within,
)
from latency_models.shapes import LayerShape


def test_errors_match_the_hand_count():
    actual, predicted = [1.0, 2.0, 4.0], [1.04, 1.8, 5.0]
    assert mape(actual, predicted) == pytest.approx((4 + 10 + 25) / 3)
    assert within(actual, predicted, 5) == pytest.approx(100 / 3)
    assert within(actual, predicted, 10.001) == pytest.approx(200 / 3)


def test_ranks_match_the_hand_count():
    # One of the three pairs is the wrong way round; the squared rank differences sum to 2.
    assert kendall([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)
    assert spearman([1, 2, 3], [1, 3, 2]) == pytest.approx(1 - 6 * 2 / (3 * 8))


def test_ranks_of_equal_values_are_not_a_number():
    assert math.isnan(spearman([1, 1], [1, 2]))
    assert math.isnan(kendall([1, 2], [3, 3]))


def test_coverage_counts_the_values_inside_the_interval():
    assert interval_coverage([1.0, 2.0, 3.0, 4.0], [0.9, 2.1, 3.0, 0.0], [1.1, 2.2, 3.5, 3.9]) == 50.0


def test_scores_leave_coverage_out_where_there_are_no_intervals():
    assert "coverage_90" not in scores([1, 2], [1, 2])
    assert scores([1, 2], [1.1, 2.1], [0.2, 0.05])["coverage_90"] == 50


@given(st.lists(st.sampled_from("abcdef"), min_size=2, max_size=30), st.integers(2, 5), st.integers(0, 3))
def test_folds_split_no_group_and_test_every_row_once(groups, n_folds, seed):
    tested = []
    for train, test in grouped_folds(groups, n_folds, seed):
        assert len(test)
        assert not {groups[row] for row in train} & {groups[row] for row in test}
        assert sorted([*train, *test]) == list(range(len(groups)))
        tested.extend(test)
    assert sorted(tested) == list(range(len(groups)))


class Remembers:
    """Predicts 1 ms for networks it was fitted on and 2 ms for others."""

    def __init__(self, networks):
        self.seen = {layers for layers, _ in networks}

    def predict_networks(self, networks):
        return np.array([1.0 if layers in self.seen else 2.0 for layers in networks]), np.ones(len(networks))

    def interval_factor(self, level=0.9):
        return 2.0


def network(width):
    return (LayerShape("dense", width, 10, 1, 1),)


def test_a_held_out_network_was_never_fitted_on_even_when_measured_twice():
    networks = [(network(width), 1.0) for width in (8, 8, 16, 32)]
    held_out = held_out_error(Remembers, networks)
    assert held_out["mape"] == 100
    assert held_out["coverage_90"] == 100, "1 ms lies within 2 deviations of 2 ms"


def test_nothing_can_be_held_out_of_one_network():
    assert held_out_error(Remembers, [(network(8), 1.0)] * 2) == {}
