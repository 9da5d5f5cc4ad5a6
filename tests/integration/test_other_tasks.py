"""A segmenter and a detector with two outputs, brought by a user, through the commands that everybody uses."""

from __future__ import annotations

import csv
import ctypes
import json

import numpy as np
import pytest
import torch

import hwprune as library

pytestmark = [
    pytest.mark.long,
    pytest.mark.measures,
    pytest.mark.timeout(900),
]  # on a busy machine every measurement waits its turn

PROBLEM = """\
network: user_code:{network}
weights: {network}.safetensors
task: user_code:{task}
data: {{name: "user_code:squares", images: 48}}
pruning: {{round_to: 1}}
training: {{epochs: 20, lr: 0.1, batch_size: 8}}
finetune: {{epochs: 2, lr: 0.01, batch_size: 8}}
evaluation: {{threads: 1, bn_images: 48}}
"""

#: Task, metric, and operators without a kernel of ours, by network.
USERS = {
    "segmenter": ("segmentation", "mean_iou", ["cos"]),
    "detector": ("detection", "distance", []),
}


@pytest.fixture(scope="module", params=USERS)
def user(request, hwprune):
    """Name of a trained network."""
    task, metric, _ = USERS[request.param]
    (hwprune.folder / f"{request.param}.yaml").write_text(PROBLEM.format(network=request.param, task=task))
    assert hwprune.json("train", f"{request.param}.yaml")["metric_name"] == metric
    return request.param


@pytest.fixture(scope="module")
def run(hwprune, user):
    """Folder of a finished run; the search would profile for minutes, where a few seconds do for a network so small."""
    hwprune("device", "profile", "local", f"{user}.yaml", "--minutes", 0.1)  # the search tries again what failed
    return hwprune.search(f"{user}.yaml", "--method", "nsga2", "--budget", 8, runs=f"runs-{user}")


def test_the_front_is_told_in_the_users_own_metric(hwprune, user, run):
    _, metric, _ = USERS[user]
    with (run / "front.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert all(np.isfinite([float(row[f"val_{metric}"]), float(row[f"test_{metric}"])]).all() for row in rows)
    front = hwprune.json("report", run)
    assert (front["metric"], front["higher_is_better"]) == (metric, metric == "mean_iou")
    evaluations = map(json.loads, (run / "archive.jsonl").read_text().splitlines())
    for evaluation in evaluations:
        if evaluation["kind"] == "evaluation":
            value = evaluation["metric"]
            assert evaluation["objectives"]["error"] == pytest.approx(1 - value if metric == "mean_iou" else value)


def test_kernels_that_are_not_ours_are_counted_and_cap_the_trust(hwprune, user, run):
    *_, foreign = USERS[user]
    measurements = json.loads((run / "measurements.json").read_text())
    for measurement in (measurement for measurement in measurements if measurement["error"] is None):
        library = ctypes.CDLL(str(hwprune.folder / "home" / "artifacts" / f"{measurement['key']}.so"))
        library.library_description.restype = ctypes.c_char_p
        description = json.loads(library.library_description())
        assert (description["fallback_calls"], description["fallback_ops"]) == (len(foreign), foreign)
        share = measurement["fallback_share"]
        if not foreign:
            assert share == 0
        else:  # where the share is not known, it may be all
            assert share is None or 0 < share <= 1
            assert (share is not None and share <= 0.05) or measurement["trust"] != "A"


def test_a_point_is_fine_tuned_and_exported(hwprune, user, run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    front = hwprune.json("report", run)
    point = next((row["id"] for row in front["rows"] if row["id"] != "dense"), "dense")
    if point != "dense":
        tuned = hwprune.json("finetune", run, "--point", point)
        assert [row["id"] for row in tuned["rows"] if row["finetuned"]] == [point]
    files = hwprune.json("export", run, "--point", point, "--out", tmp_path / "out")
    x = np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)
    with torch.inference_mode():
        outputs = library.load(files["folder"])(torch.from_numpy(x))
    expected = [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]
    assert len(expected) == (2 if user == "detector" else 1)
    session = onnxruntime.InferenceSession(files["onnx"])
    for found, wanted in zip(session.run(None, {session.get_inputs()[0].name: x}), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
    floats = ctypes.POINTER(ctypes.c_float)
    flat = np.concatenate([output.ravel() for output in expected])
    found = np.zeros_like(flat)
    assert ctypes.CDLL(files["library"]).network_run(x.ctypes.data_as(floats), found.ctypes.data_as(floats)) == 0
    np.testing.assert_allclose(found, flat, atol=1e-4 * np.abs(flat).max())
