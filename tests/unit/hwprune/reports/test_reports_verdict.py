import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwprune.fronts import Front
from hwprune.records import Evaluation
from hwprune.reports.verdict import hypervolume_curve, is_faster, loss, prediction_error, verdict


def evaluation(number: int, width: int, error: float, latency: float, failed: str | None = None) -> Evaluation:
    objectives = {} if failed else {"error": error, "latency": latency}
    return Evaluation(str(number), (width,), objectives, None, "initial", 0, 0.1, failed)


def test_verdict_names_the_fastest_point_that_costs_little(front: Front) -> None:
    text = verdict(front)
    assert text.startswith("Point p0 is 2.00 times faster")
    assert "50% of its memory" in text
    assert "0.60 points less top1 on the test split" in text


def test_overlapping_intervals_are_no_speedup(front: Front) -> None:
    dense = front.rows[0]
    near = dataclasses.replace(front.rows[1], latency_ms=0.49, latency_ms_low=0.48, latency_ms_high=0.5)
    assert not is_faster(near, dense)
    assert verdict(dataclasses.replace(front, rows=(dense, near))).startswith("No real speed-up")


def test_without_a_trusted_dense_network_nothing_is_claimed(front: Front) -> None:
    untold = dataclasses.replace(front, rows=front.rows[1:])
    assert verdict(untold).startswith("No speed-up can be stated")
    assert np.isnan(loss(untold, untold.rows[0]))


def test_where_every_fast_point_costs_much_the_cheapest_is_named(front: Front) -> None:
    text = verdict(dataclasses.replace(front, rows=(front.rows[0], front.rows[2])))
    assert text.startswith("Point p1 is 5.00 times faster")
    assert "5.00 points less" in text


def test_loss_compares_on_one_split_only(front: Front) -> None:
    dense, point = front.rows[0], dataclasses.replace(front.rows[1], test_metric=None, val_metric=0.985)
    assert loss(front, front.rows[1]) == pytest.approx(0.006)
    assert loss(dataclasses.replace(front, rows=(dense, point)), point) == pytest.approx(0.0)


def test_loss_turns_with_the_direction_of_the_metric(front: Front) -> None:
    assert loss(dataclasses.replace(front, higher_is_better=False), front.rows[1]) == pytest.approx(-0.006)


def test_prediction_error_by_hand(front: Front) -> None:
    assert prediction_error(front) == pytest.approx({"mape": 0.03, "worst": 0.03, "spearman": 1.0})
    assert prediction_error(dataclasses.replace(front, rows=front.rows[:1])) == {}


def test_hypervolume_by_hand() -> None:
    found = [
        evaluation(0, 10, 0.2, 1.0),  # dense: the box ends at error 0.4 and latency 1
        evaluation(1, 5, 0.3, 0.5),  # dominates (0.4 - 0.3) / 0.4 of it times (1 - 0.5): 1/8
        evaluation(2, 4, 9.9, 9.9, failed="does not compile"),
        evaluation(3, 4, 0.35, 0.75),  # dominated
        evaluation(4, 4, 0.3, 0.25),  # 1/4 times 3/4
    ]
    assert hypervolume_curve(found, ("error", "latency")) == pytest.approx([0, 1 / 8, 1 / 8, 1 / 8, 3 / 16])


def test_hypervolume_without_any_evaluation_is_empty() -> None:
    assert len(hypervolume_curve([], ("error",))) == 0
    assert len(hypervolume_curve([evaluation(0, 3, 0, 0, failed="no")], ("error", "latency"))) == 0


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 2)), min_size=1, max_size=12))
def test_hypervolume_never_falls(points: list[tuple[float, float]]) -> None:
    found = [evaluation(number, 20 - number, error, latency) for number, (error, latency) in enumerate(points)]
    curve = hypervolume_curve(found, ("error", "latency"))
    assert len(curve) == len(points)
    assert (np.diff(curve) >= -1e-12).all()
    assert curve.min() >= 0
    assert curve.max() <= 1
