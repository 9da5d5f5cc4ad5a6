"""The main job: train, register, profile, search, look, record, replay, fine-tune, export."""

from __future__ import annotations

import csv
import ctypes
import json
import math
import re

import numpy as np
import pytest
import torch

import hwprune as library

pytestmark = pytest.mark.timeout(900)  # on a busy machine every measurement waits for its turn

#: The columns that readers of front.csv count on, in their order.
COLUMNS = """
id val_top1 test_top1 latency_ms latency_ms_low latency_ms_high latency_ms_p50 latency_ms_p99 predicted_latency_ms
planned_memory_bytes process_peak_bytes process_delta_bytes macs params trust device engine dtype threads
"""


@pytest.fixture(scope="module")
def point(run):
    """Id of a pruned network of the front."""
    points = [row["id"] for row in rows_of(run) if row["id"] != "dense"]
    if not points:
        pytest.skip("this machine is too busy: no pruned network was measured with trust")
    return points[0]


def rows_of(run):
    with (run / "front.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def evaluations_of(run):
    records = map(json.loads, (run / "archive.jsonl").read_text().splitlines())
    return [record for record in records if record["kind"] == "evaluation"]


def test_a_profile_tells_what_it_measured_and_how_well_it_predicts(hwprune, profile):
    assert profile["device"] == "local"
    assert profile["kernels"] > 20
    assert profile["networks"] >= 8
    assert 0 <= profile["within_5"] <= profile["within_10"] <= 100
    assert math.isfinite(profile["mape"])
    model = json.loads((hwprune.folder / profile["model"]).read_text())
    assert model
    assert hwprune.json("device", "show", "local")["channel_step"] == profile["channel_step"]


def test_a_profile_ends_with_the_ratio_to_the_devices_own_onnxruntime(profile):
    if profile["tvm_over_onnxruntime"] is None:
        assert profile["second_opinion"].startswith("no second opinion: ")
    else:
        assert 0.05 < profile["tvm_over_onnxruntime"] < 20
        assert f"TVM / ONNX Runtime is {profile['tvm_over_onnxruntime']:.2f}" in profile["second_opinion"]


def test_a_front_has_the_promised_columns_first(run):
    columns = COLUMNS.split()
    with (run / "front.csv").open(newline="") as stream:
        assert next(csv.reader(stream))[: len(columns)] == columns


def test_every_row_of_a_front_was_measured_whole_and_can_be_believed(run):
    rows = rows_of(run)
    assert len({row["id"] for row in rows}) == len(rows)
    assert len({row["widths"] for row in rows}) == len(rows)
    for row in rows:
        assert row["trust"] in {"A", "B"}
        assert 0 < float(row["latency_ms_low"]) <= float(row["latency_ms"]) <= float(row["latency_ms_high"])
        assert float(row["latency_ms"]) <= float(row["latency_ms_p50"]) <= float(row["latency_ms_p99"])
        assert 0 < int(row["planned_memory_bytes"]) < int(row["process_peak_bytes"])
        assert 0 <= float(row["val_top1"]) <= 1
        assert 0 <= float(row["test_top1"]) <= 1
        assert (row["device"], row["engine"], row["dtype"], row["threads"]) == ("local", "tvm", "float32", "1")


def test_the_dense_network_is_beside_the_pruned_ones_and_what_is_untrusted_stands_apart(hwprune, run):
    told = hwprune.json("report", run)
    assert [row["id"] for row in told["rows"]] == [row["id"] for row in rows_of(run)]
    assert all(row["trust"] == "C" and row["trust_reason"] for row in told["untrusted"])
    (dense,) = [row for row in told["rows"] + told["untrusted"] if row["widths"] == [16, 32, 64]]
    assert dense["id"] == "dense"
    others = [row for row in told["rows"] if row["id"] != "dense"]
    assert all(row["macs"] < dense["macs"] and row["params"] < dense["params"] for row in others)
    assert told["verdict"]


def test_a_search_evaluates_its_budget_and_nothing_twice(run):
    evaluations = evaluations_of(run)
    assert len(evaluations) == 14
    assert len({evaluation["plan_key"] for evaluation in evaluations}) == 14
    known = {evaluation["plan_key"]: evaluation for evaluation in evaluations if evaluation["error"] is None}
    for row in rows_of(run):
        if row["id"] != "dense":
            # Found in the processor's fast format, told in float32: an image or two of 360 may stand on the edge.
            assert known[row["plan_key"]]["metric"] == pytest.approx(float(row["val_top1"]), abs=0.02)


def test_a_run_folder_is_whole(run):
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "environment.json", "log.jsonl", "archive.jsonl", "front.csv", "front.png"} <= names
    assert (run / "front.png").read_bytes().startswith(b"\x89PNG")
    page = (run / "report.html").read_text()
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert not [name for name in names if name.endswith(".part")]


