"""Whole networks, dense and pruned: output equal to torch, memory known ahead."""

import ctypes
import json

import numpy as np
import pytest
import torch
import torchvision
import tvm
from compiled_toys import Detector, ResNet, Segmenter, Shuffler, settled
from torch import nn

from hwprune.compilation.graph import trace
from hwprune.compilation.verify import verify
from hwprune.errors import CompileError


def check(compiler, graph, module, x):
    artifact = compiler.network(graph, module)
    assert verify(artifact, module, x) <= 1e-4
    memory, told = graph.memory(module), artifact.description
    assert (memory.arena_bytes, memory.weights_bytes) == (told["arena_bytes"], told["weights_bytes"])
    assert artifact.planned_memory_bytes == memory.arena_bytes + memory.weights_bytes
    assert memory.live_bytes <= memory.arena_bytes
    assert len(graph.shapes(module)) == told["calls"]
    return artifact


@pytest.mark.parametrize("projection", [False, True])
def test_pruned_residual_networks_need_no_new_trace(compiler, projection):
    x = torch.randn(1, 3, 32, 32)
    graph = trace(settled(ResNet(projection=projection)), x)
    for widths in ({}, {"inner": (7, 32, 19)}, {"inner": (1, 17, 64), "stages": (12, 29, 47)}):
        artifact = check(compiler, graph, settled(ResNet(projection=projection, **widths)), x)
        assert artifact.description["fallback_calls"] == 0


def test_residual_sums_need_no_memory_of_their_own(compiler):
    graph = trace(settled(ResNet()), torch.randn(1, 3, 32, 32))
    memory = graph.memory(settled(ResNet()))
    block = 16 * 32 * 32 * 4
    assert memory.live_bytes < 3.2 * block  # shortcut, inner value, padded copy


def small_vgg():
    """VGG's stages and its pool to 7x7, whose first hidden layer is not a quarter of a gigabyte."""
    with torch.device("meta"):
        module = torchvision.models.VGG(nn.Identity(), init_weights=False)
    module.features = torchvision.models.vgg.make_layers([24, "M", 40, 40, "M", 72, "M"], batch_norm=True)
    module.classifier = nn.Sequential(nn.Linear(72 * 49, 96), nn.ReLU(), nn.Dropout(), nn.Linear(96, 10))
    return module


#: By architecture: torchvision's own classes with all their kinds of blocks, each of these once or twice.
ARCHITECTURES = {
    "resnet": lambda: torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [2, 1, 1, 1], num_classes=10),
    "mobilenet_v2": lambda: torchvision.models.MobileNetV2(
        10, inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2], [6, 40, 2, 2]]
    ),
    "efficientnet": lambda: torchvision.models.EfficientNet(
        [
            torchvision.models.efficientnet.MBConvConfig(1, 3, 1, 32, 16, 1, 1.0, 1.0),
            torchvision.models.efficientnet.MBConvConfig(6, 3, 2, 16, 24, 2, 1.0, 1.0),
            torchvision.models.efficientnet.MBConvConfig(6, 5, 2, 24, 40, 1, 1.0, 1.0),
        ],
        dropout=0.2,
        num_classes=10,
    ),
    "densenet": lambda: torchvision.models.DenseNet(32, (2, 3), num_init_features=50, num_classes=10),
    "vgg_bn": small_vgg,
}


@pytest.mark.parametrize(("name", "size"), zip(ARCHITECTURES, (64, 32, 32, 32, 32), strict=True))
def test_torchvision_networks_run_on_kernels_of_ours(compiler, name, size):
    torch.manual_seed(1)
    module = settled(ARCHITECTURES[name]())
    x = torch.randn(1, 3, size, size)
    artifact = check(compiler, trace(module, x), module, x)
    assert artifact.description["fallback_ops"] == []


def test_a_segmenter_falls_back_for_its_cosine_alone(compiler):
    x = torch.randn(1, 3, 16, 16)
    graph = trace(settled(Segmenter()), x)
    for width in (16, 11):
        artifact = check(compiler, graph, settled(Segmenter(width)), x)
        assert artifact.description["fallback_ops"] == ["cos"]
        assert artifact.description["fallback_calls"] == 1
    fallback = next(shape for shape in graph.shapes(Segmenter(11)) if shape.op.startswith("fallback:"))
    assert (fallback.in_channels, fallback.height) == (22, 8)


def test_a_detector_has_two_outputs(compiler):
    x = torch.randn(1, 3, 32, 32)
    graph = trace(settled(Detector()), x)
    artifact = check(compiler, graph, settled(Detector(9)), x)
    assert artifact.description["outputs"] == [[1, 4, 64], [1, 4, 8, 8]]
    assert artifact.description["output_bytes"] == 2 * 4 * 64 * 4


def test_sizes_computed_in_forward_follow_the_pruned_widths(compiler):
    x = torch.randn(1, 3, 16, 16)
    graph = trace(settled(Shuffler()), x)
    check(compiler, graph, settled(Shuffler(10)), x)


def test_fallbacks_work_on_batches(compiler):
    x = torch.randn(2, 3, 16, 16)
    check(compiler, trace(settled(Segmenter()), x), settled(Segmenter()), x)


def test_equal_networks_are_equal_files(compiler):
    x = torch.randn(1, 3, 16, 16)
    module = settled(Detector(8))
    first, second = (compiler.network(trace(module, x), module) for _ in range(2))
    assert first == second
    assert first.path.name == f"{first.sha256}.so"


def test_other_weights_are_another_file(compiler):
    x = torch.randn(1, 3, 16, 16)
    graph = trace(settled(Detector(8)), x)
    assert compiler.network(graph, settled(Detector(8))).sha256 != compiler.network(graph, settled(Detector(8))).sha256


def test_the_library_describes_itself(compiler):
    module = settled(Detector(8))
    artifact = compiler.network(trace(module, torch.randn(1, 3, 16, 16)), module)
    library = ctypes.CDLL(str(artifact.path))
    library.library_description.restype = ctypes.c_char_p
    assert json.loads(library.library_description()) == artifact.description
    library.reference_run()


def test_tvm_loads_the_library_too(compiler):
    module = settled(ResNet())
    x = torch.randn(1, 3, 32, 32)
    artifact = compiler.network(trace(module, x), module)
    output = tvm.runtime.tensor(np.zeros((1, 10), "float32"))
    tvm.runtime.load_module(str(artifact.path))["main"](tvm.runtime.tensor(x.numpy()), output)
    with torch.no_grad():
        np.testing.assert_allclose(output.numpy(), module(x).numpy(), rtol=1e-4, atol=1e-5)


def test_a_wrong_library_is_found_out(compiler):
    x = torch.randn(1, 3, 32, 32)
    graph = trace(settled(ResNet()), x)
    artifact = compiler.network(graph, settled(ResNet()))
    with pytest.raises(CompileError, match="differ by"):
        verify(artifact, settled(ResNet()), x)


def test_an_input_of_the_wrong_shape_is_refused(compiler):
    module = settled(ResNet())
    artifact = compiler.network(trace(module, torch.randn(1, 3, 32, 32)), module)
    with pytest.raises(CompileError, match="library that takes"):
        verify(artifact, module, torch.randn(1, 3, 16, 16))
