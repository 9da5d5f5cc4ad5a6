"""Runs side by side, from their folders alone."""

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import moocore
import numpy as np
import pytest

from hwprune.errors import ConfigError, RunError
from hwprune.fronts import FrontRow
from hwprune.reports.compare import compare

MakeRun = Callable[..., Path]

#: Dense, then: nearly free, exactly one point less, three points less.
ROWS = (
    ("dense", 1.0, 0.9, 4000),
    ("p00", 0.4, 0.87, 1000),
    ("p01", 0.6, 0.89, 2000),
    ("p02", 0.7, 0.895, 2500),
)


def test_hypervolume_of_one_network_is_the_box_that_it_dominates(make_run: MakeRun) -> None:
    better, worse = make_run("better", [("dense", 1.0, 0.9, 1000)]), make_run("worse", [("dense", 2.0, 0.8, 2000)])
    found = compare([better, worse])
    assert found.split == "test"
    assert list(found.ref_point.values()) == pytest.approx([0.22, 2.2, 2200])
    assert found.ideal == {"error": 0, "latency_ms": 0, "planned_memory_bytes": 0}
    assert found.hv == pytest.approx({"better": (1 - 0.5 / 1.1) ** 3, "worse": (1 - 1 / 1.1) ** 3})


def test_hypervolumes_equal_those_of_the_front_files_alone(make_run: MakeRun) -> None:
    generator = np.random.default_rng(0)
    folders = [
        make_run(name, [("dense", 3.0, 0.97, 9_000_000)])
        if name == "lonely"
        else make_run(name, [(f"p{i}", *generator.uniform(0.2, 0.9, 2), int(x)) for i, x in enumerate(sizes)])
        for name, sizes in (("one", generator.integers(1e4, 1e7, 9)), ("lonely", ()), ("two", [123457, 7654321]))
    ]
    said = compare(folders).as_dict()
    tables = {
        folder.name: np.array(
            [
                (1 - float(row["test_top1"]), float(row["latency_ms"]), float(row["planned_memory_bytes"]))
                for row in csv.DictReader((folder / "front.csv").read_text().splitlines())
            ]
        )
        for folder in folders
    }
    ref_point = 1.1 * np.concatenate(list(tables.values())).max(axis=0)
    assert list(said["ref_point"].values()) == pytest.approx(ref_point, rel=1e-12)
    for name, F in tables.items():
        alone = moocore.hypervolume(F, ref=list(said["ref_point"].values())) / ref_point.prod()
        assert said["hv"][name] == pytest.approx(alone, rel=1e-12)


def test_a_front_file_that_lags_behind_is_written_anew(make_run: MakeRun) -> None:
    folders = [make_run("one", ROWS), make_run("two", ROWS)]
    (folders[0] / "front.csv").write_text("id,latency_ms,trust\n")
    found = compare(folders)
    assert found.hv["one"] == found.hv["two"] > 0
    assert (folders[0] / "front.csv").read_bytes() == (folders[1] / "front.csv").read_bytes()


def test_the_validation_split_is_taken_for_all_where_one_network_lacks_the_test_split(make_run: MakeRun) -> None:
    found = compare([make_run("one", [("dense", 1.0, 0.6, 1000)]), make_run("two", [("dense", 1.0, None, 1000)])])
    assert found.split == "val"
    assert found.ref_point["error"] == pytest.approx(0.44)
    assert found.as_dict()["metric"] == "val_top1"


def test_a_metric_that_is_no_fraction_gives_hypervolumes_in_the_box_too(make_run: MakeRun) -> None:
    decibels = [("dense", 1.0, 30.0, 1000), ("p0", 0.5, 25.0, 500)]
    found = compare([make_run(name, decibels, metric="psnr") for name in ("one", "two")])
    assert found.ideal["error"] == -29
    assert 0 < found.hv["one"] < 1


def test_an_error_that_is_less_the_better_is_taken_as_it_is(make_run: MakeRun) -> None:
    rows = [("dense", 1.0, 0.2, 1000), ("p0", 0.5, 0.205, 500), ("p1", 0.4, 0.3, 400)]
    found = compare([make_run(name, rows, metric="mse", higher_is_better=False) for name in ("one", "two")])
    assert found.ref_point["error"] == pytest.approx(0.33)
    assert found.picks["one"] is not None
    assert found.picks["one"].id == "p0"


@pytest.mark.parametrize(("max_drop_points", "point"), [(0, "dense"), (0.5, "p02"), (1, "p01"), (5, "p00")])
def test_a_pick_is_the_fastest_network_within_the_drop(make_run: MakeRun, max_drop_points: float, point: str) -> None:
    pick = compare([make_run("one", ROWS), make_run("two", ROWS)], max_drop_points).picks["one"]
    assert pick is not None
    assert pick.id == point


