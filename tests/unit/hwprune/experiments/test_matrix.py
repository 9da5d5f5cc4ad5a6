"""The matrix of models and devices: cells, ratios, and the table that is written."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest

from hwprune.experiments.matrix import Cell, Matrix, with_ratio
from hwprune.records import Artifact, Conditions, Measurement

ARTIFACT = Artifact(Path(), "abc", "network", "host", "7", {"fallback_calls": 2, "fallback_ops": ["cos", "sin"]})


def measurement(engine: str = "tvm", latency_ms: float = 2.0, **changes: object) -> Measurement:
    conditions = Conditions("board", "f", engine, "float32", (1, 3, 8, 8), 1, "7")
    plain = Measurement("abc", conditions, (((latency_ms,) * 5,) * 5,), trust="A", measured_at="2026", load_ms=3.0)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def test_a_cell_has_the_numbers_and_where_they_come_from() -> None:
    cell = Cell.of("a.onnx", "tvm", measurement(), ARTIFACT, is_stored=True)
    assert (cell.latency_ms, cell.latency_ms_p50, cell.trust, cell.source) == (2.0, 2.0, "A", "store")
    assert (cell.fallback_calls, cell.fallback_ops, cell.version) == (2, "cos sin", "7")
    assert cell.is_good


def test_the_version_of_onnxruntime_is_its_own() -> None:
    packed = dataclasses.replace(ARTIFACT, kind="onnx", description={"fallback_calls": 0, "fallback_ops": []})
    cell = Cell.of("a.onnx", "onnxruntime", measurement("onnxruntime 1.20"), packed, is_stored=False)
    assert (cell.version, cell.fallback_calls) == ("1.20", None)


def test_a_failed_cell_has_its_reason_in_one_line() -> None:
    cell = Cell.of("a.onnx", "tvm", measurement(error="it\ncrashed", values_ms=()), ARTIFACT, is_stored=False)
    assert (cell.error, cell.latency_ms, cell.is_good) == ("it crashed", None, False)


def test_an_untrusted_cell_shows_its_number_and_is_not_good() -> None:
    cell = Cell.of("a.onnx", "tvm", measurement(trust="C", trust_reason="unsteady"), ARTIFACT, is_stored=False)
    assert (cell.latency_ms, cell.error, cell.is_good) == (2.0, "untrusted: unsteady", False)


def test_a_simulated_cell_says_so() -> None:
    found = measurement(values_ms=(), simulated_ms=(2.0, 0.1), trust="B", measured_at="")
    cell = Cell.of("a.onnx", "tvm", found, ARTIFACT, is_stored=True)
    assert (cell.latency_ms, cell.source, cell.latency_ms_p90) == (2.0, "simulated", None)


def test_the_ratio_stands_in_both_cells_if_both_can_be_used() -> None:
    ours = Cell.of("a.onnx", "tvm", measurement(latency_ms=1.5), ARTIFACT, is_stored=False)
    theirs = Cell.of("a.onnx", "onnxruntime", measurement("onnxruntime 1", 3.0), ARTIFACT, is_stored=False)
    assert [cell.tvm_over_onnxruntime for cell in with_ratio([theirs, ours])] == [0.5, 0.5]
    failed = Cell.failed("a.onnx", "board", "tvm", "no")
    assert [cell.tvm_over_onnxruntime for cell in with_ratio([theirs, failed])] == [None, None]


@pytest.fixture
def matrix() -> Matrix:
    good = Cell.of("a.onnx", "tvm", measurement(), ARTIFACT, is_stored=False)
    return Matrix(("a.onnx", "b.onnx"), ("board",), ("tvm",), (good, Cell.failed("b.onnx", "board", "tvm", "no")))


def test_a_steady_loads_moments_are_told_to_programs_and_are_no_column_of_the_table(tmp_path: Path) -> None:
    moments = ({"elapsed_s": 1.0, "latency_ms": 2.0, "clocks_mhz": [1500.0], "counts": True},)
    cell = Cell.of("a.onnx", "tvm", measurement(timeline=moments), ARTIFACT, is_stored=False)
    whole = Matrix(("a.onnx",), ("board",), ("tvm",), (cell,))
    assert whole.as_dict()["cells"][0]["timeline"] == moments
    whole.write_csv(tmp_path / "matrix.csv")
    assert "timeline" not in (tmp_path / "matrix.csv").read_text()


def test_failed_cells_are_listed(matrix: Matrix) -> None:
    assert [cell.model for cell in matrix.failed] == ["b.onnx"]
    assert matrix.cell("a.onnx", "board", "tvm").is_good


def test_the_table_has_a_line_a_cell_and_empty_fields_for_what_is_unknown(matrix: Matrix, tmp_path: Path) -> None:
    matrix.write_csv(tmp_path / "matrix.csv")
    with (tmp_path / "matrix.csv").open(newline="") as stream:
        good, failed = csv.DictReader(stream)
    assert (good["latency_ms"], good["error"]) == ("2.0", "")
    assert (failed["latency_ms"], failed["error"], failed["device"]) == ("", "no", "board")
    assert list(tmp_path.iterdir()) == [tmp_path / "matrix.csv"]
