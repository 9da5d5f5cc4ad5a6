"""Models in files measured on this computer: numbers, reasons, what is served again, and a device that is gone."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

pytestmark = [pytest.mark.timeout(900), pytest.mark.measures]


def weights(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32) / 10


def save(path, nodes, inputs, initializers):
    """An ONNX file whose output is ``y``."""
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def models(hwprune):
    """Names of three files: two inputs and a transposed convolution, free sizes, and an operator that nobody reads."""
    folder = hwprune.folder
    save(
        folder / "two.onnx",
        [
            helper.make_node("ConvTranspose", ["a", "w"], ["c"], strides=[2, 2]),
            helper.make_node("Add", ["c", "b"], ["y"]),
        ],
        {"a": [1, 16, 12, 12], "b": [1, 16, 24, 24]},
        {"w": weights(16, 16, 2, 2)},
    )
    save(
        folder / "free.onnx",
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        {"x": ["batch", 16, "height", "width"]},
        {"w": weights(32, 16, 3, 3)},
    )
    save(folder / "odd.onnx", [helper.make_node("NoSuch", ["z"], ["y"], name="the odd one")], {"z": [1, 4]}, {})
    return ["two.onnx", "free.onnx", "odd.onnx"]


@pytest.fixture(scope="module")
def measured(hwprune, models):
    """What a first call tells, and how it ended."""
    ended = hwprune(
        "measure", *models, "--shape", "x=1x16x20x20", "--engine", "onnxruntime", "--csv", "m.csv", "--json"
    )
    return ended.returncode, json.loads(ended.stdout)


def cells_of(told, engine):
    return {cell["model"]: cell for cell in told["cells"] if cell["engine"] == engine}


def test_every_cell_has_a_number_or_a_reason(measured):
    code, told = measured
    assert code == 3  # one model cannot be run by anybody
    assert (told["models"], told["devices"]) == (["two.onnx", "free.onnx", "odd.onnx"], ["local"])
    for engine in ("tvm", "onnxruntime"):
        cells = cells_of(told, engine)
        for name in ("two.onnx", "free.onnx"):
            cell = cells[name]
            assert cell["error"] == "" or cell["error"].startswith("untrusted"), cell
            assert 0 < cell["latency_ms_low"] <= cell["latency_ms"] <= cell["latency_ms_high"]
        assert "NoSuch" in cells["odd.onnx"]["error"]
    assert cells_of(told, "tvm")["two.onnx"]["fallback_calls"] == 0


def test_the_ratio_of_both_engines_is_that_of_their_latencies(measured):
    ours, theirs = (cells_of(measured[1], engine)["free.onnx"] for engine in ("tvm", "onnxruntime"))
    if ours["error"] or theirs["error"]:
        pytest.skip(f"this machine is too busy to measure anything: {ours['error'] or theirs['error']}")
    assert ours["tvm_over_onnxruntime"] == pytest.approx(ours["latency_ms"] / theirs["latency_ms"])


def test_the_file_of_all_cells_says_the_same(hwprune, measured):
    with (hwprune.folder / "m.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["model"], row["engine"]) for row in rows] == [
        (cell["model"], cell["engine"]) for cell in measured[1]["cells"]
    ]


def test_a_second_call_is_served_from_the_store_and_tries_again_what_failed(hwprune, models, measured):
    before = cells_of(measured[1], "tvm")
    ended = hwprune.inside("measure", *models, "--shape", "x=1x16x20x20", "--json")
    after = cells_of(json.loads(ended.stdout), "tvm")
    for name in ("two.onnx", "free.onnx"):
        if not before[name]["error"]:
            assert (after[name]["source"], after[name]["latency_ms"]) == ("store", before[name]["latency_ms"])
    assert "NoSuch" in after["odd.onnx"]["error"]


def test_a_device_that_cannot_be_reached_costs_its_own_cells_alone(hwprune, models, measured):
    gone = "transport: ssh\nplatform: cpu\ntarget: {kind: llvm}\ncores: [0]\ndescription: {cpu_model: gone}\n"
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBBQ8Qy4vY3kSBqE0r7j0jxS6n3a0f1mH5s1q0u8x0aB"
    gone += f'ssh: {{address: "nobody@127.0.0.1:1", host_keys: {{"[127.0.0.1]:1": {key}}}}}\n'
    (hwprune.folder / "home" / "devices" / "gone.yaml").write_text(gone)
    ended = hwprune("measure", "two.onnx", "--device", "gone", "--device", "local", "--json")
    (hwprune.folder / "home" / "devices" / "gone.yaml").unlink()
    lost, here = json.loads(ended.stdout)["cells"]
    assert (lost["device"], lost["latency_ms"]) == ("gone", None)
    assert "127.0.0.1" in lost["error"]
    assert (here["device"], here["error"]) == ("local", "") or here["error"].startswith("untrusted")
    assert ended.returncode == 3


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere.onnx"], 3, "nowhere.onnx is no file"),
        (["free.onnx"], 3, "'x' is ?x16x?x?"),
        (["two.onnx", "--shape", "x"], 2, "write NAME=1x3x224x224"),
        (["two.onnx", "--device", "locla"], 3, "did you mean 'local'"),
        (["two.onnx", "--device", "replay:nowhere"], 3, "nowhere cannot be read"),
    ],
)
def test_what_cannot_work_is_said(hwprune, models, arguments, code, said):
    ended = hwprune.inside("measure", *arguments)
    assert ended.exit_code == code
    assert said in ended.stdout + ended.stderr
