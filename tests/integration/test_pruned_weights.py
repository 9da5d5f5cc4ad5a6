"""Single weights pruned, measured with the kernels that leave them out, stored sparse, trained on and taken away."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

import hwprune as library

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]  # on a busy machine every measurement waits for its turn

BUDGET = 12


@pytest.fixture(scope="module")
def run(hwprune, profile):
    """Folder of a finished run."""
    return hwprune.search("digits.yaml", "--method", "hierarchical", "--budget", BUDGET, runs="runs-weights")


@pytest.fixture(scope="module")
def point(hwprune, run):
    """The sparsest pruned network of the front."""
    rows = [row for row in hwprune.json("report", run)["rows"] if row["id"] != "dense"]
    if not rows:
        pytest.skip("this machine is too busy: no pruned network was measured with trust")
    return min(rows, key=lambda row: row["params"])


def zeros_of(module):
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    return sum(int((layer.weight == 0).sum()) for layer in layers)


def test_front_minimizes_error_and_density_and_its_latencies_are_measured(hwprune, run, point):
    told = hwprune.json("report", run)
    assert told["objectives"] == ["error", "density"]
    (dense,) = [row for row in told["rows"] + told["untrusted"] if row["id"] in ("dense", "u00")][:1]
    assert point["widths"] == dense["widths"]
    assert point["params"] < dense["params"]
    assert point["trust"] in {"A", "B"}
    assert point["predicted_latency_ms"] is None  # the model knows widths alone
    assert told["counts"]["dense_passes_forward"] > 0 == told["counts"]["dense_passes_backward"]


def test_point_is_stored_sparse(run, point):
    stored = (run / "points" / f"{point['id']}.safetensors").stat().st_size
    dense = (run / "points" / "dense.safetensors").stat().st_size
    assert stored < dense
    assert json.loads((run / "points" / f"{point['id']}.json").read_text())["mask"]


def test_fine_tuned_point_keeps_its_zeros_and_is_exported_with_them(hwprune, run, point, tmp_path):
    hwprune.json("finetune", run, "--point", point["id"])
    files = hwprune.json("export", run, "--point", point["id"], "--out", tmp_path / "out")
    module = library.load(files["folder"])
    total = sum(parameter.numel() for parameter in module.parameters())
    assert zeros_of(module) >= total - point["params"] > 0
    assert files["onnx_difference"] <= 1e-4
    with torch.inference_mode():
        outputs = module(torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)))
    assert torch.isfinite(outputs).all()


def test_latency_of_single_weights_is_not_predicted(hwprune, profile):
    ended = hwprune.inside("search", "digits.yaml", "--method", "hierarchical", "--set", "minimize=problem")
    assert ended.exit_code == 2
    assert "latency_source=device" in ended.stderr
