"""What ``hwprune measure`` shows people."""

import pytest

from hwprune.cli.measure import MOMENTS, show_matrix
from hwprune.experiments.matrix import Cell, Matrix


def shown(capsys: pytest.CaptureFixture[str], *cells: Cell) -> list[str]:
    show_matrix(Matrix(tuple(cell.model for cell in cells), ("board",), ("tvm",), cells))
    return capsys.readouterr().out.splitlines()


def test_a_cell_without_a_number_has_its_reason_under_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    *_, last = shown(capsys, Cell.failed("a.onnx", "board", "tvm", "no way"))
    assert last == "a.onnx on board by tvm: no way"


def test_a_steady_load_shows_clocks_and_temperature_from_its_first_block_to_its_last(
    capsys: pytest.CaptureFixture[str],
) -> None:
    moments = tuple(
        {
            "elapsed_s": float(second),
            "latency_ms": 2.0 + second,
            "latency_ms_p50": 3.0,
            "reference_ms": 0.5,
            "clocks_mhz": None if second == 60 else [1500.0, 600.0],
            "temperatures_celsius": {"cpu": 40.0 + second, "gpu": 30.0},
            "counts": second >= 30,
        }
        for second in range(61)
    )
    cell = Cell("a.onnx", "board", "tvm", scenario="sustained:1m", timeline=moments)
    lines = shown(capsys, cell)
    start = lines.index("a.onnx on board by tvm, sustained:1m")
    _, first, *between, last = lines[start + 1 :]
    assert len(between) == MOMENTS - 2
    assert first.split() == ["0", "2.00", "ms", "3.00", "ms", "500.0", "us", "1500", "600", "40", "C", "no"]
    assert last.split() == ["60", "62.00", "ms", "3.00", "ms", "500.0", "us", "-", "100", "C", "yes"]
