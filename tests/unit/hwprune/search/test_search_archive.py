import numpy as np
import pytest

from hwprune.records import Evaluation
from hwprune.search.archive import Archive, violation


def evaluation(key: str, error: float, latency: float, failed: str | None = None) -> Evaluation:
    objectives = {} if failed else {"error": error, "latency": latency}
    return Evaluation(key, (8, 4), objectives, None if failed else 1 - error, "initial", 0, 0.1, failed)


def archive_of(*points: tuple[float, float], bounds: dict[str, float] | None = None) -> Archive:
    archive = Archive(("error", "latency"), bounds)
    for index, (error, latency) in enumerate(points):
        archive.add(evaluation(f"plan{index}", error, latency))
    return archive


def test_arrays_hold_the_evaluations_in_order() -> None:
    archive = archive_of((0.1, 3.0), (0.2, 2.0))
    assert archive.F.tolist() == [[0.1, 3.0], [0.2, 2.0]]
    assert archive.widths.tolist() == [[8, 4], [8, 4]]
    assert [archive.row("plan0"), archive.row("plan1"), archive.row("other")] == [0, 1, None]


def test_front_is_what_nothing_dominates_by_rising_error() -> None:
    archive = archive_of((0.3, 1.0), (0.2, 2.0), (0.3, 2.5), (0.1, 3.0), (0.2, 2.0))
    assert [(point.objectives["error"], point.objectives["latency"]) for point in archive.front()] == [
        (0.1, 3.0),
        (0.2, 2.0),
        (0.3, 1.0),
    ]


def test_front_of_random_points_is_the_brute_force_one() -> None:
    points = np.random.default_rng(0).integers(0, 15, (60, 2)) / 10.0
    archive = archive_of(*map(tuple, points.tolist()))
    dominated = [any((q <= p).all() and (q < p).any() for q in points) for p in points]
    expected = np.unique(points[~np.array(dominated)], axis=0)
    assert np.array_equal(np.unique(archive.F[archive.front_rows()], axis=0), expected)
    assert len(archive.front_rows()) == len(expected)


def test_hypervolume_of_known_sets() -> None:
    assert archive_of((0.0, 0.0)).hypervolume([1, 1]) == pytest.approx(1.0)
    assert archive_of((0.5, 0.0), (0.0, 0.5)).hypervolume([1, 1]) == pytest.approx(0.75)
    assert archive_of((0.25, 0.75), (0.5, 0.5), (0.75, 0.25), (0.8, 0.8)).hypervolume([1, 1]) == pytest.approx(0.375)
    assert archive_of((1.5, 0.0)).hypervolume([1, 1]) == 0.0


def test_failed_evaluations_are_kept_apart() -> None:
    archive = archive_of((0.1, 1.0))
    archive.add(evaluation("broken", 0, 0, "CompileError: no"))
    assert len(archive) == 1
    assert [failure.plan_key for failure in archive.failures] == ["broken"]
    assert archive.row("broken") is None


def test_empty_archive_has_an_empty_front_and_no_volume() -> None:
    archive = archive_of()
    assert archive.front() == []
    assert archive.hypervolume([1, 1]) == 0.0
    assert archive.F.shape == (0, 2)


def test_infeasible_evaluations_stay_out_of_front_and_volume() -> None:
    archive = archive_of((0.1, 3.0), (0.5, 1.0), bounds={"latency": 2.0})
    assert pytest.approx([0.5, 0.0]) == archive.CV
    assert [point.plan_key for point in archive.front()] == ["plan1"]
    assert archive.hypervolume([1, 4]) == pytest.approx(0.5 * 3)


def test_violation_adds_up_relative_excess() -> None:
    values = {"latency": np.array([1.0, 3.0]), "params": np.array([50.0, 150.0])}
    assert violation(values, {"latency": 2.0, "params": 100.0}, 2) == pytest.approx([0.0, 1.0])


def test_revised_objective_moves_the_front() -> None:
    archive = archive_of((0.1, 3.0), (0.2, 2.0))
    archive.revise("latency", np.array([1.0, 2.0]))
    assert [point.plan_key for point in archive.front()] == ["plan0"]
    assert archive.evaluations[0].metric == 0.9
