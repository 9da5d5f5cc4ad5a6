from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwprune.search.archive import violation
from hwprune.search.local_search import LocalSearch, Score, cost_slopes
from hwprune.search.problem import SearchProblem
from hwprune.search.space import SearchSpace
from hwprune.search.synthetic import staircase_problem, width_plan

PROBLEM = staircase_problem(blocks_per_stage=2)
MOVES = LocalSearch(steps=50, quanta=(1, 2, 4), sigma=0.05, neighbours_max=64)


def values_of(problem: SearchProblem, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True objectives and constraint violations."""
    values = {**problem.cheap(widths), "error": errors_of(widths)}
    return np.column_stack([values[name] for name in problem.objectives]), violation(
        values, problem.bounds, len(widths)
    )


def errors_of(widths: np.ndarray) -> np.ndarray:
    return np.array([1 - PROBLEM.accuracy(width_plan(row)) for row in widths])


def nothing_seen(widths: np.ndarray) -> np.ndarray:
    return np.zeros(len(widths), dtype=bool)


def around_of(problem: SearchProblem, widths: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return MOVES.around(problem.space, widths, cost_slopes(problem), np.random.default_rng(seed))


def score_of(weights: list[list[float]], problem: SearchProblem = PROBLEM) -> Score:
    ends = np.vstack([problem.space.sizes, problem.space.smallest])
    F, _ = values_of(problem, ends)
    return Score(np.array(weights), F.min(axis=0), F.max(axis=0))


def climb(starts: np.ndarray, weights: list[list[float]], search: LocalSearch = MOVES, **more: Any) -> Any:
    problem, seen = more.get("problem", PROBLEM), more.get("seen", nothing_seen)
    score = score_of(weights, problem)

    def judge(widths: np.ndarray, owner: np.ndarray) -> np.ndarray:
        F, CV = values_of(problem, widths)
        return score(F, owner) + 1e6 * CV

    return search.climb(problem, judge, starts, seen, np.random.default_rng(0))


def test_neighbours_are_other_levels_within_the_space() -> None:
    space = PROBLEM.space
    widths = np.array([16, 2, 18, 32, 6, 40])
    around, owner = around_of(PROBLEM, np.vstack([widths, space.sizes]))
    assert sorted(set(owner.tolist())) == [0, 1]
    around = around[owner == 0]
    assert 0 < len(around) <= 64
    assert (around != widths).any(axis=1).all()
    assert (around % space.round_to == 0).all()
    assert (around >= space.smallest).all()
    assert (around <= space.sizes).all()


def test_groups_of_many_levels_move_far_too() -> None:
    space = SearchSpace.of([8, 640], round_to=1, pruning_ratio_max=0.9)
    widths = np.array([4, 320])
    moved = np.unique(np.abs(MOVES._singles(space, widths, 100, np.random.default_rng(0)) - widths)[:, 1])
    assert moved.tolist() == [0, 1, 2, 4, 36, 72, 144]


def test_space_without_cheap_objectives_has_neighbours_too() -> None:
    problem = replace(PROBLEM, costs=lambda widths: {})
    assert not cost_slopes(problem).any()
    assert len(around_of(problem, np.array([[8, 8, 16, 16, 32, 32]]))[0]) > 20


def test_pair_moves_leave_the_latency_about_equal() -> None:
    problem = staircase_problem(blocks_per_stage=2, latency_step=2)
    widths = np.array([8, 8, 16, 16, 32, 32])
    singles = MOVES._singles(problem.space, widths, 100, np.random.default_rng(0))
    around, _ = around_of(problem, widths[None])
    pairs = around[((around > widths).sum(axis=1) == 1) & ((around < widths).sum(axis=1) == 1)]
    change = [np.abs(np.diff(problem.cheap(np.vstack([widths, row]))["latency"])).item() for row in (*singles, *pairs)]
    assert len(pairs) >= 4
    assert np.median(change[len(singles) :]) < 0.5 * np.median(change[: len(singles)])


def test_pair_moves_stay_on_levels_where_the_dense_width_is_none() -> None:
    space = SearchSpace.of([10, 10], round_to=4, pruning_ratio_max=0.9)
    problem = replace(PROBLEM, space=space, costs=lambda widths: {"latency": widths.sum(axis=1) * 1.0})
    for seed in range(20):
        around, _ = around_of(problem, np.array([[8, 8]]), seed)
        assert np.isin(around, [4, 8, 10]).all()


def test_search_for_the_error_alone_ends_at_the_dense_network() -> None:
    ends, moves = climb(np.array([[8, 8, 16, 16, 32, 32]]), [[1.0, 0.0, 0.0]])
    assert ends.tolist() == [PROBLEM.space.sizes.tolist()]
    assert moves > 1


def test_starts_climb_towards_their_own_weights() -> None:
    start = np.array([8, 8, 16, 16, 32, 32])
    weights = [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    ends, _ = climb(np.vstack([start, start]), weights)
    memory = PROBLEM.cheap(ends)["peak_memory"]
    assert len(ends) == 2
    assert memory.min() < PROBLEM.cheap(start[None])["peak_memory"].item() < memory.max()


def test_end_is_never_worse_than_the_start() -> None:
    random_state = np.random.default_rng(4)
    for _ in range(5):
        start = PROBLEM.space.decode(0.9 * random_state.random((1, 6)))
        weights = random_state.dirichlet(np.ones(3), size=1)
        score = score_of(weights.tolist())
        ends, _ = climb(start, weights.tolist())
        values = [score(values_of(PROBLEM, widths)[0], np.array([0])).item() for widths in (start, ends)]
        assert values[1] <= values[0]


def test_start_without_a_better_neighbour_gives_its_best_new_one() -> None:
    dense = PROBLEM.space.sizes

    def dense_seen(widths: np.ndarray) -> np.ndarray:
        return (widths == dense).all(axis=1)

    ends, moves = climb(dense[None], [[1.0, 0.0, 0.0]], seen=dense_seen)
    assert moves == 0
    assert len(ends) == 1
    assert (ends != dense).any()


def test_where_everything_was_seen_nothing_is_proposed() -> None:
    ends, _ = climb(PROBLEM.space.sizes[None], [[1.0, 0.0, 0.0]], seen=lambda widths: np.ones(len(widths), dtype=bool))
    assert ends.shape == (0, 6)


def test_feasible_is_better_than_any_trade_off() -> None:
    smooth = staircase_problem(blocks_per_stage=2, latency_step=2)
    start = smooth.space.sizes[None]
    bound = 0.7 * smooth.cheap(start)["latency"].item()
    ends, _ = climb(start, [[1.0, 0.0, 0.0]], problem=replace(smooth, bounds={"latency": bound}))
    assert smooth.cheap(ends)["latency"].item() <= bound


@pytest.mark.parametrize(("sideways", "moves"), [(False, 0), (True, 5)])
def test_plateau_is_crossed_only_where_that_is_wanted(sideways: bool, moves: int) -> None:
    flat = replace(PROBLEM, costs=lambda widths: {"latency": np.ones(len(widths)), "peak_memory": np.ones(len(widths))})
    search = LocalSearch(5, (1,), 0.05, 64, sideways=sideways)
    score = Score(np.ones((1, 3)), np.zeros(3), np.ones(3))

    def judge(widths: np.ndarray, owner: np.ndarray) -> np.ndarray:
        return score(np.full((len(widths), 3), 0.5), owner)

    _, made = search.climb(flat, judge, PROBLEM.space.sizes[None], nothing_seen, np.random.default_rng(0))
    assert made == moves
