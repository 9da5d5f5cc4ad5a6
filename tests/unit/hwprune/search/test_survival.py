import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance

from hwprune.search.survival import (
    OPERATORS,
    RULES,
    OperatorPortfolio,
    crowding_distance,
    feasible_first,
    ibea,
    nsga2,
    sms_emoa,
)

objective_vectors = arrays(np.float64, st.tuples(st.integers(2, 25), st.just(2)), elements=st.integers(0, 9))
EVERY_RULE = {**RULES, **OPERATORS}
every_rule = pytest.mark.parametrize("name", EVERY_RULE)


def brute_force_ranks(F: np.ndarray) -> np.ndarray:
    """Front of every row by peeling off what nothing left dominates."""
    ranks, left, level = np.full(len(F), -1), set(range(len(F))), 0
    while left:
        front = {i for i in left if not any((F[j] <= F[i]).all() and (F[j] < F[i]).any() for j in left)}
        ranks[list(front)] = level
        left -= front
        level += 1
    return ranks


@settings(max_examples=60, deadline=None)
@given(objective_vectors, st.integers(1, 25))
def test_nsga2_and_sms_emoa_keep_whole_fronts_of_a_brute_force_sort(F: np.ndarray, n: int) -> None:
    ranks = brute_force_ranks(F)
    for rule in (nsga2, sms_emoa):
        rows = rule(F, n).rows
        assert ranks[rows].tolist() == sorted(ranks)[:n]
        assert len(set(rows.tolist())) == len(rows) == min(n, len(F))


def test_crowding_distance_is_pymoos() -> None:
    F = np.random.default_rng(0).random((12, 3))
    assert crowding_distance(F) / 3 == pytest.approx(calc_crowding_distance(F))


def test_sms_emoa_drops_the_smallest_contribution() -> None:
    F = np.array([[0.0, 1.0], [0.5, 0.5], [0.52, 0.49], [1.0, 0.0]])
    assert 2 not in sms_emoa(F, 3).rows
    assert {0, 1, 3} == set(sms_emoa(F, 3).rows.tolist())


def test_ibea_drops_the_dominated_first() -> None:
    F = np.array([[0.0, 1.0], [1.0, 0.0], [0.4, 0.4], [0.9, 0.9]])
    assert set(ibea(F, 3).rows.tolist()) == {0, 1, 2}


@every_rule
def test_rule_keeps_the_number_that_is_asked_for_and_each_row_once(name: str) -> None:
    F = np.random.default_rng(3).random((30, 3))
    choice = EVERY_RULE[name](F, 10)
    assert len(choice.rows) == len(set(choice.rows.tolist())) == 10
    assert choice.investments is None or len(choice.investments) == 10


@every_rule
def test_rule_takes_a_single_point(name: str) -> None:
    assert EVERY_RULE[name](np.array([[0.1, 2.0]]), 1).rows.tolist() == [0]


@every_rule
def test_feasible_come_first_then_the_least_infeasible(name: str) -> None:
    F = np.array([[1.0, 1.0], [0.0, 0.0], [0.5, 2.0], [0.0, 0.1], [2.0, 0.5]])
    CV = np.array([0.0, 0.5, 0.0, 0.1, 0.0])
    choice = feasible_first(EVERY_RULE[name], F, CV, 4)
    assert set(choice.rows[:3].tolist()) == {0, 2, 4}
    assert choice.rows[3] == 3


def test_without_any_feasible_the_nearest_breeds_most() -> None:
    choice = feasible_first(RULES["hsr"], np.ones((3, 2)), np.array([3.0, 1.0, 2.0]), 2)
    assert choice.rows.tolist() == [1, 2]
    assert choice.investments is not None
    assert choice.investments[0] > choice.investments[1] > 0


def test_operators_take_turns_until_each_was_tried() -> None:
    portfolio, random_state = OperatorPortfolio(), np.random.default_rng(0)
    used = []
    for _ in OPERATORS:
        used.append(portfolio.pick(random_state))
        portfolio.credit(used[-1], 1.0)
    assert set(used) == set(OPERATORS)


def test_confidence_bound_prefers_the_operator_that_gained() -> None:
    portfolio = OperatorPortfolio(window=8, ucb_c=0.1)
    for name in OPERATORS:
        portfolio.credit(name, 1.0 if name == "ibea" else 0.0)
    assert portfolio.pick(np.random.default_rng(0)) == "ibea"


def test_gains_are_forgotten_after_the_window() -> None:
    portfolio = OperatorPortfolio(window=4, ucb_c=0.0)
    portfolio.credit("ibea", 9.0)
    for name in OPERATORS:
        portfolio.credit(name, 1.0 if name == "moea_d" else 0.1)
    assert portfolio.pick(np.random.default_rng(0)) == "moea_d"


def test_probability_matching_draws_by_gain_and_never_starves_an_operator() -> None:
    portfolio = OperatorPortfolio(rule="probability_matching", pm_floor=0.1)
    portfolio.credit("sms_emoa", 5.0)
    random_state = np.random.default_rng(0)
    drawn = [portfolio.pick(random_state) for _ in range(2000)]
    shares = {name: drawn.count(name) / len(drawn) for name in OPERATORS}
    assert shares["sms_emoa"] == pytest.approx(0.7, abs=0.04)
    assert all(shares[name] == pytest.approx(0.1, abs=0.03) for name in OPERATORS if name != "sms_emoa")
