"""Pictures of a device's latency model: the staircase of its kernels, and predicted against measured networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure

from hwprune.reports.picture import DARK, LIGHT, STYLE
from latency_models.evaluation import held_out
from latency_models.features import widths
from latency_models.kernel_table import KernelTable
from latency_models.network_model import LatencyModel, describe
from latency_models.shapes import LayerShape

#: Kinds of layers whose staircase is drawn.
KINDS = 6


def draw_model(model: LatencyModel, title: str, path: Path) -> None:
    """Write the picture as PNG."""
    draft = path.with_name(f".{path.name}.part")
    with rc_context(STYLE):
        model_figure(model, title).savefig(draft, format="png", dpi=150)
    draft.replace(path)


def model_figure(model: LatencyModel, title: str) -> Figure:
    """Staircases of the kernels that take longest, and networks predicted by models that had not seen them.

    Args:
        model: of a device.
        title: above them; "" for none.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, 4.0), layout="constrained")
        stairs, networks = figure.subplots(1, 2)
        _draw_stairs(stairs, model)
        _draw_networks(networks, model)
        if title:
            figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    return figure


def _draw_stairs(axes: Any, model: LatencyModel) -> None:
    """Latency over output channels at the widest measured input, with what was measured near it."""
    tables = sorted(model.kernels.restated.by_template().items(), key=lambda item: -item[1].latency_ms.max())
    tables = [(template, table) for template, table in tables if len(set(widths(table.shapes)[1])) > 1][:KINDS]
    for number, (template, table) in enumerate(tables):
        colour = colormaps["cividis"](number / KINDS)
        _draw_kind(axes, model, template, table, colour)
    axes.set_xlabel("output channels")
    axes.set_ylabel("time of a kernel, per input channel (us)")
    if tables:
        axes.legend(fontsize=6.5)


def _draw_kind(axes: Any, model: LatencyModel, template: LayerShape, table: KernelTable, colour: Any) -> None:
    c_in, c_out = widths(table.shapes)
    drawn = np.arange(c_out.min(), c_out.max() + 1)
    mean_ms, _ = model.kernels.predict(template, np.full(len(drawn), c_in.max()), drawn)
    step = model.kernels.surface(template).out_step
    axes.plot(drawn, 1e3 * mean_ms / c_in.max(), color=colour, linewidth=1, label=f"{describe(template)} (step {step})")
    wide = c_in >= 0.7 * c_in.max()
    axes.plot(c_out[wide], 1e3 * table.latency_ms[wide] / c_in[wide], "o", color=colour, markersize=3)


def _draw_networks(axes: Any, model: LatencyModel) -> None:
    found = held_out(model.recalibrate, model.networks)
    if found is None:
        axes.set_axis_off()
        return
    ends = np.array([0.95 * found.actual_ms.min(), 1.05 * found.actual_ms.max()])
    axes.fill_between(ends, ends * 0.95, ends * 1.05, color=LIGHT, alpha=0.3, linewidth=0, label="within 5 %")
    axes.plot(ends, ends, color=LIGHT, linewidth=1)
    axes.errorbar(
        found.actual_ms, found.mean_ms, yerr=found.half_width_ms, fmt="o", color=DARK, markersize=4, capsize=2,
        label="left out, with 90 % interval",
    )  # fmt: skip
    axes.set_xlabel("measured latency of a network (ms)")
    axes.set_ylabel("predicted latency (ms)")
    axes.legend(loc="upper left", fontsize=7)
