"""A comparison as files: ``compare.json``, ``fronts.csv``, ``compare.png`` and a page with everything in it."""

from __future__ import annotations

import base64
import csv
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import rc_context
from matplotlib.figure import Figure

from hwprune.fronts import FrontRow
from hwprune.reports import picture
from hwprune.reports.compare import ComparedRun, Comparison
from hwprune.units import format_bytes, format_ms

FILES = ("compare.json", "fronts.csv", "compare.png", "compare.html")

#: Okabe's and Ito's colours, which people with any colour vision tell apart; shapes repeat with another period.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_SHAPES = ("o", "s", "^", "D", "v")

#: Devices whose latencies are further apart would crowd together on a linear axis.
_LOG_RATIO = 5.0


def render(comparison: Comparison, data: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the files of a comparison; returns where they lie.

    Args:
        comparison: the runs.
        data: what ``hwprune compare --json`` prints of them.
        folder: where the files go; made if absent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in FILES]
    figure = fronts_figure(comparison)
    files[0].write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    write_fronts(comparison.runs, files[1])
    with rc_context(picture.STYLE):
        figure.savefig(files[2], format="png", dpi=150)
    files[3].write_text(page(data, figure), encoding="utf-8")
    return files


def page(data: Mapping[str, Any], figure: Figure) -> str:
    """HTML of a comparison."""
    environment = Environment(
        loader=PackageLoader("hwprune.reports", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"ms": format_ms, "bytes": format_bytes, "fact": fact}
    return environment.get_template("compare.html.j2").render(
        **data,
        devices=list(next(iter(data["regret"].values()))),
        picture="data:image/svg+xml;base64," + base64.b64encode(picture.as_svg(figure)).decode(),
    )


def fact(value: Any) -> str:
    """A condition's value as a short text; digests by their beginning, what is not known says so."""
    if value is None:
        return "unknown"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list | tuple):
        return " ".join(map(fact, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {fact(item)}" for key, item in value.items()) or "none"
    text = str(value)
    is_digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:12] if is_digest else text


def write_fronts(runs: Sequence[ComparedRun], path: Path) -> None:
    """Write the rows of every ``front.csv`` into one, behind a column ``run``."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["run", *runs[0].table[0]])
        writer.writerows([run.label, *row.values()] for run in runs for row in run.table)


def fronts_figure(comparison: Comparison) -> Figure:
    """The metric over latency and over memory, a colour a run; stars are dense networks, rings the picks."""
    runs, split = comparison.runs, comparison.split
    metric = runs[0].front.metric
    scale, unit = (100.0, " (%)") if metric.startswith("top") else (1.0, "")
    with rc_context(picture.STYLE):
        figure = Figure(figsize=(10.4, 5.0), layout="constrained")
        latency, memory = figure.subplots(1, 2, sharey=True)
        styles = zip(itertools.cycle(_COLOURS), itertools.cycle(_SHAPES), strict=False)
        for run, (colour, shape) in zip(runs, styles, strict=False):
            rows = sorted(run.front.rows, key=lambda row: row.latency_ms)
            height = {row.id: scale * _metric(row, split) for row in rows}
            for axes, width in ((latency, _latency_ms), (memory, _memory_kib)):
                _draw(axes, run, rows, width, height, comparison.picks[run.label], colour, shape)
        simulated = any(row.simulated for run in runs for row in run.front.rows)
        latency.set_xlabel(f"measured{' or simulated (x)' if simulated else ''} latency of one inference (ms)")
        memory.set_xlabel("planned memory: weights and buffers (KiB)")
        latency.set_ylabel(f"{'test' if split == 'test' else 'validation'} {metric}{unit}")
        for axes, name in ((latency, "latency_ms"), (memory, "planned_memory_bytes")):
            values = [getattr(row, name) for run in runs for row in run.front.rows]
            if max(values) > _LOG_RATIO * min(values):
                axes.set_xscale("log")
        figure.suptitle(f"{runs[0].front.network} on {runs[0].front.data}", x=0.01, ha="left", fontsize=11)
        handles, labels = latency.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", fontsize=8)
    return figure


def _draw(
    axes: Any,
    run: ComparedRun,
    rows: Sequence[FrontRow],
    width: Any,
    height: Mapping[str, float],
    pick: FrontRow | None,
    colour: str,
    shape: str,
) -> None:
    """One run: its networks, the staircase of the best that can be had, the dense network and the pick."""
    x, y = np.array([[width(row), height[row.id]] for row in sorted(rows, key=width)]).T
    best = np.maximum.accumulate(y) if run.front.higher_is_better else np.minimum.accumulate(y)
    label = f"{run.front.method} on {run.conditions['device']} ({run.label})"
    axes.step(x, best, where="post", color=colour, linewidth=0.8, alpha=0.7)
    axes.plot(x, y, shape, color=colour, markersize=4.5, markeredgecolor="white", markeredgewidth=0.4, label=label)
    guessed = [row for row in rows if row.simulated]
    axes.plot([width(row) for row in guessed], [height[row.id] for row in guessed], "x", color="black", zorder=6)
    if run.front.dense is not None:
        place = (width(run.front.dense), height["dense"])
        axes.plot(*place, "*", color=colour, markeredgecolor="black", markersize=13, zorder=4)
    if pick is not None:
        axes.plot(width(pick), height[pick.id], "o", color="none", markeredgecolor=colour, markersize=12, zorder=5)


def _metric(row: FrontRow, split: str) -> float:
    return row.test_metric if split == "test" and row.test_metric is not None else row.val_metric


def _latency_ms(row: FrontRow) -> float:
    return row.latency_ms


def _memory_kib(row: FrontRow) -> float:
    return row.planned_memory_bytes / 1024
