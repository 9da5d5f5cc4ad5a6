"""``hwprune compare``: runs side by side, and what each one's pick costs on the devices of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hwprune.cli.context import Session, as_json_option, examples
from hwprune.cli.output import emit, emit_json, emit_table
from hwprune.units import format_bytes, format_ms

if TYPE_CHECKING:
    from hwprune.experiments.picks import Pick
    from hwprune.reports.compare import ComparedRun, Comparison


@click.command(
    epilog=examples(
        "hwprune compare runs/pi4-... runs/xeon-...         # what does each device's pick cost on the other?",
        "hwprune compare runs/*-hamp-* runs/*-nsga2-*       # methods on one device: nothing has to be measured",
        "hwprune compare runs/A runs/B --no-measure --json  # from the files alone",
    )
)
@click.argument("run_folders", metavar="RUN RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--max-drop",
    "max_drop_points",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="A run's pick is its fastest network at most so many points (hundredths) below the dense one.",
)
@click.option(
    "--measure/--no-measure",
    default=True,
    show_default=True,
    help="Measure picks on the devices of other runs where the store does not know them.",
)
@click.option(
    "--out",
    "out_folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("compare"),
    show_default=True,
    help="Folder of the picture, the page and the tables.",
)
@as_json_option
@click.pass_context
def compare(
    context: click.Context,
    run_folders: tuple[Path, ...],
    max_drop_points: float,
    measure: bool,
    out_folder: Path,
    as_json: bool,
) -> None:
    """Compare the fronts of runs: several devices, or several methods on one.

    Prints hypervolumes on one reference point, what each run's pick costs on the devices of the others, and the
    conditions in which the runs differ.
    """
    if len(run_folders) < 2:
        raise click.UsageError("name two runs or more", context)
    from hwprune.reports.compare import compare as compare_runs

    session: Session = context.obj
    comparison = compare_runs(run_folders, max_drop_points)
    from hwprune.experiments.compare import costs
    from hwprune.reports.compare_page import render

    picks = [_pick(run, comparison) for run in comparison.runs]
    regret = costs(picks, session.home, session.console, measure=measure)
    data = {
        **comparison.as_dict(),
        "regret": {run: {device: asdict(cost) for device, cost in row.items()} for run, row in regret.items()},
    }
    files = render(comparison, data, out_folder)
    if as_json:
        return emit_json({**data, "files": list(map(str, files))})
    _show(data)
    session.console.info("wrote " + ", ".join(map(str, files)))
    return None


def _pick(run: ComparedRun, comparison: Comparison) -> Pick:
    """A run's pick as experiments want it."""
    from hwprune.experiments.picks import Pick
    from hwprune.records import Conditions

    known = {field.name: run.conditions[field.name] for field in fields(Conditions)}
    conditions = Conditions(**{**known, "input_shape": tuple(known["input_shape"])})
    return Pick(run.label, run.folder, comparison.picks[run.label], conditions, run.reference_ms)


def _show(data: Mapping[str, Any]) -> None:
    """The comparison for people."""
    from hwprune.reports.compare_page import fact

    metric = data["metric"]
    emit_table([_run_row(label, data) for label in data["runs"]])
    corners = (", ".join(f"{name} {value:.6g}" for name, value in data[key].items()) for key in ("ideal", "ref_point"))
    emit(f"\nhypervolume: share of the box between {' and '.join(corners)}; error from {metric}")
    emit(f"pick: the fastest network at most {data['max_drop_points']:g} points below the dense one\n")
    emit_table([{"pick of": label, **dict(map(_cell, row.items()))} for label, row in data["regret"].items()])
    reasons = {cost["reason"] for row in data["regret"].values() for cost in row.values() if cost["reason"]}
    emit("\n".join(f"empty: {reason}" for reason in sorted(reasons)) + "\n" if reasons else "")
    if data["conditions_differ"]:
        rows = [
            {"condition that differs": name, **{run: fact(value) for run, value in values.items()}}
            for name, values in data["conditions_differ"].items()
        ]
        emit_table(rows)
    else:
        emit("all conditions are equal")


def _run_row(label: str, data: Mapping[str, Any]) -> dict[str, object]:
    run, pick = data["runs"][label], data["picks"][label]
    row: dict[str, object] = {
        "run": label,
        "device": run["device"],
        "method": run["method"],
        "networks": run["networks"],
        "hypervolume": f"{data['hv'][label]:.4f}",
    }
    if pick is None:
        return {**row, "pick": "-", "latency": "-", "faster": "-", data["metric"]: "-", "memory": "-"}
    return {
        **row,
        "pick": pick["point"],
        "latency": format_ms(pick["latency_ms"]) + (" simulated" if pick["simulated"] else ""),
        "faster": f"{pick['speedup']:.2f}x",
        data["metric"]: f"{pick['metric']:.4f}",
        "memory": format_bytes(pick["planned_memory_bytes"]),
    }


def _cell(item: tuple[str, Mapping[str, Any]]) -> tuple[str, str]:
    """A device and what a pick costs there."""
    device, cost = item
    if cost["latency_ms"] is None:
        return f"on {device}", "-"
    regret = "" if cost["regret"] is None else f" ({cost['regret']:+.1%})"
    return f"on {device}", format_ms(cost["latency_ms"]) + regret + (" simulated" if cost["simulated"] else "")
