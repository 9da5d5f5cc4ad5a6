"""A run folder as ``hwprune search`` leaves it, small and with known numbers."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from hwprune.fronts import Front, FrontRow
from hwprune.records import Evaluation


def make_row(id: str, latency_ms: float, test: float | None, **changes: object) -> FrontRow:
    facts: dict[str, object] = {
        "val_metric": 0.9 if test is None else test + 0.005,
        "test_metric": test,
        "latency_ms": latency_ms,
        "latency_ms_low": latency_ms * 0.99,
        "latency_ms_high": latency_ms * 1.01,
        "latency_ms_p50": latency_ms * 1.02,
        "latency_ms_p99": latency_ms * 1.3,
        "predicted_latency_ms": latency_ms * 1.03,
        "planned_memory_bytes": int(latency_ms * 4_000_000),
        "process_peak_bytes": 9_000_000,
        "process_delta_bytes": None,
        "macs": int(latency_ms * 1e8),
        "params": int(latency_ms * 1e6),
        "trust": "A",
        "device": "local",
        "engine": "tvm",
        "dtype": "float32",
        "threads": 1,
        "widths": (int(latency_ms * 32), 64),
    }
    return FrontRow(id=id, **{**facts, **changes})  # type: ignore[arg-type]


@pytest.fixture
def front() -> Front:
    """Dense at 0.5 ms and 0.98; p0 twice as fast at 0.6 points less, p1 five times at 5 points less; p2 untrusted."""
    return Front(
        run_id="local-resnet_cifar-hamp-20260101-000000",
        network="resnet_cifar (depth 20)",
        data="digits",
        method="hamp",
        metric="top1",
        higher_is_better=True,
        objectives=("error", "latency"),
        rows=(
            make_row("dense", 0.5, 0.98),
            make_row("p0", 0.25, 0.974, finetuned=True, test_metric_inherited=0.95, val_metric_inherited=0.96),
            make_row("p1", 0.1, 0.93, trust="B", trust_reason="interval 2.1 % <wide>"),
        ),
        untrusted=(make_row("p2", 0.3, None, trust="C", trust_reason="reference moved by 8 %"),),
        device={"cpu_model": "A CPU & more", "cores": [0, 1]},
        conditions={"input_shape": [1, 1, 16, 16], "state_before": {"governor": None, "load": 0.25}},
        latency_model={"mape": 0.0123, "kernels": 120},
        counts={"evaluations": 3, "seconds": 12.0},
        groups=("layer1", "layer2"),
    )


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Front], Path]:
    """Writes a run folder around a front."""

    def write(front: Front) -> Path:
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "config.yaml").write_text("device: local\n")
        (folder / "front.json").write_text(json.dumps(front.as_dict()))
        (folder / "environment.json").write_text(json.dumps({"python": "3.11.7"}))
        rows = [((16, 64), 0.02, 0.5), ((8, 64), 0.03, 0.25), ((3, 64), 0.07, 0.1)]
        with (folder / "archive.jsonl").open("w") as stream:
            for number, (widths, error, latency) in enumerate(rows):
                found = Evaluation(
                    str(number), widths, {"error": error, "latency": latency}, 1 - error, "initial", 0, 0.1
                )
                stream.write(json.dumps({"kind": "evaluation", **asdict(found)}) + "\n")
            stream.write(json.dumps({"kind": "refinement", "generation": 0, "data": {}}) + "\n")
        return folder

    return write