def test_a_dry_run_tells_the_cost_and_leaves_nothing(hwprune, profile):
    plan = hwprune.json("search", "digits.yaml", "--dry-run", "--budget", 30, "--runs", "runs-dry")
    assert plan["evaluations"] == 30
    assert plan["profiled"]
    assert plan["groups"] == 3
    assert 0 < plan["device_minutes"] <= plan["wall_minutes"]
    assert plan["ranges"]["latency"]["minimum"] < plan["ranges"]["latency"]["dense"]
    assert not (hwprune.folder / "runs-dry").exists()


def test_a_search_on_the_recorded_device_ends_in_the_front_of_the_run(hwprune, run, recorded):
    device = f"replay:{recorded['file']}"
    ended = hwprune.inside(
        "search", "digits.yaml", "--device", device, "--method", "hamp", "--budget", 14, "--runs", "replayed"
    )
    assert ended.exit_code == 0, ended.stderr
    (again,) = (hwprune.folder / "replayed").iterdir()
    untold = {"device", "engine"}  # recorded in the name of another device
    fronts = [json.loads((folder / "front.json").read_text())["rows"] for folder in (run, again)]
    first, second = ([{key: row[key] for key in row.keys() - untold} for row in rows] for rows in fronts)
    assert second == first
    assert {row["device"] for row in fronts[1]} == {"replay-local"}
    assert recorded["models"] == 1
    assert recorded["networks"] >= 8
    assert recorded["nameless"] == 0
    assert recorded["size_bytes"] < 4 << 20


def test_fine_tuning_trains_the_named_point_once(hwprune, run, point):
    before = {row["id"]: row for row in hwprune.json("report", run)["rows"]}
    after = {row["id"]: row for row in hwprune.json("finetune", run, "--point", point)["rows"]}
    tuned = after.pop(point)
    assert tuned["finetuned"]
    assert tuned["val_metric_inherited"] == before[point]["val_metric"]
    assert tuned["latency_ms"] == before.pop(point)["latency_ms"]
    assert after == before
    again = hwprune.inside("finetune", run, "--point", point, "--json")
    assert "nothing to fine-tune" in again.stderr
    assert tuned in json.loads(again.stdout)["rows"]


def test_what_is_exported_computes_the_same_by_torch_onnx_and_library(hwprune, run, point, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    files = hwprune.json("export", run, "--point", point, "--out", tmp_path / "out")
    assert files["onnx_difference"] <= 1e-4
    x = np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)
    module = library.load(files["folder"])
    with torch.inference_mode():
        expected = module(torch.from_numpy(x)).numpy()
    session = onnxruntime.InferenceSession(files["onnx"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x})
    tolerance = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=tolerance)
    by_library = np.zeros_like(expected)
    floats = ctypes.POINTER(ctypes.c_float)
    assert ctypes.CDLL(files["library"]).network_run(x.ctypes.data_as(floats), by_library.ctypes.data_as(floats)) == 0
    np.testing.assert_allclose(by_library, expected, atol=tolerance)
    widths = json.loads((tmp_path / "out" / "plan.json").read_text())["widths"]
    (row,) = [row for row in rows_of(run) if row["id"] == point]
    assert " ".join(map(str, widths.values())) == row["widths"]


def test_the_store_tells_what_it_keeps_and_a_dry_collection_removes_nothing(hwprune, run):
    facts = hwprune.json("store", "info")
    assert "local" in facts["devices"]  # other tests register more
    assert 0 < facts["trusted"] <= facts["measurements"]
    artifacts = hwprune.folder / "home" / "artifacts"
    before = sorted(artifacts.iterdir())
    assert facts["artifacts_bytes"] == sum(path.stat().st_size for path in before)
    would_go = hwprune.json("store", "gc", "--max-mib", 0, "--dry-run")
    assert would_go["removed_bytes"] == facts["artifacts_bytes"]
    assert sorted(artifacts.iterdir()) == before
