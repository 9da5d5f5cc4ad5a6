"""The device's own ONNX Runtime in the real agent: what it computes, and what is said where it cannot."""

from __future__ import annotations

import venv

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from device_agents.client import AgentClient, SelfTest, TimingRequest
from device_agents.errors import LoadFailed
from device_agents.transport import LoopbackTransport
from hwprune.compilation.compiler import Compiler
from hwprune.compilation.targets import host_target
from hwprune.experiments.model_jobs import packed

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def compiler(tmp_path_factory):
    return Compiler(host_target(), tmp_path_factory.mktemp("compiled"))


@pytest.fixture
def client(tmp_path):
    with AgentClient(LoopbackTransport(tmp_path / "agent")) as client:
        yield client


def table_model(op="Gather"):
    """Rows of a table by whole numbers, plus a value."""
    weights = np.arange(12, dtype=np.float32).reshape(4, 3)
    nodes = [helper.make_node(op, ["table", "places"], ["rows"]), helper.make_node("Add", ["rows", "x"], ["y"])]
    inputs = [
        helper.make_tensor_value_info("places", TensorProto.INT64, [2]),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "table", inputs, outputs, [numpy_helper.from_array(weights, "table")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString(), weights


def test_the_version_is_told_with_the_device(client):
    assert client.describe()["onnxruntime"] == onnxruntime.__version__


def test_a_model_computes_what_it_should_and_is_timed_between_readings_of_the_reference(client, compiler):
    content, weights = table_model()
    artifact = packed(compiler, content)
    places, x = np.array([3, 1]), np.ones((2, 3), np.float32)
    given, expected = places.tobytes() + x.tobytes(), (weights[places] + 1).tobytes()
    client.put(artifact.path, artifact.sha256)
    loaded = client.load(artifact.sha256, self_test=SelfTest(given, expected))
    assert loaded.description["onnxruntime"] == onnxruntime.__version__
    assert (
        np.frombuffer(client.run(loaded.handle, given), np.float32).tolist() == (weights[places] + 1).ravel().tolist()
    )
    (result,) = client.measure([TimingRequest(loaded.handle)], blocks=2, block_ms_min=0.1)
    assert result.error is None
    assert len(result.blocks) == 2
    assert all(block.reference_before_ms > 0 and min(block.values_ms) > 0 for block in result.blocks)


def test_another_output_than_expected_is_found(client, compiler):
    artifact = packed(compiler, table_model()[0])
    client.put(artifact.path, artifact.sha256)
    with pytest.raises(LoadFailed, match="the output is wrong"):
        client.load(artifact.sha256, self_test=SelfTest(bytes(2 * 8 + 6 * 4), np.full(6, 9, np.float32).tobytes()))


def test_a_model_that_onnxruntime_refuses_is_told_with_its_reason(client, compiler):
    artifact = packed(compiler, table_model(op="NoSuchOperator")[0])
    client.put(artifact.path, artifact.sha256)
    with pytest.raises(LoadFailed, match=r"ONNX Runtime \S+ does not take the model: .*NoSuchOperator"):
        client.load(artifact.sha256)


def test_a_python_without_onnxruntime_says_what_to_do(tmp_path, compiler, bare_python):
    artifact = packed(compiler, table_model()[0])
    with AgentClient(LoopbackTransport(tmp_path / "agent", python=bare_python)) as client:
        assert "not installed" in client.describe()["missing"]["onnxruntime"]
        client.put(artifact.path, artifact.sha256)
        with pytest.raises(LoadFailed, match=r"onnxruntime cannot be imported on the device .*: install it"):
            client.load(artifact.sha256)


@pytest.fixture
def bare_python(tmp_path):
    """An interpreter of a virtual environment without packages."""
    venv.create(tmp_path / "bare", with_pip=False, system_site_packages=False)
    return str(tmp_path / "bare" / "bin" / "python")
