import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hwprune.errors import RunError
from hwprune.fronts import Front
from hwprune.reports.front import header, load_evaluations, load_front, read_csv, write_csv

#: What readers of front.csv were promised, in this order.
PROMISED = [
    "id", "val_top1", "test_top1", "latency_ms", "latency_ms_low", "latency_ms_high", "latency_ms_p50",
    "latency_ms_p99", "predicted_latency_ms", "planned_memory_bytes", "process_peak_bytes", "process_delta_bytes",
    "macs", "params", "trust", "device", "engine", "dtype", "threads",
]  # fmt: skip


def test_header_starts_with_the_promised_columns() -> None:
    assert header("top1")[: len(PROMISED)] == PROMISED


def test_metric_columns_carry_the_name_of_the_metric() -> None:
    columns = header("miou")
    assert {"val_miou", "test_miou", "val_miou_inherited"} <= set(columns)
    assert not any("top1" in column or "metric" in column for column in columns)


def test_csv_reads_back_with_unknown_values_empty(front: Front, tmp_path: Path) -> None:
    write_csv((*front.rows, *front.untrusted), tmp_path / "front.csv", "top1")
    dense, p0, _, p2 = read_csv(tmp_path / "front.csv")
    assert (dense["id"], dense["val_top1"], dense["test_top1"], dense["latency_ms"]) == (
        "dense",
        "0.985",
        "0.98",
        "0.5",
    )
    assert dense["process_delta_bytes"] == ""
    assert p2["test_top1"] == ""
    assert (p0["finetuned"], p0["test_top1_inherited"], p0["widths"]) == ("yes", "0.95", "8 64")
    assert [path.name for path in tmp_path.iterdir()] == ["front.csv"]


def test_front_survives_its_json(front: Front) -> None:
    assert Front.from_dict(json.loads(json.dumps(front.as_dict()))) == front


def test_front_is_loaded_from_its_run(front: Front, save: Callable[[Front], Path]) -> None:
    assert load_front(save(front)) == front


def test_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run"):
        load_front(tmp_path)


def test_unfinished_run_names_the_way_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("device: local\n")
    with pytest.raises(RunError, match="hwprune search --resume"):
        load_front(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"rows": 3, "untrusted": []}'])
def test_damaged_front_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "front.json").write_text(content)
    with pytest.raises(RunError, match=r"front\.json is damaged") as caught:
        load_front(tmp_path)
    assert "\n" not in str(caught.value)


def test_csv_that_is_missing_or_no_front_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="No such file"):
        read_csv(tmp_path / "front.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RunError, match="not the columns of a front"):
        read_csv(tmp_path / "other.csv")


def test_evaluations_are_read_and_other_records_left_out(front: Front, save: Callable[[Front], Path]) -> None:
    assert [found.widths for found in load_evaluations(save(front))] == [(16, 64), (8, 64), (3, 64)]


def test_line_that_a_kill_cut_short_is_left_out(front: Front, save: Callable[[Front], Path]) -> None:
    folder = save(front)
    with (folder / "archive.jsonl").open("a") as stream:
        stream.write('{"kind": "evaluat')
    assert len(load_evaluations(folder)) == 3


def test_damaged_line_is_named(front: Front, save: Callable[[Front], Path]) -> None:
    folder = save(front)
    path = folder / "archive.jsonl"
    path.write_text("nonsense\n" + path.read_text())
    with pytest.raises(RunError, match=r"archive\.jsonl, line 1"):
        load_evaluations(folder)


def test_run_without_archive_has_no_evaluations(tmp_path: Path) -> None:
    assert load_evaluations(tmp_path) == []


def test_dense_row_is_found_and_points_are_the_rest(front: Front) -> None:
    assert front.dense is front.rows[0]
    assert [row.id for row in front.points] == ["p0", "p1"]
    assert dataclasses.replace(front, rows=front.rows[1:]).dense is None
