import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwprune.search.operators import (
    binary_tournament,
    latin_hypercube,
    polynomial_mutation,
    simulated_binary_crossover,
    stochastic_universal_sampling,
)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.5, 0.9, 1.0]))
def test_children_and_mutants_stay_inside_the_bounds(seed: int, upper: float) -> None:
    random_state = np.random.default_rng(seed)
    A, B = upper * random_state.random((2, 50, 7))
    A[0], B[0] = 0.0, upper
    children = simulated_binary_crossover(A, B, upper, random_state)
    mutants = polynomial_mutation(children, upper, random_state, prob=1.0)
    for X in (children, mutants):
        assert X.min() >= 0
        assert X.max() <= upper


def test_crossover_keeps_the_middle_of_its_parents_on_average() -> None:
    random_state = np.random.default_rng(0)
    A, B = np.full((4000, 3), 0.4), np.full((4000, 3), 0.6)
    children = simulated_binary_crossover(A, B, 1.0, random_state)
    assert children.mean() == pytest.approx(0.5, abs=0.003)
    assert children.std() > 0.05


def test_crossover_changes_nine_pairs_in_ten_and_half_of_their_genes() -> None:
    A, B = np.full((4000, 5), 0.25), np.full((4000, 5), 0.75)
    children = simulated_binary_crossover(A, B, 1.0, np.random.default_rng(1))[:4000]
    moved = (np.abs(children - A) > 1e-12) & (np.abs(children - B) > 1e-12)
    assert moved.mean() == pytest.approx(0.45, abs=0.02)


def test_crossover_of_equal_parents_gives_the_parents() -> None:
    A = np.random.default_rng(0).random((10, 4))
    assert np.array_equal(simulated_binary_crossover(A, A, 1.0, np.random.default_rng(1)), np.vstack([A, A]))


def test_larger_index_makes_smaller_steps() -> None:
    X = np.full((5000, 1), 0.5)
    far, near = (
        np.abs(polynomial_mutation(X, 1.0, np.random.default_rng(0), prob=1.0, eta=eta) - 0.5).mean() for eta in (5, 50)
    )
    assert near < far / 3


def test_mutation_moves_the_share_of_genes_that_it_is_told() -> None:
    X = np.full((2000, 10), 0.5)
    mutants = polynomial_mutation(X, 1.0, np.random.default_rng(0), prob=0.2)
    assert (mutants != X).mean() == pytest.approx(0.2, abs=0.02)


def test_universal_sampling_gives_everyone_its_share_up_to_one() -> None:
    shares = np.array([0.5, 0.25, 0.15, 0.1, 0.0, -3.0])
    drawn = np.bincount(stochastic_universal_sampling(shares, 40, np.random.default_rng(0)), minlength=6)
    assert np.abs(drawn - 40 * np.maximum(shares, 0)).max() <= 1
    assert drawn[4:].tolist() == [0, 0]


def test_universal_sampling_without_any_capital_is_uniform() -> None:
    drawn = np.bincount(stochastic_universal_sampling(np.array([-1.0, 0.0, -2.0]), 9, np.random.default_rng(0)))
    assert drawn.tolist() == [3, 3, 3]


def test_tournament_prefers_the_front_of_the_line() -> None:
    winners = binary_tournament(10, 20000, np.random.default_rng(0))
    assert np.bincount(winners)[0] / 20000 == pytest.approx(0.19, abs=0.02)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**31))
def test_latin_hypercube_has_one_point_in_every_slice(n: int, n_var: int, seed: int) -> None:
    slices = np.sort(np.floor(n * latin_hypercube(n, n_var, np.random.default_rng(seed))), axis=0)
    assert np.array_equal(slices, np.tile(np.arange(n)[:, None], (1, n_var)))
