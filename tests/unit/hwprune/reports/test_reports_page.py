import dataclasses
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

from hwprune.fronts import Front
from hwprune.reports import picture
from hwprune.reports.page import render
from latency_models.kernel_table import KernelTable
from latency_models.network_model import LatencyModel
from latency_models.shapes import LayerShape

PNG = b"\x89PNG\r\n\x1a\n"


class Reader(HTMLParser):
    """Texts and addresses of a page; fails on elements that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(folder: Path) -> Reader:
    reader = Reader()
    reader.feed((folder / "report.html").read_text())
    assert reader.open == []
    return reader


def test_reports_are_written_and_nothing_else(front: Front, save: Callable[[Front], Path]) -> None:
    folder = save(front)
    before = {path.name for path in folder.iterdir()}
    assert [path.name for path in render(folder)] == ["front.csv", "front.png", "report.html"]
    assert {path.name for path in folder.iterdir()} - before == {"front.csv", "front.png", "report.html"}
    assert (folder / "front.png").read_bytes().startswith(PNG)


def test_page_needs_nothing_from_outside(front: Front, save: Callable[[Front], Path]) -> None:
    folder = save(front)
    render(folder)
    reader = read(folder)
    assert len(reader.addresses) == 4
    assert all(address.startswith("data:image/svg+xml;base64,") for address in reader.addresses)
    assert not re.search(r"<(script|link)", (folder / "report.html").read_text())


def conv(c_in: int, c_out: int) -> LayerShape:
    return LayerShape("conv2d", c_in, c_out, 8, 8, (3, 3), padding=(1, 1))


def test_page_shows_the_device_as_it_was_profiled(front: Front, save: Callable[[Front], Path]) -> None:
    folder = save(front)
    kernels = KernelTable({conv(c_in, c_out): 1e-5 * c_in * c_out for c_in in (8, 16) for c_out in (4, 8, 16, 32)})
    networks = [((conv(8, width), conv(width, 32)), 4e-4 * width) for width in (4, 8, 16, 32)]
    (folder / "latency_model.json").write_text(LatencyModel.fit(kernels, networks).to_json())
    render(folder)
    assert len(read(folder).addresses) == 5
    assert "models that had not seen them" in " ".join(read(folder).text.split())
    (folder / "latency_model.json").write_text("{")
    render(folder)
    assert len(read(folder).addresses) == 4


def test_page_tells_what_a_stranger_asks(front: Front, save: Callable[[Front], Path]) -> None:
    folder = save(front)
    render(folder)
    text = read(folder).text
    assert "2.00 times faster than the dense network" in text  # the verdict
    assert "+3.0 %" in text  # predicted against measured
    assert "A CPU & more" in text  # the device
    assert "reference moved by 8 %" in text  # why a point stands apart
    assert "3.0 % off on average" in text  # the latency model's error on this front
    assert "0.0123" in text  # and on what it never saw
    assert "state_before.governor" in text
    assert "unknown" in text  # what could not be read is said, not left out


def test_texts_from_outside_cannot_become_markup(front: Front, save: Callable[[Front], Path]) -> None:
    folder = save(dataclasses.replace(front, network="<script>alert(1)</script>"))
    render(folder)
    assert "<script" not in (folder / "report.html").read_text()


def test_points_of_grade_c_stand_apart(front: Front, save: Callable[[Front], Path]) -> None:
    folder = save(front)
    render(folder)
    table, _, apart = read(folder).text.partition("Apart: measured, but not to be trusted")
    assert "p2" in apart
    assert "p2" not in table
    assert "p2" not in (folder / "front.csv").read_text()


def test_page_of_a_bare_front_is_whole(front: Front, save: Callable[[Front], Path]) -> None:
    rows = tuple(dataclasses.replace(row, predicted_latency_ms=None, test_metric=None, widths=()) for row in front.rows)
    folder = save(dataclasses.replace(front, rows=rows, untrusted=(), latency_model=None, counts={}, device={}))
    (folder / "archive.jsonl").unlink()
    (folder / "environment.json").unlink()
    render(folder)
    reader = read(folder)
    assert len(reader.addresses) == 1
    assert "on the validation split" in reader.text


def test_page_without_any_trusted_row_is_whole(front: Front, save: Callable[[Front], Path]) -> None:
    folder = save(dataclasses.replace(front, rows=(), untrusted=front.rows))
    render(folder)
    assert "No speed-up can be stated" in read(folder).text


def test_same_front_gives_the_same_bytes(front: Front, save: Callable[[Front], Path]) -> None:
    folder = save(front)
    render(folder)
    first = [(folder / name).read_bytes() for name in ("front.csv", "front.png", "report.html")]
    render(folder)
    assert [(folder / name).read_bytes() for name in ("front.csv", "front.png", "report.html")] == first


def test_picture_draws_every_row_and_marks_the_dense_network(front: Front) -> None:
    axes = picture.front_figure(front).axes[0]
    labels = [text.get_text() for text in axes.texts]
    assert labels == ["p0", "p1"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["before fine-tuning", "pruned", "dense"]
    assert axes.get_ylabel() == "test top1 (%)"
    assert "ms" in axes.get_xlabel()


def test_picture_takes_the_validation_split_where_the_test_split_is_not_read(front: Front) -> None:
    rows = tuple(dataclasses.replace(row, test_metric=None) for row in front.rows)
    assert picture.front_figure(dataclasses.replace(front, rows=rows)).axes[0].get_ylabel() == "validation top1 (%)"
