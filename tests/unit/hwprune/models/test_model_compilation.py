"""Networks from files as libraries: what they compute, and how many of their calls have a schedule of ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx_models import model, node, numbers, save, two_inputs
from torch import nn

from hwprune.compilation import verify
from hwprune.compilation.compiler import Compiler
from hwprune.compilation.targets import host_target
from hwprune.experiments.model_jobs import ModelJobs
from hwprune.records import Artifact, network_key


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    return Compiler(host_target(), tmp_path_factory.mktemp("compiled"))


def compiled(path: Path, compiler: Compiler) -> tuple[ModelJobs, Artifact]:
    jobs = ModelJobs(path, {})
    prepared = jobs.prepare(compiler, ("tvm",))
    assert prepared.reasons == {}
    return jobs, prepared.jobs["tvm"].artifact


def test_two_inputs_a_resize_and_a_transposed_convolution_run_by_kernels_of_ours(
    tmp_path: Path, compiler: Compiler
) -> None:
    content = two_inputs()
    jobs, artifact = compiled(save(content, tmp_path / "two.onnx"), compiler)
    feeds = {each.name: value.numpy() for each, value in zip(jobs.model.inputs, jobs.model.examples, strict=True)}
    (wanted,) = ReferenceEvaluator(content).run(None, feeds)
    found = verify.run(artifact, jobs.model.examples).reshape(wanted.shape)
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
    assert artifact.description["fallback_calls"] == 0
    assert {"conv2d", "conv2d_transposed", "resample", "dense"} <= {shape.op for shape in artifact.shapes}


def test_an_operator_without_a_kernel_of_ours_is_run_by_tvm_and_counted(tmp_path: Path, compiler: Compiler) -> None:
    nodes = [node("Conv", "x w", "a", pads=[1, 1, 1, 1]), node("Cos", "a", "y")]
    content = model(nodes, {"x": (1, 3, 8, 8)}, weights={"w": numbers(8, 3, 3, 3)})
    jobs, artifact = compiled(save(content, tmp_path / "cos.onnx"), compiler)
    (wanted,) = ReferenceEvaluator(content).run(None, {"x": jobs.model.examples[0].numpy()})
    np.testing.assert_allclose(verify.run(artifact, jobs.model.examples).reshape(wanted.shape), wanted, atol=1e-4)
    assert (artifact.description["fallback_calls"], artifact.description["fallback_ops"]) == (1, ["cos"])


def test_an_exported_program_compiles_to_what_it_computes(tmp_path: Path, compiler: Compiler) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
    torch.export.save(torch.export.export(network, (torch.zeros(1, 3, 8, 8),)), tmp_path / "network.pt2")
    jobs, artifact = compiled(tmp_path / "network.pt2", compiler)
    with torch.no_grad():
        wanted = network(*jobs.model.examples).numpy().ravel()
    np.testing.assert_allclose(verify.run(artifact, jobs.model.examples), wanted, atol=1e-5)


def test_equal_layers_have_equal_keys_whatever_the_weights(tmp_path: Path, compiler: Compiler) -> None:
    def layers(seed: int, channels: int) -> str:
        nodes = [node("Conv", "x w", "y")]
        content = model(nodes, {"x": (1, 3, 8, 8)}, weights={"w": numbers(channels, 3, 3, 3, seed=seed)})
        return network_key(compiled(save(content, tmp_path / f"{seed}-{channels}.onnx"), compiler)[1].shapes)

    assert layers(0, 8) == layers(1, 8) != layers(0, 9)
    assert network_key(()) == ""


def test_a_reason_names_the_operator_that_no_engine_of_ours_runs(tmp_path: Path, compiler: Compiler) -> None:
    content = model([node("NonZero", "x", "z"), node("Cast", "z", "y", to=1)], {"x": (1, 4)})
    prepared = ModelJobs(save(content, tmp_path / "odd.onnx"), {}).prepare(compiler, ("onnxruntime", "tvm"))
    assert "NonZero" in prepared.reasons["tvm"]
    assert prepared.jobs["onnxruntime"].self_test is None
    assert prepared.jobs["onnxruntime"].artifact.kind == "onnx"


def test_whole_numbers_as_inputs_are_refused_by_our_own_engine(tmp_path: Path, compiler: Compiler) -> None:
    content = model([node("Gather", "w i", "y")], {"i": (1, 4)}, weights={"w": numbers(9, 4)})
    content.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    prepared = ModelJobs(save(content, tmp_path / "table.onnx"), {}).prepare(compiler, ("tvm", "onnxruntime"))
    assert "input 'i' has numbers of type int64" in prepared.reasons["tvm"]
    assert prepared.jobs["onnxruntime"].self_test is not None