def test_without_a_dense_network_there_is_no_pick_and_the_rest_stands(make_run: MakeRun) -> None:
    said = compare([make_run("one", ROWS[1:]), make_run("two", ROWS)]).as_dict()
    assert said["picks"]["one"] is None
    assert said["runs"]["one"]["dense"] is None
    assert said["hv"]["one"] > 0
    assert json.dumps(said, allow_nan=False)


def test_the_fastest_networks_are_listed_by_loss(make_run: MakeRun) -> None:
    said = compare([make_run("one", ROWS), make_run("two", ROWS)], max_drop_points=3).as_dict()
    points = {row["drop_points"]: row["networks"]["one"]["point"] for row in said["fastest"]}
    assert points == {0: "dense", 0.5: "p02", 1: "p01", 2: "p01", 3: "p00", 5: "p00"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network": "resnet_cifar (depth 56)"}, "different networks: resnet_cifar (depth 8) in one"),
        ({"metric": "mean_iou"}, "different metrics: top1 in one, mean_iou in two"),
        ({"problem": {"task": "my.segmentation:build"}}, "different tasks: classification in one"),
        ({"problem": {"data": "cifar10"}}, "different data sets: digits in one, cifar10 in two"),
    ],
)
def test_runs_of_different_problems_are_refused(make_run: MakeRun, changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        compare([make_run("one"), make_run("two", **changes)])
    assert said in str(error.value)
    assert error.value.exit_code == 2


def test_a_run_named_twice_is_refused(make_run: MakeRun) -> None:
    folder = make_run("one")
    with pytest.raises(ConfigError, match="named twice"):
        compare([folder, folder.parent / "other" / ".." / "one"])


def test_runs_of_equal_names_are_called_by_their_paths(make_run: MakeRun) -> None:
    folders = [make_run("a/run"), make_run("b/run"), make_run("c")]
    assert list(compare(folders).hv) == [str(folders[0]), str(folders[1]), "c"]


def test_a_damaged_run_is_told(make_run: MakeRun) -> None:
    folders = [make_run("one"), make_run("two")]
    (folders[1] / "environment.json").write_text("{")
    with pytest.raises(RunError, match=r"environment\.json cannot be read"):
        compare(folders)


def test_equal_conditions_are_not_marked(make_run: MakeRun) -> None:
    assert compare([make_run("one", ROWS), make_run("two", ROWS[:2])]).conditions_differ == {}


@pytest.mark.parametrize(
    ("changes", "differ"),
    [
        ({"threads": 2}, {"threads": (1, 2)}),
        ({"recorded": {"weights_digest": "b" * 64, "cores": [1]}}, {"weights_digest": ("a" * 64, "b" * 64)}),
        ({"recorded": {}}, {"weights_digest": ("a" * 64, None), "cores": ([1], None)}),
        ({"problem": {"budget": {"evaluations": 7}, "batch_size": 4}}, {"evaluations": (200, 7), "batch_size": (1, 4)}),
        (
            {"description": {"cpu_model": "a processor", "governor": "powersave"}},
            {"governor": (None, "powersave")},
        ),
        ({"reference_ms": 0.032}, {"reference_ms": (0.03, 0.032)}),
        ({"reference_ms": None}, {"reference_ms": (0.03, None)}),
        ({"reference_ms": 0.0312}, {}),
        ({"schedule_version": "2"}, {"schedule_version": ("1", "2")}),
    ],
)
def test_conditions_that_differ_are_marked_with_their_values(
    make_run: MakeRun, changes: dict[str, object], differ: dict[str, tuple[object, object]]
) -> None:
    found = compare([make_run("one"), make_run("two", **changes)]).conditions_differ
    assert found == {name: {"one": ours, "two": theirs} for name, (ours, theirs) in differ.items()}


def test_clocks_of_different_devices_are_no_difference(make_run: MakeRun) -> None:
    other = make_run("two", device="pi4", fingerprint="e" * 64, reference_ms=0.2)
    assert set(compare([make_run("one"), other]).conditions_differ) == {"device", "fingerprint"}


def test_fine_tuning_is_a_condition(make_run: MakeRun) -> None:
    def tuned(row: FrontRow) -> FrontRow:
        return dataclasses.replace(row, finetuned=True)

    plain = compare([make_run("a", ROWS), make_run("b", ROWS)])
    rows = [row if row.id == "dense" else tuned(row) for row in plain.runs[0].front.rows]
    found = compare([make_run("one", ROWS), make_run("two", rows)]).conditions_differ
    assert found == {"finetuned": {"one": "none", "two": "all points, 10 epochs"}}
