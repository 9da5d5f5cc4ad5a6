"""The page of a run: one HTML file with everything in it, pictures included."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from hwprune.fronts import Front, FrontRow
from hwprune.reports import picture
from hwprune.reports.front import load_evaluations, load_front, write_csv
from hwprune.reports.verdict import hypervolume_curve, is_faster, loss, prediction_error, verdict
from hwprune.units import format_bytes, format_count, format_duration, format_ms


def render(run_folder: Path) -> list[Path]:
    """Write ``front.csv``, ``front.png`` and ``report.html`` of a run; returns where they lie.

    Raises:
        RunError: the folder holds no front, or a damaged one.
    """
    front = load_front(run_folder)
    files = [run_folder / name for name in ("front.csv", "front.png", "report.html")]
    write_csv(front.rows, files[0], front.metric)
    picture.draw_front(front, files[1])
    draft = files[2].with_name(".report.html.part")
    draft.write_text(page(front, run_folder), encoding="utf-8")
    draft.replace(files[2])
    return files


def page(front: Front, run_folder: Path) -> str:
    """HTML of a run."""
    curve = hypervolume_curve(load_evaluations(run_folder), front.objectives)
    environment = Environment(
        loader=PackageLoader("hwprune.reports", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"ms": format_ms, "bytes": _bytes, "count": format_count, "duration": format_duration}
    widths, device = picture.widths_figure(front), _device_figure(run_folder)
    return environment.get_template("page.html.j2").render(
        front=front,
        verdict=verdict(front),
        prediction=prediction_error(front),
        rows=[_row(front, row) for row in front.rows],
        caption=picture.caption(front),
        simulated=sum(row.simulated for row in front.rows),
        pictures={
            "front": _inline(picture.front_figure(front)),
            "prediction": _inline(picture.prediction_figure(front)) if prediction_error(front) else None,
            "hypervolume": _inline(picture.hypervolume_figure(curve)) if len(curve) else None,
            "widths": _inline(widths) if widths is not None else None,
            "device": _inline(device) if device is not None else None,
        },
        hypervolume=float(curve[-1]) if len(curve) else None,
        conditions=_facts(front.conditions),
        device=_facts(front.device),
        latency_model=_facts(front.latency_model or {}),
        counts=_facts(front.counts),
        environment=_facts(_environment(run_folder)),
    )


def _row(front: Front, row: FrontRow) -> dict[str, Any]:
    """A front's row with what is derived from it."""
    dense, predicted = front.dense, row.predicted_latency_ms
    return {
        "row": row,
        "speedup": dense.latency_ms / row.latency_ms if dense else None,
        "faster": dense is not None and is_faster(row, dense),
        "loss": 100 * loss(front, row) if dense and row is not dense else None,
        "half_width": (row.latency_ms_high - row.latency_ms_low) / 2 / row.latency_ms,
        "off": (predicted - row.latency_ms) / row.latency_ms if predicted is not None else None,
    }


def _device_figure(run_folder: Path) -> Figure | None:
    """The device as its latency model knew it before the search; None where the run has no such model."""
    path = run_folder / "latency_model.json"
    if not path.exists():
        return None
    from hwprune.reports.device import model_figure  # what fits models takes a while to import
    from latency_models.errors import LatencyModelError
    from latency_models.network_model import LatencyModel

    try:
        return model_figure(LatencyModel.from_json(path.read_text(encoding="utf-8")), "")
    except LatencyModelError:
        return None  # the front stands without it


def _inline(figure: Figure) -> str:
    """A figure as the address of an image that needs no file."""
    return "data:image/svg+xml;base64," + base64.b64encode(picture.as_svg(figure)).decode()


def _bytes(count: int | None) -> str:
    return "unknown" if count is None else format_bytes(count)


def _environment(run_folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((run_folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # the front stands without it
    return found if isinstance(found, dict) else {}


def _facts(data: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested data as one fact a line; what is unknown says so."""
    facts: dict[str, str] = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            facts |= _facts(value, f"{name}.")
        elif isinstance(value, float):
            facts[name] = f"{value:.5g}"
        elif isinstance(value, list | tuple):
            facts[name] = " ".join(map(str, value))
        else:
            facts[name] = "unknown" if value is None else str(value)
    return facts
