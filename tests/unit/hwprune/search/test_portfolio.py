import itertools

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hwprune.search.portfolio import hv_greedy, hypervolume_sharpe_ratio, peel

# Vectors that the authors of the indicator print for their own software (docs/methods.md).
THREE_D = np.array(
    [
        [0.341, 0.972, 0.247],
        [0.930, 0.153, 0.472],
        [0.456, 0.171, 0.868],
        [0.0870, 0.594, 0.950],
        [0.531, 0.635, 0.195],
        [0.312, 0.337, 0.701],
        [0.0305, 0.910, 0.771],
        [0.889, 0.829, 0.0207],
        [0.692, 0.362, 0.293],
        [0.233, 0.455, 0.660],
    ]
)
THREE_D_SHARES = [
    *(0.0810630292149, 0.0851252037552, 0.0762546411666, 0.00696918672958, 0.213741611428),
    *(0.126567309907, 0.0338216055371, 0.00758150784974, 0.194742924803, 0.174132979609),
]
TWO_D = np.array(
    [
        *([40, 48], [40, 48], [3, 81], [53, 94], [76, 81], [6, 48], [3, 81]),
        *([74, 53], [14, 1], [59, -9], [3, 81], [44, 34], [59, -9], [83, -2]),
    ],
    dtype=float,
)
objective_vectors = arrays(np.float64, st.tuples(st.integers(2, 30), st.just(3)), elements=st.integers(0, 12))


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


def test_three_points_on_a_line_share_equally() -> None:
    ratio, x = hypervolume_sharpe_ratio(np.array([[1.0, 3], [2, 2], [3, 1]]), [0, 0], [4, 4])
    assert ratio == pytest.approx(0.674200, abs=1e-6)
    assert x == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("added", [[3.0, 3.0], [4.0, 0.0]], ids=["dominated", "on the bound"])
def test_point_that_adds_nothing_gets_nothing(added: list[float]) -> None:
    ratio, x = hypervolume_sharpe_ratio(np.array([[1.0, 3], [2, 2], [3, 1], added]), [0, 0], [4, 4])
    assert ratio == pytest.approx(0.674200, abs=1e-6)
    assert x == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0], abs=1e-9)


def test_knee_gets_most() -> None:
    ratio, x = hypervolume_sharpe_ratio(np.array([[0.0, 3], [1, 1], [3, 0]]), [0, 0], [4, 4])
    assert ratio == pytest.approx(1.235442, abs=1e-6)
    assert x == pytest.approx([3 / 13, 7 / 13, 3 / 13])


def test_ten_points_in_three_objectives_agree_with_the_authors_software() -> None:
    ratio, x = hypervolume_sharpe_ratio(THREE_D, [0, 0, 0], [1, 1, 1])
    assert ratio == pytest.approx(0.540402, abs=1e-6)
    assert x == pytest.approx(THREE_D_SHARES, abs=1e-10)


def test_fourteen_points_in_two_objectives_agree_with_the_authors_software() -> None:
    distinct = np.unique(TWO_D, axis=0)
    ratio, x = hypervolume_sharpe_ratio(distinct, [-10, -10], [100, 100])
    assert ratio == pytest.approx(1.583823, abs=1e-6)
    capital = {tuple(point): share for point, share in zip(distinct.tolist(), x, strict=True) if share > 1e-9}
    expected = {(3, 81): 0.040141, (6, 48): 0.122686, (14, 1): 0.701524, (59, -9): 0.135648}
    assert capital == pytest.approx(expected, abs=1e-6)


def test_investments_do_not_change_when_an_objective_is_rescaled() -> None:
    scale, shift = np.array([1e3, 1.0, 1e-3]), np.array([5.0, -2.0, 0.0])
    _, x = hypervolume_sharpe_ratio(THREE_D, [0, 0, 0], [1, 1, 1])
    _, rescaled = hypervolume_sharpe_ratio(THREE_D * scale + shift, shift, scale + shift)
    assert rescaled == pytest.approx(x, abs=1e-8)


def test_nothing_below_the_upper_bound_has_no_return() -> None:
    ratio, x = hypervolume_sharpe_ratio(np.array([[4.0, 1.0]]), [0, 0], [4, 4])
    assert (ratio, x.tolist()) == (0.0, [0.0])


def test_point_at_the_lower_bound_is_without_risk() -> None:
    ratio, x = hypervolume_sharpe_ratio(np.array([[0.0, 0.0]]), [0, 0], [1, 1])
    assert ratio > 1e5
    assert x.tolist() == [1.0]


@settings(max_examples=60, deadline=None)
@given(objective_vectors, st.integers(1, 30))
def test_peeling_never_drops_what_dominates_a_survivor(F: np.ndarray, n: int) -> None:
    choice = peel(F, n)
    distinct = np.unique(F, axis=0)
    assert len(choice.rows) == min(n, len(distinct))
    assert len({tuple(row) for row in F[choice.rows].tolist()}) == len(choice.rows)
    survivors = {tuple(row) for row in F[choice.rows].tolist()}
    dropped = [row for row in distinct if tuple(row.tolist()) not in survivors]
    assert not any(dominates(bad, good) for bad, good in itertools.product(dropped, F[choice.rows]))


def test_peeling_takes_the_first_level_in_order_of_capital() -> None:
    F = np.array([[3.0, 3.0], [0.0, 3.0], [1.0, 1.0], [3.0, 0.0]])
    choice = peel(F, 4)
    assert choice.investments is not None
    assert choice.rows[0] == 2
    assert choice.rows[-1] == 0
    assert (choice.investments[:3] > 0).all()
    assert choice.investments[:3].sum() == pytest.approx(1)
    assert choice.investments[3] <= 0


def test_greedy_subset_starts_with_the_largest_box_and_gains_shrink() -> None:
    F = np.random.default_rng(0).random((40, 3))
    choice = hv_greedy(F, 12)
    scaled = (F - F.min(axis=0)) / np.ptp(F, axis=0)
    boxes = (1.1 - scaled).prod(axis=1)
    assert choice.investments is not None
    assert choice.rows[0] == boxes.argmax()
    gains = choice.investments[choice.investments > 0]
    assert (np.diff(gains) <= 1e-12).all()


def test_greedy_subset_is_what_trying_every_point_at_every_step_gives() -> None:
    first = np.random.default_rng(1).random(15)
    F = np.column_stack([first, (1 - first) ** 2])  # a front: every point adds something
    scaled = (F - F.min(axis=0)) / np.ptp(F, axis=0)
    chosen: list[int] = []
    for _ in range(6):
        volumes = {
            row: moocore.hypervolume(scaled[[*chosen, row]], ref=[1.1, 1.1]) for row in range(15) if row not in chosen
        }
        chosen.append(max(volumes, key=lambda row: volumes[row]))
    assert hv_greedy(F, 6).rows.tolist() == chosen


def test_greedy_subset_takes_fronts_one_after_the_other() -> None:
    F = np.array([[3.0, 3.0], [0.0, 2.0], [2.0, 0.0], [2.5, 2.5]])
    choice = hv_greedy(F, 4)
    assert choice.rows[2:].tolist() == [3, 0]
    assert choice.investments is not None
    assert choice.investments[2:].tolist() == [0.0, 0.0]
