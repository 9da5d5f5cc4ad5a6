"""Folders of finished runs, with fronts of known numbers."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from hwprune.config import Problem, RunConfig
from hwprune.fronts import Front, FrontRow
from hwprune.records import Conditions

#: Maker of a run's folder.
MakeRun = Callable[..., Path]


def front_row(id: str, latency_ms: float, test: float | None, memory_bytes: int, **facts: Any) -> FrontRow:
    told: dict[str, Any] = {
        "val_metric": 0.9 if test is None else test,
        "test_metric": test,
        "latency_ms": latency_ms,
        "latency_ms_low": latency_ms * 0.99,
        "latency_ms_high": latency_ms * 1.01,
        "latency_ms_p50": latency_ms,
        "latency_ms_p99": latency_ms,
        "predicted_latency_ms": None,
        "planned_memory_bytes": memory_bytes,
        "process_peak_bytes": None,
        "process_delta_bytes": None,
        "macs": 1,
        "params": 1,
        "trust": "A",
        "device": "local",
        "engine": "tvm",
        "dtype": "float32",
        "threads": 1,
        "measured_at": "2026-01-01T00:00:00.000+00:00",
    }
    return FrontRow(id=id, **{**told, **facts})


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Makes a finished run: ``rows`` are (id, latency in ms, test metric, bytes), or whole rows of a front."""

    def make(
        name: str,
        rows: Sequence[Any] = (("dense", 1.0, 0.9, 1000),),
        *,
        device: str = "local",
        fingerprint: str = "f" * 64,
        threads: int = 1,
        schedule_version: str = "1",
        reference_ms: float | None = 0.03,
        recorded: dict[str, Any] | None = None,
        problem: dict[str, Any] | None = None,
        description: dict[str, Any] | None = None,
        **front: Any,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        asked = {"network": {"name": "resnet_cifar", "depth": 8}, "data": {"name": "digits", "size": 16, "channels": 3}}
        config = RunConfig(problem=Problem(**{**asked, **(problem or {})}), device=device, method="hamp")
        (folder / "config.yaml").write_text(config.to_yaml())
        conditions = Conditions(device, fingerprint, "tvm", "float32", (1, 3, 16, 16), threads, schedule_version)
        told: dict[str, Any] = {
            "network": "resnet_cifar (depth 8)",
            "data": "digits (size 16, channels 3)",
            "method": "hamp",
            "metric": "top1",
            "higher_is_better": True,
            "objectives": ("error", "latency", "peak_memory"),
            "device": description or {"cpu_model": "a processor"},
            "conditions": {**asdict(conditions), "data_digest": "d" * 64, "metric_dtype": "float32"},
        }
        kept = tuple(row if isinstance(row, FrontRow) else front_row(*row) for row in rows)
        found = Front(run_id=folder.name, rows=kept, **{**told, **front})
        (folder / "front.json").write_text(json.dumps(found.as_dict()))
        (folder / "measurements.json").write_text(json.dumps([{"device_reference_ms": reference_ms}]))
        facts = {"weights_digest": "a" * 64, "cores": [1]} if recorded is None else recorded
        (folder / "environment.json").write_text(json.dumps({"packages": {"torch": "2.9"}, "conditions": facts}))
        return folder

    return make
