"""Every reading of an ONNX operator against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx_models import model, node, numbers

from hwprune.models.onnx_network import READERS, OnnxNetwork
from hwprune.models.onnx_node import UnreadableError

onnxruntime = pytest.importorskip("onnxruntime")

IMAGE = (2, 6, 9, 7)
INT = np.int64


def weights_of(**arrays: Any) -> dict[str, Any]:
    return {name: np.asarray(array) for name, array in arrays.items()}


def conv(*shape: int, **attributes: Any) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    return [node("Conv", "x w b", "y", **attributes)], weights_of(w=numbers(*shape), b=numbers(shape[0], seed=1))


def up(in_channels: int, *shape: int, **attributes: Any) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    weights = weights_of(w=numbers(in_channels, *shape), b=numbers(shape[0], seed=1))
    return [node("ConvTranspose", "x w b", "y", **attributes)], weights


def one(op: str, inputs: str = "x", weights: dict[str, Any] | None = None, **attributes: Any) -> Any:
    return [node(op, inputs, "y", **attributes)], weights or {}


def resize(scales: Any = None, sizes: Any = None, **attributes: Any) -> Any:
    weights = weights_of(scales=np.float32(scales)) if scales else weights_of(sizes=np.array(sizes, INT))
    return [node("Resize", "x . scales" if scales else "x . . sizes", "y", **attributes)], weights


HALF = {"coordinate_transformation_mode": "half_pixel"}
FLAT = {"coordinate_transformation_mode": "asymmetric"}
CORNERS = {"coordinate_transformation_mode": "align_corners"}

CASES: dict[str, Any] = {
    "conv": conv(8, 6, 3, 3, pads=[1, 1, 1, 1]),
    "conv uneven": conv(8, 6, 3, 2, pads=[0, 1, 2, 0], strides=[2, 1], dilations=[1, 2]),
    "conv grouped": conv(6, 2, 3, 3, group=3),
    "conv same upper": conv(8, 6, 4, 3, auto_pad="SAME_UPPER", strides=[2, 2]),
    "conv same lower": conv(8, 6, 4, 3, auto_pad="SAME_LOWER", strides=[2, 2]),
    "conv valid": conv(8, 6, 3, 3, auto_pad="VALID"),
    "transposed": up(6, 8, 3, 3, strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    "transposed uneven": up(6, 8, 3, 3, strides=[2, 2], pads=[0, 1, 1, 0]),
    "transposed to a shape": up(6, 8, 3, 3, strides=[2, 2], output_shape=[19, 15]),
    "max pool": one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "max pool ceil": one("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "max pool uneven": one("MaxPool", kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
    "average pool": one("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "average pool counting": one("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    "global average": one("GlobalAveragePool"),
    "global max": one("GlobalMaxPool"),
    "batch norm": one(
        "BatchNormalization",
        "x s b m v",
        weights_of(s=numbers(6), b=numbers(6, seed=1), m=numbers(6, seed=2), v=numbers(6, positive=True)),
        epsilon=1e-3,
    ),
    "instance norm": one("InstanceNormalization", "x s b", weights_of(s=numbers(6), b=numbers(6, seed=1))),
    "layer norm": one("LayerNormalization", "x s b", weights_of(s=numbers(7), b=numbers(7, seed=1))),
    "layer norm of two": one("LayerNormalization", "x s", weights_of(s=numbers(9, 7)), axis=2),
    "local response": one("LRN", size=3, alpha=0.01, beta=0.7, bias=2.0),
    "softmax": one("Softmax", axis=1),
    "log softmax": one("LogSoftmax", axis=-1),
    "resize nearest": resize([1, 1, 2, 2], mode="nearest", nearest_mode="floor", **FLAT),
    "resize nearest by default": resize([1, 1, 3, 2], mode="nearest"),
    "resize nearest down": resize([1, 1, 0.5, 0.5], mode="nearest", **HALF),
    "resize nearest uneven": resize(sizes=[2, 6, 13, 5], mode="nearest", nearest_mode="ceil", **FLAT),
    "resize nearest corners": resize(sizes=[2, 6, 13, 5], mode="nearest", **CORNERS),
    "resize linear": resize([1, 1, 2, 2], mode="linear", **HALF),
    "resize linear to a size": resize(sizes=[2, 6, 12, 11], mode="linear", **HALF),
    "resize linear corners": resize(sizes=[2, 6, 12, 11], mode="linear", **CORNERS),
    "relu": one("Relu"),
    "leaky relu": one("LeakyRelu", alpha=0.2),
    "elu": one("Elu", alpha=0.7),
    "celu": one("Celu", alpha=0.7),
    "selu": one("Selu"),
    "sigmoid": one("Sigmoid"),
    "hard sigmoid": one("HardSigmoid"),
    "hard sigmoid of torch": one("HardSigmoid", alpha=1 / 6),
    "hard swish": one("HardSwish"),
    "thresholded": one("ThresholdedRelu", alpha=0.3),
    "softplus": one("Softplus"),
    "softsign": one("Softsign"),
    "mish": one("Mish"),
    "tanh": one("Tanh"),
    "erf": one("Erf"),
    "clip": one("Clip", "x low high", weights_of(low=np.float32(-0.5), high=np.float32(0.7))),
    "clip to six": one("Clip", "x low high", weights_of(low=np.float32(0), high=np.float32(6))),
    "clip below": one("Clip", "x low", weights_of(low=np.float32(0))),
    "clip above": one("Clip", "x . high", weights_of(high=np.float32(0.1))),
    "prelu": one("PRelu", "x slope", weights_of(slope=numbers(6, 1, 1))),
    "prelu of rows": one("PRelu", "x slope", weights_of(slope=numbers(7))),
    "add a number": one("Add", "x c", weights_of(c=np.float32(1.5))),
    "add channels": one("Add", "x c", weights_of(c=numbers(1, 6, 1, 1))),
    "subtract from a number": one("Sub", "c x", weights_of(c=np.float32(1.5))),
    "multiply": one("Mul", "x x"),
    "divide": one("Div", "x c", weights_of(c=numbers(6, 1, 1, positive=True))),
    "power": one("Pow", "x c", weights_of(c=np.float32(2))),
    "sum": one("Sum", "x x x"),
    "mean of values": one("Mean", "x x x"),
    "maximum": one("Max", "x c", weights_of(c=numbers(7))),
    "minimum": one("Min", "x c", weights_of(c=numbers(7))),
    "reduce mean": one("ReduceMean", "x axes", weights_of(axes=np.array([2, 3], INT)), keepdims=0),
    "reduce sum": one("ReduceSum", "x axes", weights_of(axes=np.array([-1], INT))),
    "reduce max": one("ReduceMax", "x axes", weights_of(axes=np.array([1], INT))),
    "reduce min of all": one("ReduceMin", keepdims=0),
    "reduce product": one("ReduceProd", "x axes", weights_of(axes=np.array([1, 3], INT))),
    "reduce l1": one("ReduceL1", "x axes", weights_of(axes=np.array([1], INT))),
    "reduce l2": one("ReduceL2", "x axes", weights_of(axes=np.array([1], INT))),
    "reduce squares": one("ReduceSumSquare", "x axes", weights_of(axes=np.array([1], INT))),
    "reduce log sum": one("ReduceLogSumExp", "x axes", weights_of(axes=np.array([1], INT))),
    "cumulative sum": one("CumSum", "x axis", weights_of(axis=np.array(1, INT))),
    "compare": (
        [node("Greater", "x c", "m"), node("Where", "m x c", "y")],
        weights_of(c=np.zeros((1, 6, 1, 1), np.float32)),
    ),
    "cast": ([node("Cast", "x", "i", to=7), node("Cast", "i", "y", to=1)], {}),
    "reshape": one("Reshape", "x shape", weights_of(shape=np.array([0, -1, 3, 7], INT))),
    "flatten": one("Flatten", axis=2),
    "transpose": one("Transpose", perm=[0, 2, 3, 1]),
    "transpose all": one("Transpose"),
    "squeeze": ([node("ReduceMean", "x a", "m"), node("Squeeze", "m a", "y")], weights_of(a=np.array([2, 3], INT))),
    "unsqueeze": one("Unsqueeze", "x axes", weights_of(axes=np.array([1, -1], INT))),
    "concat": one("Concat", "x x c", weights_of(c=numbers(2, 1, 9, 7)), axis=1),
    "split": ([node("Split", "x parts", "a b", axis=1), node("Sub", "a b", "y")], weights_of(parts=np.array([3, 3]))),
    "split evenly": ([node("Split", "x", "a b", axis=1, num_outputs=2), node("Sub", "a b", "y")], {}),
    "slice": one(
        "Slice",
        "x s e a t",
        weights_of(s=np.array([1, -3]), e=np.array([5, 1 << 60]), a=np.array([1, -1]), t=np.array([2, 1])),
    ),
    "slice backwards": one(
        "Slice", "x s e a t", weights_of(s=np.array([-1]), e=np.array([-(1 << 60)]), a=np.array([3]), t=np.array([-2]))
    ),
    "gather one": one("Gather", "x i", weights_of(i=np.array(2, INT)), axis=1),
    "gather some": one("Gather", "x i", weights_of(i=np.array([[0, -1], [2, 2]], INT)), axis=2),
    "expand": one("Expand", "x shape", weights_of(shape=np.array([3, 1, 1, 1, 1], INT))),
    "tile": one("Tile", "x r", weights_of(r=np.array([1, 2, 1, 3], INT))),
    "pad": one("Pad", "x p v", weights_of(p=np.array([0, 1, 2, 0, 0, 0, 1, 3], INT), v=np.float32(0.5))),
    "pad by reflection": one("Pad", "x p", weights_of(p=np.array([0, 0, 2, 1, 0, 0, 1, 3], INT)), mode="reflect"),
    "pad some axes": one("Pad", "x p . a", weights_of(p=np.array([1, 2, 3, 0]), a=np.array([3, 2]))),
    "crop": one("Pad", "x p", weights_of(p=np.array([0, 0, -1, 0, 0, 0, -2, 0], INT))),
    "einsum": one("Einsum", "x x", equation="nchw,nchv->nhwv"),
    "matrix product": one("MatMul", "x w", weights_of(w=numbers(7, 5))),
    "matrix product of both": ([node("Transpose", "x", "t", perm=[0, 1, 3, 2]), node("MatMul", "x t", "y")], {}),
    "gated": ([node("Sigmoid", "x", "g"), node("Mul", "x g", "y")], {}),
    "gated the other way": ([node("HardSigmoid", "x", "g", alpha=1 / 6), node("Mul", "g x", "y")], {}),
    "gated by another gate": ([node("HardSigmoid", "x", "g", alpha=0.3), node("Mul", "g x", "y")], {}),
    "shape arithmetic": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s i", "n"),
            node("Unsqueeze", "n a", "m"),
            node("Concat", "m rest", "wanted", axis=0),
            node("Reshape", "x wanted", "y"),
        ],
        weights_of(i=np.array(0), a=np.array([0]), rest=np.array([-1])),
    ),
    "weights that are computed": (
        [node("Transpose", "w", "v", perm=[1, 0, 2, 3]), node("Conv", "x v", "y")],
        weights_of(w=numbers(6, 4, 1, 1)),
    ),
    "a constant": (
        [node("Constant", "", "c", value_float=2.0), node("Mul", "x c", "y")],
        {},
    ),
}


def by_onnxruntime(content: onnx.ModelProto, x: Any) -> Any:
    session = onnxruntime.InferenceSession(content.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {content.graph.input[0].name: x})[0]


@pytest.mark.parametrize("name", CASES)
def test_an_operator_computes_what_onnxruntime_does(name: str) -> None:
    nodes, weights = CASES[name]
    content, x = model(nodes, {"x": IMAGE}, weights=weights), numbers(*IMAGE, seed=7)
    wanted = by_onnxruntime(content, x)
    with torch.inference_mode():
        (found,) = OnnxNetwork(content)(torch.from_numpy(x))
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-4 * max(1.0, np.abs(wanted).max()))


@pytest.mark.parametrize(
    ("attributes", "shapes"),
    [
        ({}, ((3, 4), (4, 5), (5,))),
        ({"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}, ((4, 3), (5, 4), (3, 5))),
        ({"transB": 1}, ((3, 4), (5, 4), (1,))),
    ],
)
def test_a_matrix_layer_computes_what_onnxruntime_does(attributes: dict[str, Any], shapes: Any) -> None:
    weights = {"b": numbers(*shapes[1]), "c": numbers(*shapes[2], seed=1)}
    content = model([node("Gemm", "x b c", "y", **attributes)], {"x": shapes[0]}, weights=weights)
    x = numbers(*shapes[0], seed=2)
    (found,) = OnnxNetwork(content)(torch.from_numpy(x))
    np.testing.assert_allclose(found.detach().numpy(), by_onnxruntime(content, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("op", "attributes", "opset"),
    [
        ("Clip", {"min": 0.0, "max": 6.0}, 6),
        ("Unsqueeze", {"axes": [0]}, 11),
        ("ReduceMean", {"axes": [2, 3]}, 11),
        ("Pad", {"pads": [0, 0, 1, 1, 0, 0, 1, 1], "value": 0.0}, 2),
        ("Softmax", {"axis": 1}, 11),
        ("Slice", {"starts": [1], "ends": [3], "axes": [1]}, 9),
        ("Upsample", {"mode": "nearest", "scales": [1.0, 1.0, 2.0, 2.0]}, 7),
    ],
)
def test_what_was_an_attribute_in_older_versions_is_read_too(op: str, attributes: dict[str, Any], opset: int) -> None:
    shape = (2, 6, 4, 5)
    content = model([node(op, "x", "y", **attributes)], {"x": shape}, opset=opset)
    x = numbers(*shape)
    wanted = {
        "Clip": lambda: np.clip(x, 0, 6),
        "Unsqueeze": lambda: x[None],
        "ReduceMean": lambda: x.mean((2, 3), keepdims=True),
        "Pad": lambda: np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))),
        "Softmax": lambda: np.exp(x) / np.exp(x).sum((1, 2, 3), keepdims=True),
        "Slice": lambda: x[:, 1:3],
        "Upsample": lambda: x.repeat(2, 2).repeat(2, 3),
    }[op]()
    (found,) = OnnxNetwork(content)(torch.from_numpy(x))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_becomes_space_and_back(mode: str) -> None:
    nodes = [node("DepthToSpace", "x", "s", blocksize=2, mode=mode)]
    nodes += [node("SpaceToDepth", "s", "y", blocksize=2)] if mode == "DCR" else [node("Identity", "s", "y")]
    content, x = model(nodes, {"x": (1, 8, 3, 4)}), numbers(1, 8, 3, 4)
    (found,) = OnnxNetwork(content)(torch.from_numpy(x))
    wanted = by_onnxruntime(content, x)
    np.testing.assert_array_equal(found.numpy(), x if mode == "DCR" else wanted)


@pytest.mark.parametrize(
    ("nodes", "domains", "said"),
    [
        ([node("STFT", "x x", "y")], (), "ONNX operator STFT"),
        ([node("MaxPool", "x", "y i", kernel_shape=[2, 2])], (), "MaxPool of opset 18 whose indices are read"),
        ([node("Resize", "x . s", "y", mode="linear", **FLAT)], (), "Resize of opset 18 in mode linear"),
        ([node("Reshape", "x x", "y")], (), "Reshape of opset 18 with shape that are computed from the input"),
        ([onnx.helper.make_node("FusedConv", ["x"], ["y"], name="odd", domain="com.microsoft")], ("com.microsoft",),
         "FusedConv of opset 18 of domain com.microsoft cannot be read (node 'odd')"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(nodes: list[onnx.NodeProto], domains: tuple[str, ...], said: str) -> None:
    weights = {"s": np.array([1, 1, 2, 2], np.float32)}
    content = model(nodes, {"x": (1, 2, 4, 4)}, weights=weights, domains=domains)
    with pytest.raises(UnreadableError, match="onnxruntime") as raised:
        OnnxNetwork(content)(torch.zeros(1, 2, 4, 4))
    assert said in str(raised.value)


def test_every_reading_has_a_case() -> None:
    tested = {each.op_type for nodes, _ in CASES.values() for each in nodes}
    elsewhere = {"Gemm", "Upsample", "DepthToSpace", "SpaceToDepth"}
    plain = {"Exp", "Log", "Sqrt", "Abs", "Neg", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Reciprocal", "Not",
             "Identity", "Dropout", "Equal", "Less", "LessOrEqual", "GreaterOrEqual", "And", "Or"}  # fmt: skip
    untested = {"Conv", *READERS} - tested - elsewhere - plain
    assert untested <= {"Gelu", "GroupNormalization", "GridSample", "Mod", "CastLike", "ArgMax", "ArgMin", "TopK",
                        "GatherElements"}  # fmt: skip
