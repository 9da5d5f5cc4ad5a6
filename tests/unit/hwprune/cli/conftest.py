"""A finished run in a folder."""

import json
from pathlib import Path

import pytest

from hwprune.fronts import Front, FrontRow
from hwprune.records import Trust


def row(id: str, latency_ms: float, trust: Trust = "A") -> FrontRow:
    return FrontRow(
        id=id,
        val_metric=0.98,
        test_metric=0.97,
        latency_ms=latency_ms,
        latency_ms_low=latency_ms * 0.99,
        latency_ms_high=latency_ms * 1.01,
        latency_ms_p50=latency_ms,
        latency_ms_p99=latency_ms,
        predicted_latency_ms=latency_ms,
        planned_memory_bytes=1000,
        process_peak_bytes=None,
        process_delta_bytes=None,
        macs=1,
        params=1,
        trust=trust,
        device="local",
        engine="tvm",
        dtype="float32",
        threads=1,
    )


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    front = Front(
        run_id="run",
        network="resnet_cifar",
        data="digits",
        method="hamp",
        metric="top1",
        higher_is_better=True,
        objectives=("error", "latency"),
        rows=(row("dense", 1.0), row("p0", 0.5)),
        untrusted=(row("p1", 0.3, "C"),),
    )
    (folder / "front.json").write_text(json.dumps(front.as_dict()))
    return folder
