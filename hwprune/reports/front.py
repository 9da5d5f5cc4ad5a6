"""The front of a run as a table: read from ``front.json``, written as ``front.csv``."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from hwprune.errors import RunError
from hwprune.fronts import Front, FrontRow
from hwprune.records import Evaluation

#: Columns in their order; what was added stands behind, so that a reader of earlier files finds the same ones.
#: ``val_metric`` and ``test_metric`` are named after the task's metric (``val_top1``).
COLUMNS = (
    "id",
    "val_metric",
    "test_metric",
    "latency_ms",
    "latency_ms_low",
    "latency_ms_high",
    "latency_ms_p50",
    "latency_ms_p99",
    "predicted_latency_ms",
    "planned_memory_bytes",
    "process_peak_bytes",
    "process_delta_bytes",
    "macs",
    "params",
    "trust",
    "device",
    "engine",
    "dtype",
    "threads",
    "latency_ms_p90",
    "predicted_latency_ms_std",
    "finetuned",
    "val_metric_inherited",
    "test_metric_inherited",
    "trust_reason",
    "load_ms",
    "repeats",
    "measured_at",
    "widths",
    "plan_key",
    "artifact",
    "energy_mj",
    "scenario",
    "boards",
    "simulated",
)


def header(metric: str) -> list[str]:
    """Column names for a task's metric."""
    return [column.replace("_metric", f"_{metric}") for column in COLUMNS]


def write_csv(rows: Sequence[FrontRow], path: Path, metric: str = "top1") -> None:
    """Write rows to a CSV file, whole or not at all; what is unknown is an empty cell."""
    draft = path.with_name(f".{path.name}.part")
    with draft.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header(metric))
        writer.writerows([_cell(getattr(row, column)) for column in COLUMNS] for row in rows)
    draft.replace(path)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file as texts, by column.

    Raises:
        RunError: the file is missing or is no front.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise RunError(f"cannot read {path} ({error.strerror}): write it with 'hwprune report RUN'") from error
    if any(not {"id", "latency_ms", "trust"} <= row.keys() for row in rows):
        raise RunError(f"{path} has not the columns of a front: write it anew with 'hwprune report RUN'")
    return rows


def load_front(run_folder: Path) -> Front:
    """The front of a run.

    Raises:
        RunError: the folder holds no finished run, or a damaged one.
    """
    path = run_folder / "front.json"
    if not path.is_file():
        if (run_folder / "config.yaml").is_file():
            raise RunError(f"{run_folder} has no front yet: go on with 'hwprune search --resume {run_folder}'")
        raise RunError(f"{run_folder} is not a run: name a folder that 'hwprune search' made, like runs/...")
    try:
        return Front.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise RunError(f"{path} is damaged ({reason}): write it anew with 'hwprune search --resume'") from error


def load_evaluations(run_folder: Path) -> list[Evaluation]:
    """True evaluations of a run in their order; none where the run keeps no archive.

    A last line that was cut short by a kill is left out.

    Raises:
        RunError: another line is damaged.
    """
    path = run_folder / "archive.jsonl"
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    evaluations = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if record.pop("kind", "evaluation") == "evaluation":
                evaluations.append(Evaluation(**{**record, "widths": tuple(record["widths"])}))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunError(f"{path}, line {number}: not a record of a search ({error}): search again") from error
    return evaluations


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value)
