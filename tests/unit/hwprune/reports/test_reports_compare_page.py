"""The files of a comparison."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hwprune.reports.compare import Comparison, compare
from hwprune.reports.compare_page import fact, fronts_figure, render

MakeRun = Callable[..., Path]
ROWS = (("dense", 1.0, 0.9, 4000), ("p00", 0.4, 0.87, 1000), ("p01", 0.6, 0.89, 2000))


def cost(latency_ms: float | None, regret: float | None, own: bool, reason: str = "") -> dict[str, Any]:
    low, high = (None, None) if latency_ms is None else (latency_ms * 0.99, latency_ms * 1.01)
    return {
        "latency_ms": latency_ms,
        "latency_ms_low": low,
        "latency_ms_high": high,
        "trust": "A",
        "source": "run",
        "own": own,
        "regret": regret,
        "reason": reason,
    }


@pytest.fixture
def comparison(make_run: MakeRun) -> Comparison:
    slow = [(id, 10 * latency_ms, test, memory) for id, latency_ms, test, memory in ROWS]
    return compare([make_run("one", ROWS), make_run("two", slow, device="<b>pi4</b>", fingerprint="e" * 64)])


@pytest.fixture
def data(comparison: Comparison) -> dict[str, Any]:
    regret = {
        "one": {"local": cost(0.6, 0.0, True), "<b>pi4</b>": cost(None, None, False, "it is <away>")},
        "two": {"local": cost(0.75, 0.25, False), "<b>pi4</b>": cost(6.0, 0.0, True)},
    }
    return {**comparison.as_dict(), "regret": regret}


def test_files_are_written_and_the_page_needs_no_other(
    comparison: Comparison, data: dict[str, Any], tmp_path: Path
) -> None:
    files = render(comparison, data, tmp_path / "new" / "out")
    assert sorted(files) == sorted((tmp_path / "new" / "out").iterdir())
    assert json.loads(files[0].read_text()) == data
    assert files[2].read_bytes().startswith(b"\x89PNG")
    page = files[3].read_text()
    assert not re.search(r"<(script|link)", page)
    assert re.findall(r'src="([^"]{20})', page) == ["data:image/svg+xml;b"]


def test_the_page_tells_costs_reasons_and_conditions(
    comparison: Comparison, data: dict[str, Any], tmp_path: Path
) -> None:
    page = render(comparison, data, tmp_path / "out")[3].read_text()
    assert "750.0 us (+25.0 %)" in page
    assert "it is &lt;away&gt;" in page
    assert "<b>" not in page
    assert "eeeeeeeeeeee<" in page
    assert f"{data['hv']['one']:.4f}" in page
    assert page.count('class="own"') == 2


def test_all_fronts_are_one_table(comparison: Comparison, data: dict[str, Any], tmp_path: Path) -> None:
    with render(comparison, data, tmp_path / "out")[1].open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["run"], row["id"]) for row in rows] == [(run, id) for run in ("one", "two") for id, *_ in ROWS]
    assert [float(row["latency_ms"]) for row in rows] == [1.0, 0.4, 0.6, 10.0, 4.0, 6.0]


def test_the_picture_overlays_the_fronts_on_axes_that_fit_both(comparison: Comparison) -> None:
    latency, memory = fronts_figure(comparison).axes
    assert (latency.get_xscale(), memory.get_xscale()) == ("log", "linear")
    assert latency.get_ylabel() == "test top1 (%)"
    stairs = [line for line in latency.get_lines() if line.get_drawstyle() == "steps-post"]
    assert [line.get_xdata().tolist() for line in stairs] == [[0.4, 0.6, 1.0], [4.0, 6.0, 10.0]]
    assert stairs[0].get_ydata().tolist() == pytest.approx([87, 89, 90])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "unknown"),
        ([1, 2], "1 2"),
        ([], "none"),
        ("e" * 64, "e" * 12),
        ({"a": 1.0}, "a 1"),
        (0.031234567, "0.031235"),
    ],
)
def test_facts_are_short(value: object, text: str) -> None:
    assert fact(value) == text
