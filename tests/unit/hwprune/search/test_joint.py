"""Fronts of sub-networks joined."""

import itertools

import moocore
import numpy as np

from hwprune.search.joint import knapsack, non_dominated, random_schemes, rank_threshold


def fronts(generator, sizes=(4, 5, 3)):
    return [np.column_stack([np.sort(generator.random(n)), -np.sort(generator.random(n))]) for n in sizes]


def test_knapsack_is_every_non_dominated_sum():
    values = fronts(np.random.default_rng(0))
    options = [[*map(tuple, front), (0.0, 0.0)] for front in values]
    sums = np.array([np.sum(chosen, axis=0) for chosen in itertools.product(*options)])
    expected = sums[moocore.is_nondominated(sums)]
    found = knapsack(values)
    assert np.allclose(np.sort(found.F, axis=0), np.sort(expected, axis=0))
    padded = [np.vstack([front, [[0, 0]]]) for front in values]
    again = sum(front[column] for front, column in zip(padded, found.choices.T, strict=True))
    assert np.allclose(again, found.F)


def test_rank_threshold_takes_each_ones_largest_saving_up_to_every_rank():
    values = [np.array([[0.1, -1.0], [0.3, -5.0]]), np.array([[0.2, -2.0]])]
    found = rank_threshold(values)
    assert found.choices.tolist() == [[-1, -1], [0, -1], [0, 0], [1, 0]]
    assert np.allclose(found.F, [[0, 0], [0.1, -1], [0.3, -3], [0.5, -7]])


def test_predictions_of_random_schemes_are_sums():
    values = fronts(np.random.default_rng(1))
    found = random_schemes(values, 10, np.random.default_rng(0))
    for choice, F in zip(found.choices, found.F, strict=True):
        chosen = [front[row] for front, row in zip(values, choice, strict=True) if row >= 0]
        assert np.allclose(F, np.sum(chosen, axis=0) if chosen else 0)


def test_local_front_loses_what_is_dominated_globally():
    assert non_dominated(np.array([[0.1, -1.0], [0.2, -0.5], [0.3, -3.0]])).tolist() == [0, 2]


def test_spread_keeps_the_ends_of_what_may_be_lost():
    found = knapsack(fronts(np.random.default_rng(2), (9, 9, 9)))
    few = found.up_to(0.8).spread(6)
    assert len(few.choices) == 6
    assert few.F[:, 0].max() <= 0.8
