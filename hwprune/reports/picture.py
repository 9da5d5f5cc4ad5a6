"""Pictures of a run: the front, predicted against measured, the hypervolume's course, what was cut.

Colours are those of ``cividis``, which people with any colour vision tell apart; every axis has its unit.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hwprune.fronts import Front, FrontRow
from hwprune.reports.verdict import metric_of

FloatArray = npt.NDArray[np.float64]

#: How every picture looks.
STYLE = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.hashsalt": "hwprune",  # the same front, the same bytes
}
DARK, LIGHT, ACCENT = "#00224e", "#8a8678", "#d55e00"

#: Points nearer to each other than this share of the picture, in both directions, would have their names overlap.
_NAME_SHARE = 0.04


def draw_front(front: Front, path: Path) -> None:
    """Write the front's picture as PNG."""
    draft = path.with_name(f".{path.name}.part")
    with rc_context(STYLE):
        front_figure(front).savefig(draft, format="png", dpi=150)
    draft.replace(path)


def as_svg(figure: Figure) -> bytes:
    """A figure as SVG, for a page."""
    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "hwprune"})
    return buffer.getvalue()


def front_figure(front: Front) -> Figure:
    """Latency against the metric, memory as colour, the dense network as a star, arrows from before fine-tuning."""
    with rc_context(STYLE):
        figure = Figure(figsize=(7.6, 5.2), layout="constrained")
        axes = figure.add_subplot()
        rows = front.rows
        on_test = bool(rows) and all(row.test_metric is not None for row in rows)
        scale, unit = (100.0, " (%)") if front.metric.startswith("top") else (1.0, "")
        if front.points:
            _draw_points(figure, axes, front, on_test, scale)
        if front.dense is not None:
            _draw_dense(axes, front.dense, _height(front.dense, on_test) * scale)
        axes.set_xlabel(f"{_kind(front)} latency of one inference (ms), bars: 95 % interval")
        axes.set_ylabel(f"{'test' if on_test else 'validation'} {front.metric}{unit}")
        axes.set_title(f"{front.network} on {front.data}: found by {front.method}", loc="left", fontsize=11)
        axes.margins(x=0.08, y=0.1)
        if rows:
            axes.legend(loc="lower right")
        figure.supxlabel(caption(front), fontsize=7.5, color="#555555")
    return figure


def _kind(front: Front) -> str:
    """How the latencies came about."""
    simulated = sum(row.simulated for row in front.rows)
    return "measured" if not simulated else "simulated" if simulated == len(front.rows) else "measured or simulated"


def caption(front: Front) -> str:
    """Device and conditions in one line."""
    rows = front.rows or front.untrusted
    parts = [front.device.get("cpu_model") or front.device.get("model")]
    if rows:
        first = rows[0]
        parts += [f"device {first.device}", f"engine {first.engine}", first.dtype, f"{first.threads} thread(s)"]
        parts.append(f"trust {', '.join(sorted({row.trust for row in rows}))}")
        simulated = [row.id for row in rows if row.simulated]
        parts += [f"simulated: {', '.join(simulated)}"] if simulated else []
    shape = front.conditions.get("input_shape")
    if shape:
        parts.append(f"input {'x'.join(map(str, shape))}")
    return "; ".join(str(part) for part in parts if part)


def prediction_figure(front: Front) -> Figure:
    """Predicted against measured latency, with a band of 5 %."""
    pairs = np.array(
        [(row.predicted_latency_ms, row.latency_ms) for row in front.rows if row.predicted_latency_ms is not None]
    ).reshape(-1, 2)
    with rc_context(STYLE):
        figure = Figure(figsize=(4.2, 3.6), layout="constrained")
        axes = figure.add_subplot()
        if len(pairs):
            ends = np.array([pairs.min() * 0.95, pairs.max() * 1.05])
            axes.fill_between(ends, ends * 0.95, ends * 1.05, color=LIGHT, alpha=0.3, linewidth=0, label="within 5 %")
            axes.plot(ends, ends, color=LIGHT, linewidth=1)
            axes.plot(pairs[:, 0], pairs[:, 1], "o", color=DARK, markersize=4)
            axes.legend(loc="upper left")
        axes.set_xlabel("predicted latency (ms)")
        axes.set_ylabel("measured latency (ms)")
    return figure


