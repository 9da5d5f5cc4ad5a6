"""Convolutions that leave out zeros against torch, and which layers become one."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hwprune.compilation.graph import trace
from hwprune.compilation.kernels import sparse
from hwprune.compilation.targets import CpuTarget, host_target
from hwprune.compilation.verify import run
from latency_models.shapes import LayerShape


class Residual(nn.Module):
    """A convolution whose result is added to a shortcut."""

    def __init__(self, layer, shortcut):
        super().__init__()
        self.layer = layer
        self.shortcut = shortcut

    def forward(self, x):
        return torch.relu(self.layer(x) + self.shortcut(x))


def conv(in_channels, out_channels, taps=3, sparsity=0.9, **settings):
    layer = nn.Conv2d(in_channels, out_channels, taps, **settings)
    with torch.no_grad():
        layer.weight *= torch.rand_like(layer.weight) >= sparsity
    return layer


def sparse_calls(graph, module):
    return [call for call in graph.plan(module).calls if call.shape.op == "conv2d_sparse"]


def difference(compiler, module, shape):
    """Largest difference from torch of a library with sparse convolutions alone, relative to the largest output."""
    module, x = module.eval(), torch.randn(shape)
    graph = replace(trace(module, x), sparse="always")
    assert sparse_calls(graph, module)
    with torch.no_grad():
        wanted = module(x).numpy().ravel()
    got = run(compiler.network(graph, module), [x])
    return np.abs(got - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("batch", [1, 3])
def test_random_masks_agree_with_torch(compiler, sparsity, batch):
    module = nn.Sequential(conv(20, 33, sparsity=sparsity, padding=1), nn.ReLU())
    assert difference(compiler, module, (batch, 20, 8, 8)) < 1e-5


@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(7, 7), (8, 16), (13, 10)])
def test_windows_agree_with_torch(compiler, taps, stride, size):
    module = conv(17, 18, taps, stride=stride, padding=taps // 2)
    assert difference(compiler, module, (1, 17, *size)) < 1e-5


@pytest.mark.parametrize(
    "settings",
    [
        {"taps": 3, "padding": 2, "dilation": 2},
        {"taps": 3, "padding": 0, "stride": (2, 1)},
        {"taps": 5, "padding": (2, 1), "stride": 3, "dilation": (1, 2)},
        {"taps": (1, 3), "padding": (1, 1)},
    ],
)
def test_unusual_windows_agree_with_torch(compiler, settings):
    assert difference(compiler, conv(5, 6, sparsity=0.6, **settings), (1, 5, 12, 15)) < 1e-5


def test_images_wider_than_a_tile_agree_with_torch(compiler):
    assert difference(compiler, conv(4, 4, padding=1), (1, 4, 6, 8 * sparse.TILE_VECTORS * 16)) < 1e-5


def test_a_layer_of_zeros_gives_its_bias(compiler):
    assert difference(compiler, conv(8, 5, sparsity=1.1, padding=1), (1, 8, 8, 8)) == 0


def test_a_channel_of_zeros_gives_its_bias(compiler):
    layer = conv(24, 20, sparsity=0.8, padding=1)
    layer.weight.data[7] = 0
    assert difference(compiler, layer, (1, 24, 8, 8)) < 1e-5


@pytest.mark.parametrize("activation", [nn.ReLU6(), nn.SiLU(), nn.Hardswish(), nn.Sigmoid()])
def test_activations_agree_with_torch(compiler, activation):
    module = nn.Sequential(conv(16, 16, padding=1), nn.BatchNorm2d(16), activation)
    module[1].running_mean.normal_()
    module[1].running_var.uniform_(0.5, 2)
    assert difference(compiler, module, (1, 16, 8, 8)) < 1e-5


def test_residuals_agree_with_torch(compiler):
    module = Residual(conv(19, 21, padding=1), conv(19, 21, 1))
    assert difference(compiler, module, (2, 19, 8, 8)) < 1e-5


def test_more_channels_than_the_cache_holds_agree_with_torch(compiler):
    module = conv(300, 40, padding=1)
    graph = replace(trace(module, torch.zeros(1, 300, 16, 16)), sparse="always")
    (call,) = sparse_calls(graph, module)
    assert call.usage.numbers[2] > 2  # chunks
    assert difference(compiler, module, (1, 300, 16, 16)) < 1e-5


def test_one_kernel_serves_every_mask_and_width():
    kernels = set()
    for width, sparsity in [(16, 0.5), (33, 0.9), (64, 0.99)]:
        module = nn.Sequential(conv(width, width, sparsity=sparsity, padding=1))
        graph = replace(trace(module, torch.zeros(1, width, 8, 8)), sparse="always")
        kernels |= {call.usage.kernel for call in sparse_calls(graph, module)}
    assert len(kernels) == 1


@pytest.mark.parametrize(("sparsity", "expected"), [(0.98, 1), (0.1, 0)])
def test_the_sparse_kernel_is_chosen_where_it_was_measured_to_be_faster(sparsity, expected, monkeypatch):
    feature = host_target().unit.feature
    monkeypatch.setitem(sparse.BREAK_EVEN, feature, (sparse.BreakEven(9, 64, 256, 0.7),))
    module = nn.Sequential(conv(3, 64, 1), conv(64, 64, sparsity=sparsity, padding=1)).eval()
    graph = trace(module, torch.zeros(1, 3, 16, 16))
    assert len(sparse_calls(graph, module)) == expected
    assert not sparse_calls(replace(graph, sparse="never"), module)
    assert len(sparse_calls(replace(graph, sparse="always"), module)) == 2


def test_pruning_weights_needs_no_new_trace_and_shapes_tell_how_many_are_left():
    module = nn.Sequential(conv(3, 16, 1, 0), conv(16, 16, sparsity=0, padding=1)).eval()
    graph = replace(trace(module, torch.zeros(1, 3, 8, 8)), sparse="always")
    pruned = copy.deepcopy(module)
    pruned[1].weight.data[:, 4:] = 0
    assert [shape.nonzeros for shape in graph.shapes(pruned)[-2:-1]] == [16 * 4 * 9]
    assert graph.memory(pruned).weights_bytes < graph.memory(module).weights_bytes / 2


def test_units_that_were_not_measured_stay_dense():
    shape = LayerShape("conv2d", 64, 64, 16, 16, (3, 3), (1, 1), (1, 1), layout="nchw4c")
    target = CpuTarget.from_dict({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"})
    assert not sparse.is_chosen(shape, 1, target, "auto")
    assert sparse.is_chosen(shape, 1, target, "always")


def test_maps_that_leave_vectors_half_empty_stay_dense():
    shape = LayerShape("conv2d", 512, 512, 2, 2, (3, 3), (1, 1), (1, 1))
    target = CpuTarget.from_dict({"kind": "llvm", "mcpu": "skylake-avx512"})
    assert not sparse.is_chosen(shape, 0, target, "auto")
    assert sparse.is_chosen(replace(shape, height=4, width=4), 0, target, "auto")


def test_a_nearer_measurement_decides():
    target = CpuTarget.from_dict({"kind": "llvm", "mcpu": "skylake-avx512"})
    for layer in sparse.BREAK_EVEN["avx512f"]:
        side, taps = math.isqrt(layer.pixels), math.isqrt(layer.taps)
        shape = LayerShape("conv2d", layer.channels, layer.channels, side, side, (taps, taps), padding=(taps // 2,) * 2)
        weights = layer.channels**2 * layer.taps
        assert sparse.is_chosen(shape, int(weights * (1 - layer.sparsity - 0.01)), target, "auto")
        assert not sparse.is_chosen(shape, int(weights * (1 - layer.sparsity + 0.01)), target, "auto")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 300), st.sampled_from([4, 8, 16]))
def test_a_tile_divides_the_image_into_whole_rows_or_parts_of_one(height, width, lanes):
    rows, columns = sparse.pick_tile(height, width, lanes)
    assert height % rows == 0
    assert width % columns == 0
    assert rows == 1 or columns == width
    assert rows * columns <= sparse.TILE_VECTORS * lanes
