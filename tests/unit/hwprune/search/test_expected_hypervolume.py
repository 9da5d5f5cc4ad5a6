import moocore
import numpy as np
import pytest

from hwprune.search.expected_hypervolume import FRONT_MAX, FreeSpace

REF = np.array([1.0, 1.0, 1.0])


def front_of(n: int, n_obj: int, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).random((8 * n, n_obj))
    return points[moocore.is_nondominated(points)][:n]


def volume(points: np.ndarray) -> float:
    return float(moocore.hypervolume(points, ref=np.ones(points.shape[1])))


@pytest.mark.parametrize("n_obj", [1, 2, 3, 4])
def test_gain_of_a_known_point_is_the_hypervolume_that_it_adds(n_obj: int) -> None:
    front = front_of(12, n_obj)
    points = np.random.default_rng(1).random((20, n_obj)) * 1.2
    gains = FreeSpace.below(np.ones(n_obj), front).gains([column[:, None] for column in points.T])
    added = [volume(np.vstack([front, point])) - volume(front) for point in points]
    assert gains == pytest.approx(added, abs=1e-12)


def test_gain_of_an_uncertain_point_is_the_mean_over_its_values() -> None:
    space = FreeSpace.below(REF, front_of(10, 3))
    random_state = np.random.default_rng(2)
    first, others = random_state.random((5, 4)), random_state.random((5, 2))
    columns = [others[:, [0]], others[:, [1]]]
    together = space.gains([first, *columns])
    apart = [space.gains([first[:, [value]], *columns]) for value in range(4)]
    assert together == pytest.approx(np.mean(apart, axis=0))


def test_points_that_join_the_front_one_by_one_leave_what_all_together_leave() -> None:
    front = front_of(15, 3)
    space = FreeSpace.below(REF, front[:5])
    for point in front[5:]:
        space = space.without(point)
    candidates = [column[:, None] for column in np.random.default_rng(3).random((30, 3)).T]
    assert space.gains(candidates) == pytest.approx(FreeSpace.below(REF, front).gains(candidates))


def test_boxes_do_not_overlap() -> None:
    space = FreeSpace.below(REF, front_of(20, 3))
    points = np.random.default_rng(4).random((500, 1, 3))
    inside = ((space.lower <= points) & (points < space.upper)).all(axis=2).sum(axis=1)
    assert inside.max() == 1


def test_a_front_of_three_objectives_takes_no_more_than_two_boxes_a_point() -> None:
    front = front_of(60, 3)
    among_them = np.vstack([front, front[:5], front[5:10] + 0.01])  # twice the same, and dominated ones
    space = FreeSpace.below(REF, among_them)
    assert len(space.upper) <= 2 * len(front) + 1
    free = ((space.upper - np.maximum(space.lower, 0)).prod(axis=1)).sum()
    assert free == pytest.approx(1 - volume(front))


def test_nothing_is_gained_where_nothing_is_free() -> None:
    space = FreeSpace.below([1.0, 1.0], np.array([[0.2, 0.2]])).without(np.array([-np.inf, -np.inf]))
    assert space.gains([np.array([[0.1]]), np.array([[0.1]])]).tolist() == [0.0]


def test_long_front_is_thinned_to_points_that_tell_about_the_same() -> None:
    angle = np.linspace(0, np.pi / 2, 2 * FRONT_MAX)
    front = 1 - 0.9 * np.column_stack([np.cos(angle), np.sin(angle)])
    space = FreeSpace.below([1.0, 1.0], front)
    assert len(space.upper) == FRONT_MAX + 1
    inside = [np.array([[1 - 0.8 * np.cos(0.7)]]), np.array([[1 - 0.8 * np.sin(0.7)]])]
    beyond = [np.array([[1 - 0.99 * np.cos(0.7)]]), np.array([[1 - 0.99 * np.sin(0.7)]])]
    assert space.gains(inside) < 1e-3 < space.gains(beyond)
