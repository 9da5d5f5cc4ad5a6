"""A scan as tables and as a picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from hwprune.reports.picture import ACCENT, DARK, LIGHT, STYLE
from hwprune.scanned import GroupCurve, LayerTime, ScanReport

#: Groups whose curves are drawn, and layers that are named in the table.
CURVES, LAYERS = 6, 12


def layer_table(report: ScanReport) -> list[dict[str, object]]:
    """The layers that take most of the time, and one row for all others."""
    order = sorted(report.layers, key=lambda layer: -layer.latency_ms)
    rows: list[dict[str, object]] = [_layer_row(layer.layer, [layer]) for layer in order[:LAYERS]]
    if order[LAYERS:]:
        rows.append(_layer_row(f"{len(order) - LAYERS} other layers", order[LAYERS:]))
    return rows


def group_table(report: ScanReport) -> list[dict[str, object]]:
    """Groups of channels by what half of each would save."""
    return [
        {
            "channels of": group.group,
            "width": group.size,
            "step": group.step,
            "half saves ms": group.saved_half_ms,
            "half saves %": 100 * group.saved_half_ms / report.latency_ms,
        }
        for group in report.groups
    ]


def width_table(report: ScanReport) -> list[dict[str, object]]:
    """The whole network at some shares of its channels."""
    return [
        {
            "channels": f"{row.share:.0%}",
            "latency ms": row.latency_ms,
            "low": row.low_ms,
            "high": row.high_ms,
            "time %": 100 * row.latency_ms / report.latency_ms,
            "macs %": 100 * row.macs_share,
            "planned KiB": row.planned_memory_bytes / 1024,
            "process KiB": None if row.process_peak_bytes is None else row.process_peak_bytes / 1024,
            "by": "measured" if row.measured else "predicted",
        }
        for row in report.widths
    ]


def draw_scan(report: ScanReport, path: Path) -> None:
    """Write a scan's picture as PNG."""
    draft = path.with_name(f".{path.name}.part")
    with rc_context(STYLE):
        scan_figure(report).savefig(draft, format="png", dpi=150)
    draft.replace(path)


def scan_figure(report: ScanReport) -> Figure:
    """Time of each layer, the staircases of the groups that buy most, and the network at shares of its channels."""
    with rc_context(STYLE):
        figure = Figure(figsize=(11.0, 3.8), layout="constrained")
        layers, curves, shares = figure.subplots(1, 3)
        _draw_layers(layers, report)
        _draw_curves(curves, report.groups[:CURVES])
        _draw_shares(shares, report)
        figure.suptitle(f"{report.model} on {report.device}: {report.verdict}", fontsize=9, x=0.01, ha="left")
        figure.supxlabel(
            f"dense: {report.latency_ms:.4g} ms (95 % interval {report.low_ms:.4g} to {report.high_ms:.4g}), "
            f"trust {report.trust}",
            fontsize=7.5,
            color="#555555",
        )
    return figure


def _layer_row(name: str, layers: Iterable[LayerTime]) -> dict[str, object]:
    found = list(layers)
    return {
        "layer": name,
        "ms": sum(layer.latency_ms for layer in found),
        "time %": 100 * sum(layer.share for layer in found),
        "Mmacs": sum(layer.macs for layer in found) / 1e6,
        "kernel": "fallback" if any(layer.fallback for layer in found) else "own",
    }


def _draw_layers(axes: Any, report: ScanReport) -> None:
    colours = [ACCENT if layer.fallback else DARK for layer in report.layers]
    axes.bar(range(1, len(report.layers) + 1), [layer.latency_ms for layer in report.layers], color=colours)
    axes.set_xlabel("layer, from input to output")
    axes.set_ylabel("time inside the network (ms)")
    if report.fallback_ops:
        axes.bar([1], [0], color=ACCENT, label="no schedule of ours")
        axes.legend(loc="upper right", fontsize=7)


def _draw_curves(axes: Any, groups: Iterable[GroupCurve]) -> None:
    for number, group in enumerate(groups):
        shade = number / max(1, CURVES - 1)
        colour = (0.0 + 0.75 * shade, 0.13 + 0.6 * shade, 0.31 + 0.1 * shade)
        saved = [group.latency_ms[-1] - value for value in group.latency_ms]
        axes.plot(group.widths, saved, color=colour, linewidth=1.2, label=f"{group.group} (step {group.step})")
    axes.set_xlabel("channels kept of one group, all others dense")
    axes.set_ylabel("time saved, predicted (ms)")
    if axes.has_data():
        axes.legend(fontsize=6.5)


def _draw_shares(axes: Any, report: ScanReport) -> None:
    if not report.widths:
        axes.set_axis_off()
        return
    shares = [100 * row.share for row in report.widths]
    axes.plot([0, 100], [0, report.latency_ms], color=LIGHT, linewidth=1, linestyle=":", label="in proportion")
    bars = [
        [row.latency_ms - row.low_ms for row in report.widths],
        [row.high_ms - row.latency_ms for row in report.widths],
    ]
    latency_ms = [row.latency_ms for row in report.widths]
    axes.errorbar(shares, latency_ms, yerr=bars, color=DARK, marker="o", markersize=4, capsize=2, label="the network")
    axes.set_xlim(0, 105)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("channels kept of every group (%)")
    axes.set_ylabel("latency of one inference (ms)")
    axes.legend(loc="upper left", fontsize=7)
