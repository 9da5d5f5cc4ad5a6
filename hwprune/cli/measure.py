"""``hwprune measure``: models in files on devices, a number or a reason for each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from hwprune.cli.context import Session, as_json_option, examples, scenario_option
from hwprune.cli.output import emit, emit_json, emit_table
from hwprune.scenario import Scenario
from hwprune.units import format_ms

if TYPE_CHECKING:
    from hwprune.experiments.matrix import Cell, Matrix


#: Moments of a steady load that people are shown; programs get all of them.
MOMENTS = 7

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


def _shapes(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> Shapes:
    """Names of inputs and their sizes, of ``NAME=1x3x224x224``."""
    found = []
    for text in texts:
        name, _, sizes = text.rpartition("=")
        if not name or not re.fullmatch(r"[1-9][0-9]*(x[1-9][0-9]*)*", sizes):
            raise click.BadParameter(f"{text!r} is no shape of an input: write NAME=1x3x224x224", context, parameter)
        found.append((name, tuple(map(int, sizes.split("x")))))
    return tuple(found)


@click.command(
    epilog=examples(
        "hwprune measure model.onnx                              # on this computer",
        "hwprune measure a.onnx b.pt2 --device pi4 --device xeon --csv matrix.csv",
        "hwprune measure detector.onnx --device pi4 --scenario paced:30Hz     # as a camera calls it",
        "hwprune measure yolo.onnx --shape images=1x3x320x320 --device pi4",
        "hwprune measure model.onnx --engine onnxruntime         # the second opinion, and the ratio",
    )
)
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--device",
    "devices",
    metavar="NAME",
    multiple=True,
    default=("local",),
    show_default=True,
    help="Where they shall run; several work side by side.",
)
@click.option(
    "--shape",
    "shapes",
    metavar="NAME=SIZES",
    multiple=True,
    callback=_shapes,
    help="Sizes of an input, as 1x3x224x224, where the file leaves some free.",
)
@click.option(
    "--engine",
    type=click.Choice(["tvm", "onnxruntime"]),
    default="tvm",
    show_default=True,
    help="What runs them: our own library, or the ONNX Runtime that the device has, measured in turns with ours.",
)
@click.option("--remeasure", is_flag=True, help="Measure again what the store knows.")
@click.option("--max-age", "max_age_h", type=click.FloatRange(min=0), help="Measure again what is older, in hours.")
@scenario_option
@click.option("--csv", "csv_path", type=click.Path(dir_okay=False, path_type=Path), help="Write all cells to a file.")
@as_json_option
@click.pass_context
def measure(
    context: click.Context,
    models: tuple[Path, ...],
    devices: tuple[str, ...],
    shapes: Shapes,
    engine: Literal["tvm", "onnxruntime"],
    remeasure: bool,
    max_age_h: float | None,
    scenario_text: str,
    csv_path: Path | None,
    as_json: bool,
) -> None:
    """Measure MODELs (ONNX files, or programs of torch.export as .pt2), pruned or not, on devices.

    What the store knows under the present conditions is served from there, what failed is tried again: a command that
    was broken off goes on when it is given again. Exit code 3 where a cell stays without a number.
    """
    from hwprune.experiments.measure import Request
    from hwprune.experiments.measure import measure as measure_models

    session: Session = context.obj
    max_age_s = 0.0 if remeasure else None if max_age_h is None else max_age_h * 3600
    request = Request(models, devices, engine, dict(shapes), max_age_s, Scenario.parse(scenario_text))
    matrix = measure_models(session.home, request, session.console)
    if csv_path is not None:
        matrix.write_csv(csv_path)
        session.console.info(f"wrote {csv_path}")
    if as_json:
        emit_json(matrix.as_dict())
    else:
        show_matrix(matrix)
    if matrix.failed:
        context.exit(3)


def show_matrix(matrix: Matrix) -> None:
    """The matrix for people, how the device fared under steady loads, and a line for each cell without a number."""
    emit_table([_row(matrix, model) for model in matrix.models])
    for cell in matrix.cells:
        if cell.timeline:
            emit(f"\n{cell.model} on {cell.device} by {cell.engine}, {cell.scenario}")
            emit_table(_moments(cell))
    for cell in matrix.cells:
        if cell.error:
            emit(f"{cell.model} on {cell.device} by {cell.engine}: {cell.error}")


def _row(matrix: Matrix, model: str) -> dict[str, object]:
    row: dict[str, object] = {"model": model}
    for device in matrix.devices:
        cells = [matrix.cell(model, device, engine) for engine in matrix.engines]
        for cell in cells:
            by = f" by {cell.engine}" if len(cells) > 1 else ""
            row[f"{device}{by}"] = _latency(cell)
        if len(cells) > 1:
            ratio = cells[0].tvm_over_onnxruntime
            row[f"{device} tvm/onnxruntime"] = "-" if ratio is None else f"{ratio:.2f}"
    return row


def _moments(cell: Cell) -> list[dict[str, object]]:
    """Some moments of a steady load, evenly from its first block to its last."""
    last = len(cell.timeline) - 1
    chosen = sorted({round(last * step / (MOMENTS - 1)) for step in range(MOMENTS)})
    return [_moment(cell.timeline[index]) for index in chosen]


def _moment(block: Mapping[str, Any]) -> dict[str, object]:
    clocks_mhz, zones_celsius = block.get("clocks_mhz") or (), block.get("temperatures_celsius") or {}
    return {
        "after s": f"{block['elapsed_s']:.0f}",
        "latency": format_ms(block["latency_ms"]),
        "median": format_ms(block["latency_ms_p50"]),
        "reference kernel": format_ms(block["reference_ms"]),
        "clocks MHz": " ".join(f"{clock:.0f}" for clock in clocks_mhz) or "-",
        "hottest": f"{max(zones_celsius.values()):.0f} C" if zones_celsius else "-",
        "counts": "yes" if block["counts"] else "no",
    }


def _latency(cell: Cell) -> str:
    if cell.latency_ms is None or cell.latency_ms_low is None or cell.latency_ms_high is None:
        return "-"
    half_width = (cell.latency_ms_high - cell.latency_ms_low) / 2 / cell.latency_ms
    mark = " simulated" if cell.source == "simulated" else ""
    return f"{format_ms(cell.latency_ms)} ±{half_width:.1%} {cell.trust}{mark}"
