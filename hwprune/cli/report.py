"""``hwprune report``: a run as table, JSON, CSV, picture and page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hwprune.cli.context import Session, as_json_option, run_argument
from hwprune.cli.output import emit_json, emit_table
from hwprune.units import format_bytes, format_count, format_ms

if TYPE_CHECKING:
    from hwprune.fronts import Front, FrontRow


@click.command()
@run_argument
@as_json_option
@click.pass_obj
def report(session: Session, run_folder: Path, as_json: bool) -> None:
    """Write front.csv, front.png and report.html of a run anew, and print its front."""
    show_run(session, run_folder, as_json)


def show_run(session: Session, run_folder: Path, as_json: bool) -> None:
    """Write the reports of a run and print its front: how every command that ends with a front ends."""
    from hwprune.reports.front import load_front
    from hwprune.reports.page import render
    from hwprune.reports.verdict import verdict

    if as_json:
        return emit_json(run_facts(run_folder))
    front = load_front(run_folder)
    files = render(run_folder)
    emit_table([_row(front, row) for row in front.rows])
    for row in front.untrusted:
        session.console.warn(f"{row.id} is apart from the front, its measurement is untrusted: {row.trust_reason}")
    session.console.info(verdict(front))
    session.console.info("wrote " + ", ".join(map(str, files)))


def run_facts(run_folder: Path) -> dict[str, Any]:
    """Write the reports of a run; its front for programs."""
    from hwprune.reports.front import load_front
    from hwprune.reports.page import render
    from hwprune.reports.verdict import verdict

    front = load_front(run_folder)
    render(run_folder)
    return {"run": str(run_folder), "verdict": verdict(front), **front.as_dict()}


def _row(front: Front, row: FrontRow) -> dict[str, object]:
    """A front's row for people."""
    speedup = f"{front.dense.latency_ms / row.latency_ms:.2f}x" if front.dense else "-"
    half_width = (row.latency_ms_high - row.latency_ms_low) / 2 / row.latency_ms
    return {
        "id": row.id,
        f"val_{front.metric}": f"{row.val_metric:.4f}",
        f"test_{front.metric}": "-" if row.test_metric is None else f"{row.test_metric:.4f}",
        "latency": f"{format_ms(row.latency_ms)} ±{half_width:.1%}",
        "predicted": "-" if row.predicted_latency_ms is None else format_ms(row.predicted_latency_ms),
        "faster": speedup,
        "memory": format_bytes(row.planned_memory_bytes),
        "macs": format_count(row.macs),
        "params": format_count(row.params),
        "trust": f"{row.trust}, simulated" if row.simulated else row.trust,
    }