def hypervolume_figure(curve: FloatArray) -> Figure:
    """Hypervolume, ``(n,)`` in [0, 1], over true evaluations."""
    with rc_context(STYLE):
        figure = Figure(figsize=(4.2, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.step(np.arange(1, len(curve) + 1), curve, where="post", color=DARK)
        axes.set_xlabel("true evaluations")
        axes.set_ylabel("hypervolume (share of the box)")
    return figure


def widths_figure(front: Front) -> Figure | None:
    """Share of channels that each point keeps, by group; None where the dense network's widths are not known."""
    dense = front.dense
    if dense is None or not dense.widths or not front.points:
        return None
    kept = np.array([row.widths for row in front.points], dtype=np.float64) / np.array(dense.widths)
    with rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(8.6, 0.9 + 0.22 * len(kept)), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(kept, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        axes.set_yticks(range(len(kept)), [row.id for row in front.points], fontsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("channel group, from input to output")
        figure.colorbar(image, ax=axes, label="channels kept")
    return figure


def _height(row: FrontRow, on_test: bool) -> float:
    return metric_of(row) if on_test else row.val_metric


def _draw_points(figure: Figure, axes: Any, front: Front, on_test: bool, scale: float) -> None:
    latency_ms = np.array([row.latency_ms for row in front.points])
    height = scale * np.array([_height(row, on_test) for row in front.points])
    bars = np.array(
        [(row.latency_ms - row.latency_ms_low, row.latency_ms_high - row.latency_ms) for row in front.points]
    )
    memory = np.array([row.planned_memory_bytes for row in front.points]) / 1024
    axes.errorbar(latency_ms, height, xerr=np.maximum(bars, 0).T, fmt="none", ecolor=LIGHT, elinewidth=1, capsize=2)
    _draw_before(axes, front, on_test, scale)
    marks = axes.scatter(
        latency_ms, height, c=memory, cmap="cividis", s=46, edgecolor="black", linewidth=0.6, zorder=3, label="pruned"
    )
    figure.colorbar(marks, ax=axes, label="planned memory: weights and buffers (KiB)")
    _draw_simulated(axes, front, latency_ms, height)
    for index in _apart(latency_ms, height):
        place = (latency_ms[index], height[index])
        text = front.points[index].id
        axes.annotate(text, place, xytext=(4, -9), textcoords="offset points", fontsize=6.5, color="#333333")


def _draw_simulated(axes: Any, front: Front, latency_ms: FloatArray, height: FloatArray) -> None:
    """Crosses through the points that nobody measured."""
    simulated = np.array([row.simulated for row in front.points])
    if simulated.any():
        label = "simulated, not measured"
        axes.plot(latency_ms[simulated], height[simulated], "x", color="#d55e00", zorder=5, label=label)


def _apart(x: FloatArray, y: FloatArray) -> list[int]:
    """Points whose names do not run into each other: those near a named one stay without."""
    points = np.column_stack([x, y])
    points = points / np.maximum(np.ptp(points, axis=0), 1e-12)
    named: list[int] = []
    for index, point in enumerate(points):
        if all(np.abs(point - points[other]).max() > _NAME_SHARE for other in named):
            named.append(index)
    return named


def _draw_before(axes: Any, front: Front, on_test: bool, scale: float) -> None:
    """Hollow marks where points stood before fine-tuning, on the split that is drawn."""
    label = "before fine-tuning"
    for row in front.points:
        before = row.test_metric_inherited if on_test else row.val_metric_inherited
        if row.finetuned and before is not None:
            ends = [scale * before, scale * _height(row, on_test)]
            axes.plot([row.latency_ms] * 2, ends, color=LIGHT, linewidth=0.8, zorder=1)
            axes.plot(row.latency_ms, ends[0], "o", color="white", markeredgecolor=LIGHT, markersize=5, label=label)
            label = "_nolegend_"


def _draw_dense(axes: Any, dense: FrontRow, height: float) -> None:
    bars = [[dense.latency_ms - dense.latency_ms_low], [dense.latency_ms_high - dense.latency_ms]]
    axes.errorbar(dense.latency_ms, height, xerr=np.maximum(bars, 0), fmt="none", ecolor=LIGHT, capsize=2)
    axes.plot(
        dense.latency_ms, height, "*", color=ACCENT, markeredgecolor="black", markersize=13, zorder=4, label="dense"
    )
    axes.axhline(height, color=ACCENT, linewidth=0.7, linestyle=":")
    axes.axvline(dense.latency_ms, color=ACCENT, linewidth=0.7, linestyle=":")
