"""Files of networks: what they take, and what is said of those that cannot be used."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx_models import model, node, numbers, save, two_inputs
from torch import nn

from hwprune.errors import ConfigError, HwpruneError, TraceError
from hwprune.models.model_file import open_model


@pytest.fixture
def free(tmp_path: Path) -> Path:
    """A model whose batch and sizes are free."""
    shape = ("batch", 3, "height", None)
    return save(model([node("Relu", "x", "y")], {"x": shape}), tmp_path / "free.onnx")


def test_inputs_have_names_types_and_shapes(tmp_path: Path) -> None:
    found = open_model(save(two_inputs(), tmp_path / "two.onnx"), {})
    assert [(each.name, each.dtype, each.shape) for each in found.inputs] == [
        ("image", "float32", (1, 3, 16, 16)),
        ("depth", "float32", (1, 4, 8, 8)),
    ]
    assert [output.shape for output in found.outputs] == [(1, 5)]


def test_sizes_that_are_free_are_asked_for_and_taken(free: Path) -> None:
    with pytest.raises(ConfigError, match=r"'x' is \?x3x\?x\?.*--shape x="):
        open_model(free, {})
    assert open_model(free, {"x": (2, 3, 8, 6)}).outputs[0].shape == (2, 3, 8, 6)


def test_a_shape_that_does_not_fit_is_refused(free: Path) -> None:
    with pytest.raises(ConfigError, match=r"is \?x3x\?x\?, not 1x4x8x8"):
        open_model(free, {"x": (1, 4, 8, 8)})


def test_a_free_first_size_is_a_batch_of_one(tmp_path: Path) -> None:
    path = save(model([node("Relu", "x", "y")], {"x": ("n", 3, 4)}), tmp_path / "batch.onnx")
    assert open_model(path, {}).inputs[0].shape == (1, 3, 4)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("nowhere.onnx", None, "is no file"),
        ("model.pb", b"x", "is of no known kind"),
        ("garbage.onnx", b"garbage", "cannot be read as ONNX"),
        ("empty.onnx", b"", "without operators"),
        ("garbage.pt2", b"garbage", "is no exported program"),
    ],
)
def test_what_is_no_model_is_said(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        open_model(tmp_path / name, {})


def test_an_output_that_depends_on_no_input_is_refused(tmp_path: Path) -> None:
    nodes = [node("Relu", "x", "z"), node("Neg", "c", "y")]
    path = save(model(nodes, {"x": (1, 2)}, weights={"c": numbers(2)}), tmp_path / "model.onnx")
    with pytest.raises(TraceError, match=r"'y' of the network does not depend"):
        _ = open_model(path, {}).outputs


def test_an_operator_that_fails_at_these_shapes_is_named(tmp_path: Path) -> None:
    path = save(model([node("MatMul", "x x", "y")], {"x": (2, 3)}), tmp_path / "model.onnx")
    with pytest.raises(HwpruneError, match="MatMul of opset 18 as it is here"):
        _ = open_model(path, {}).outputs


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.linear(x + y)


def test_an_exported_program_is_read_with_its_inputs(tmp_path: Path) -> None:
    network = Sum().eval()
    example = (torch.zeros(1, 4), torch.zeros(1, 4))
    torch.export.save(torch.export.export(network, example), tmp_path / "sum.pt2")
    found = open_model(tmp_path / "sum.pt2", {})
    assert [(each.name, each.shape) for each in found.inputs] == [("x", (1, 4)), ("y", (1, 4))]
    with torch.no_grad():
        wanted = network(*found.examples)
    torch.testing.assert_close(found.outputs[0], wanted)


def test_sizes_that_an_exported_program_leaves_free_are_fixed_by_the_shape(tmp_path: Path) -> None:
    rows = torch.export.Dim("rows", min=2, max=64)
    example = (torch.zeros(8, 4), torch.zeros(8, 4))
    shapes = {"x": {0: rows}, "y": {0: rows}}
    torch.export.save(torch.export.export(Sum().eval(), example, dynamic_shapes=shapes), tmp_path / "sum.pt2")
    found = open_model(tmp_path / "sum.pt2", {"x": (5, 4), "y": (5, 4)})
    assert found.outputs[0].shape == (5, 2)
    assert not found.program.range_constraints


def test_the_model_as_bytes_has_the_shapes_that_were_given(free: Path) -> None:
    content = onnx.load_model_from_string(open_model(free, {"x": (1, 3, 8, 6)}).onnx_bytes())
    assert [size.dim_value for size in content.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 8, 6]
