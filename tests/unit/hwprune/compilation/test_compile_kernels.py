"""Every kernel against torch, in networks of a layer or two."""

import pytest
import torch
import torch.nn.functional as F
from compiled_toys import settled
from torch import nn

from hwprune.compilation.graph import trace
from hwprune.compilation.verify import verify


class Calls(nn.Module):
    """A convolution to leave the input's layout, then a function."""

    def __init__(self, channels, function):
        super().__init__()
        self.enter = nn.Conv2d(3, channels, 1)
        self.function = function

    def forward(self, x):
        return self.function(self.enter(x))


def agrees(compiler, module, *inputs):
    module = settled(module)
    graph = trace(module, inputs)
    artifact = compiler.network(graph, module)
    verify(artifact, module, inputs)
    assert artifact.description["fallback_calls"] == 0
    return [shape.op for shape in graph.shapes(module)]


@pytest.mark.parametrize("channels", [1, 5, 16, 33, 64])
@pytest.mark.parametrize(
    "window",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 1},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": 5, "stride": 2, "padding": 2},
        {"kernel_size": (1, 7), "padding": (0, 3)},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": 2},
        {"kernel_size": 3, "padding": "same", "dilation": 2},
    ],
    ids=str,
)
def test_convolution(compiler, channels, window):
    ops = agrees(
        compiler, nn.Sequential(nn.Conv2d(7, 20, 1), nn.Conv2d(20, channels, **window)), torch.randn(1, 7, 9, 12)
    )
    assert ops == ["conv2d", "conv2d", "unpack"]


@pytest.mark.parametrize(
    "window", [{"kernel_size": 3, "padding": 1}, {"kernel_size": 5, "stride": 2, "padding": 2}], ids=str
)
@pytest.mark.parametrize("channels", [3, 16, 40])
def test_depthwise_convolution(compiler, channels, window):
    layers = [
        nn.Conv2d(3, channels, 1),
        nn.Conv2d(channels, channels, groups=channels, **window),
        nn.BatchNorm2d(channels),
    ]
    ops = agrees(compiler, nn.Sequential(*layers, nn.ReLU6()), torch.randn(1, 3, 14, 14))
    assert ops == ["conv2d", "depthwise", "unpack"]


@pytest.mark.parametrize(
    "activation", [nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.Sigmoid(), nn.Hardswish(), nn.Hardsigmoid()], ids=str
)
def test_activations_are_fused_and_exact(compiler, activation):
    module = nn.Sequential(nn.Conv2d(2, 18, 3, padding=1), activation)
    module[0].weight.data *= 20  # so that all branches are met
    assert agrees(compiler, module, torch.randn(1, 2, 8, 8)) == ["conv2d", "unpack"]


def test_activations_hold_at_extreme_values(compiler):
    x = torch.tensor([-1e4, -100.0, -88.0, -20.0, -1e-3, 0.0, 1e-3, 20.0, 88.0, 100.0, 1e4]).reshape(1, 1, 1, 11)
    module = nn.Sequential(nn.MaxPool2d(1), nn.Sigmoid())
    assert "activation" in agrees(compiler, module, x)


@pytest.mark.parametrize("features", [(70, 10), (16, 16), (300, 130)])
def test_dense_layers(compiler, features):
    module = nn.Sequential(nn.Linear(features[0], 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, features[1]))
    assert agrees(compiler, module, torch.randn(1, features[0])) == ["dense", "dense", "unpack"]


@pytest.mark.parametrize(
    ("pool", "op"),
    [
        (nn.MaxPool2d(2), "max_pool"),
        (nn.MaxPool2d(3, 2, 1), "max_pool"),
        (nn.AvgPool2d(2), "avg_pool"),
        (nn.AvgPool2d(3, 2, 1), "avg_pool"),
        (nn.AdaptiveAvgPool2d(4), "avg_pool"),
        (nn.AdaptiveAvgPool2d(1), "global_pool"),
    ],
    ids=str,
)
def test_pooling(compiler, pool, op):
    assert agrees(compiler, Calls(21, pool), torch.randn(1, 3, 8, 8)) == ["conv2d", op, "unpack"]


def test_means_over_pixels_are_global_pools(compiler):
    assert agrees(compiler, Calls(21, lambda y: y.mean((2, 3))), torch.randn(1, 3, 8, 8)) == [
        "conv2d",
        "global_pool",
        "unpack",
    ]


@pytest.mark.parametrize("parts", [(16, 16), (5, 20, 9), (31, 1)])
def test_concatenation_of_any_widths(compiler, parts):
    class Join(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList(nn.Conv2d(3, width, 1) for width in parts)
            self.last = nn.Conv2d(sum(parts), 8, 1)

        def forward(self, x):
            return self.last(torch.cat([part(x) for part in self.parts], 1))

    ops = agrees(compiler, Join(), torch.randn(1, 3, 6, 6))
    assert ops.count("concat") == len(parts) - 1  # the first part is where it belongs


def test_squeeze_and_excitation(compiler):
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.down, self.up = nn.Conv2d(3, 24, 1), nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)

        def forward(self, x):
            y = self.enter(x)
            gate = torch.sigmoid(self.up(F.silu(self.down(F.adaptive_avg_pool2d(y, 1)))))
            return gate * y

    assert agrees(compiler, Gate(), torch.randn(1, 3, 6, 6)) == [
        "conv2d",
        "global_pool",
        "dense",
        "dense",
        "scale",
        "unpack",
    ]


def test_sums_and_products_without_a_convolution(compiler):
    ops = agrees(
        compiler,
        Calls(20, lambda y: F.relu(F.max_pool2d(y, 2) + F.avg_pool2d(y, 2)) * F.max_pool2d(y, 2)),
        torch.randn(1, 3, 6, 6),
    )
    assert {"add", "mul"} <= set(ops)


def test_batchnorm_before_a_convolution_is_a_call_of_its_own(compiler):
    module = nn.Sequential(nn.Conv2d(3, 20, 1), nn.ReLU(), nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 4, 1))
    assert agrees(compiler, module, torch.randn(1, 3, 5, 5)) == ["conv2d", "affine", "conv2d", "unpack"]


def test_flattening_images_for_a_dense_layer(compiler):
    module = nn.Sequential(nn.Conv2d(3, 18, 1), nn.Flatten(), nn.Linear(18 * 25, 7))
    assert agrees(compiler, module, torch.randn(1, 3, 5, 5)) == ["conv2d", "unpack", "dense", "unpack"]


def test_padding_that_differs_between_the_sides_is_a_call_of_its_own(compiler):
    module = nn.Conv2d(3, 4, 2, padding="same")
    assert agrees(compiler, module, torch.randn(1, 3, 5, 5)) == ["pack", "border", "conv2d", "unpack"]


def test_batches(compiler):
    module = nn.Sequential(
        nn.Conv2d(3, 20, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(20, 20, 3, groups=20),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(180, 5),
    )
    agrees(compiler, module, torch.randn(3, 3, 8, 8))


def test_values_that_are_input_and_output_at_once(compiler):
    class Through(nn.Module):
        def forward(self, x):
            y = torch.relu(x)
            return x, y, y

    agrees(compiler, Through(), torch.randn(1, 4, 3, 3))


def test_several_inputs_lie_behind_each_other(compiler):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 8, 1), nn.Conv2d(5, 8, 3, padding=1)

        def forward(self, x, y):
            return self.left(x) + self.right(y)

    assert agrees(compiler, Two(), torch.randn(1, 3, 6, 6), torch.randn(1, 5, 6, 6)) == ["conv2d", "conv2d", "unpack"]
