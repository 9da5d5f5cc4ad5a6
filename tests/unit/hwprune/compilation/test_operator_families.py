"""Families beside convolutions and pools against torch: no operator of theirs may be left to a fallback."""

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
    """Operators of the compiled module, whose output is torch's but for rounding."""
    module = settled(module)
    graph = trace(module, inputs)
    artifact = compiler.network(graph, module)
    assert verify(artifact, module, inputs) <= 1e-5
    assert artifact.description["fallback_calls"] == 0
    return [shape.op for shape in graph.shapes(module)]


@pytest.mark.parametrize(
    ("batch", "channels", "outputs", "groups", "window"),
    [
        (1, 32, 32, 8, {}),  # four groups a vector
        (3, 24, 48, 3, {"stride": 2}),  # one group and a half
        (1, 30, 35, 5, {}),  # groups that begin anywhere in a block
        (1, 128, 128, 2, {"kernel_size": 1, "padding": 0}),  # several blocks a group
        (1, 12, 24, 12, {}),  # depthwise with two outputs a channel
        (2, 48, 48, 2, {"dilation": 2, "padding": 2}),
        (1, 6, 6, 2, {}),  # fewer channels than a vector
    ],
)
def test_grouped_convolution(compiler, batch, channels, outputs, groups, window):
    conv = nn.Conv2d(channels, outputs, **{"kernel_size": 3, "padding": 1, **window}, groups=groups)
    module = nn.Sequential(nn.Conv2d(3, channels, 1), conv, nn.BatchNorm2d(outputs), nn.ReLU())
    assert agrees(compiler, module, torch.randn(batch, 3, 9, 12)) == ["conv2d", "conv2d_grouped", "unpack"]


def test_grouped_convolution_adds_a_residual(compiler):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.grouped = nn.Conv2d(3, 40, 1), nn.Conv2d(40, 40, 3, 1, 1, groups=5)

        def forward(self, x):
            y = self.enter(x)
            return F.relu(self.grouped(y) + y)

    assert agrees(compiler, Residual(), torch.randn(2, 3, 6, 7)) == ["conv2d", "conv2d_grouped", "unpack"]


@pytest.mark.parametrize(
    ("batch", "channels", "outputs", "window"),
    [
        (1, 20, 33, {"kernel_size": 2, "stride": 2}),
        (3, 16, 16, {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}),
        (1, 7, 5, {"kernel_size": 3, "stride": 2, "padding": 1}),
        (1, 9, 40, {"kernel_size": 4, "stride": 2, "padding": 1}),
        (1, 9, 40, {"kernel_size": 3, "padding": 1}),
        (1, 9, 20, {"kernel_size": (1, 3), "stride": (1, 2)}),
        (2, 9, 20, {"kernel_size": 2, "stride": 3, "output_padding": 1}),  # pixels that no tap reaches
    ],
)
def test_transposed_convolution(compiler, batch, channels, outputs, window):
    conv = nn.ConvTranspose2d(channels, outputs, **window)
    module = nn.Sequential(nn.Conv2d(3, channels, 1), conv, nn.BatchNorm2d(outputs), nn.ReLU())
    assert agrees(compiler, module, torch.randn(batch, 3, 7, 6)) == ["conv2d", "conv2d_transposed", "unpack"]


RESIZES = [
    {"scale_factor": 2},
    {"size": (13, 5)},
    {"scale_factor": 1.7},
    {"size": (13, 17), "mode": "nearest-exact"},
    {"scale_factor": 2, "mode": "bilinear"},
    {"scale_factor": 1.7, "mode": "bilinear"},
    {"size": (31, 4), "mode": "bilinear"},
    {"size": (31, 4), "mode": "bilinear", "align_corners": True},
    {"size": (1, 80), "mode": "bilinear", "align_corners": True},
]


@pytest.mark.parametrize("resize", RESIZES, ids=str)
def test_resizing_for_the_caller_writes_no_blocks(compiler, resize):
    module = Calls(21, lambda y: F.interpolate(y, **resize))
    assert agrees(compiler, module, torch.randn(3, 3, 8, 11)) == ["conv2d", "resample"]


@pytest.mark.parametrize("resize", RESIZES[::4], ids=str)
def test_resizing_for_another_layer(compiler, resize):
    module = Calls(21, lambda y: F.relu(F.interpolate(y, **resize)))
    assert agrees(compiler, module, torch.randn(1, 3, 8, 11)) == ["conv2d", "resample", "activation", "unpack"]


@pytest.mark.parametrize("size", [(1, 3), (3, 5), 7])
def test_pooling_to_sizes_that_do_not_divide_the_image(compiler, size):
    module = Calls(21, lambda y: F.relu(F.adaptive_avg_pool2d(y, size)))
    assert "resample" in agrees(compiler, module, torch.randn(2, 3, 10, 8))


@pytest.mark.parametrize("size", [(8, 8), (10, 9)])
@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AvgPool2d((3, 2), 2, (1, 0), ceil_mode=True, count_include_pad=False),
    ],
    ids=repr,
)
def test_windows_that_hang_over_the_image(compiler, pool, size):
    agrees(compiler, Calls(21, pool), torch.randn(3, 3, *size))


@pytest.mark.parametrize("channels", [1, 21, 64])
def test_softmax_over_channels(compiler, channels):
    x = 30 * torch.randn(3, 3, 5, 4)
    assert agrees(compiler, Calls(channels, nn.Softmax(1)), x) == ["conv2d", "softmax", "unpack"]


def test_softmax_over_vectors(compiler):
    module = nn.Sequential(nn.Linear(20, 33), nn.Softmax(-1))
    assert agrees(compiler, module, torch.randn(3, 20)) == ["dense", "softmax", "unpack"]


@pytest.mark.parametrize(
    "activation",
    [
        *(nn.GELU(), nn.GELU("tanh"), nn.Tanh(), nn.LeakyReLU(0.1), nn.Hardtanh(-2, 3), nn.ELU(0.7), nn.SELU()),
        *(nn.CELU(), nn.Mish(), nn.Hardtanh(-1e-7, 1e20)),
    ],
    ids=str,
)
@pytest.mark.parametrize("scale", [0.01, 20])
def test_activations_of_small_and_large_values_are_fused(compiler, activation, scale):
    module = nn.Sequential(nn.Conv2d(2, 18, 3, padding=1), activation)
    for parameter in module[0].parameters():
        parameter.data *= scale
    assert agrees(compiler, module, torch.randn(2, 2, 8, 8)) == ["conv2d", "unpack"]


@pytest.mark.parametrize("slopes", [1, 18])
def test_learnt_slopes(compiler, slopes):
    prelu = nn.PReLU(slopes)
    nn.init.uniform_(prelu.weight)
    module = nn.Sequential(nn.Conv2d(2, 18, 3, padding=1), prelu)
    assert agrees(compiler, module, torch.randn(2, 2, 8, 8)) == ["conv2d", "prelu", "unpack"]


def test_numbers_are_fused_as_activations(compiler):
    module = Calls(20, lambda y: F.max_pool2d(1 - y, 1) / 3 - 0.5)
    assert agrees(compiler, module, torch.randn(1, 3, 4, 4)) == [
        "conv2d",
        "max_pool",
        "activation",
        "activation",
        "unpack",
    ]
    module = Calls(20, lambda y: (-y).clamp(min=0.1) * 2)
    assert agrees(compiler, module, torch.randn(1, 3, 4, 4))[0] == "conv2d"


def test_differences_and_sums_with_a_number_for_each_channel(compiler):
    ops = agrees(
        compiler,
        Calls(20, lambda y: F.relu(y + y.mean((2, 3), keepdim=True)) - F.max_pool2d(y, 3, 1, 1)),
        torch.randn(2, 3, 6, 6),
    )
    assert {"shift", "sub"} <= set(ops)


def test_parameters_of_channels(compiler):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter = nn.Conv2d(3, 20, 1)
            self.scale, self.shift = (nn.Parameter(torch.randn(20, 1, 1)) for _ in range(2))

        def forward(self, x):
            return self.enter(x) * self.scale + self.shift

    assert agrees(compiler, Scaled(), torch.randn(2, 3, 4, 5)) == ["conv2d", "affine", "affine", "unpack"]


def test_zero_padding_becomes_that_of_the_next_layer(compiler):
    module = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ZeroPad2d(1), nn.Conv2d(5, 20, 3, padding=1), nn.ZeroPad2d(1))
    module.extend([nn.AvgPool2d(3, 2), nn.ZeroPad2d((2, 2, 1, 1)), nn.Conv2d(20, 20, 3, groups=4)])
    ops = agrees(compiler, module, torch.randn(2, 3, 5, 5))
    assert ops == ["conv2d", "conv2d", "avg_pool", "conv2d_grouped", "unpack"]


def test_other_padding_and_cropping_are_calls(compiler):
    module = Calls(20, lambda y: F.relu(F.pad(y, (1, 2, 0, 1))[:, :, 2:, 1:-1]))
    assert agrees(compiler, module, torch.randn(2, 3, 5, 6)) == ["conv2d", "border", "border", "activation", "unpack"]
    module = Calls(20, lambda y: F.max_pool2d(F.pad(y, (1, 1, 1, 1)), 3))  # zeros, where the pool would have none
    assert agrees(compiler, module, torch.randn(2, 3, 5, 6)) == ["conv2d", "border", "max_pool", "unpack"]


@pytest.mark.parametrize("begin", [0, 3, 16])
def test_slices_of_channels(compiler, begin):
    ops = agrees(compiler, Calls(40, lambda y: F.relu(y[:, begin : begin + 17])), torch.randn(2, 3, 4, 5))
    assert ops == ["conv2d", *(["slice"] if begin else []), "activation", "unpack"]


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_of_channels(compiler, parts):
    module = Calls(22, lambda y: torch.cat([F.relu(part) for part in y.chunk(parts, 1)][::-1], 1))
    agrees(compiler, module, torch.randn(2, 3, 4, 5))


@pytest.mark.parametrize("groups", [2, 7])
def test_shuffled_channels(compiler, groups):
    def by_views(y):
        n, c, h, w = y.shape
        return y.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, c, h, w)

    x = torch.randn(2, 3, 4, 5)
    assert agrees(compiler, Calls(56, nn.ChannelShuffle(groups)), x) == ["conv2d", "shuffle", "unpack"]
    assert agrees(compiler, Calls(56, by_views), x) == ["conv2d", "shuffle", "unpack"]


@pytest.mark.parametrize("batch", [1, 3])
def test_rows_of_features(compiler, batch):
    layers = [nn.Linear(20, 33), nn.GELU(), nn.LayerNorm(33, eps=1e-3), nn.Linear(33, 5), nn.Softmax(-1)]
    ops = agrees(compiler, nn.Sequential(*layers), torch.randn(batch, 7, 20))
    assert ops == ["pack_rows", "conv2d", "layer_norm", "conv2d", "softmax", "unpack_rows"]


def test_images_become_rows_and_images_again_without_a_call(compiler):
    class Block(nn.Module):
        """As in ConvNeXt and in transformers."""

        def __init__(self):
            super().__init__()
            self.enter, self.norm = nn.Conv2d(3, 21, 1), nn.LayerNorm(21)
            self.wide, self.narrow = nn.Linear(21, 40), nn.Linear(40, 21)

        def forward(self, x):
            y = self.enter(x)
            y = y + self.narrow(F.gelu(self.wide(self.norm(y.permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)
            tokens = self.norm(y.flatten(2).transpose(1, 2))
            return tokens.transpose(1, 2).reshape(y.shape)

    ops = agrees(compiler, Block(), torch.randn(2, 3, 6, 7))
    assert ops == ["conv2d", "layer_norm", "conv2d", "conv2d", "add", "layer_norm", "unpack"]


def test_rows_meet_operators_without_a_kernel(compiler):
    module = settled(nn.Sequential(nn.Conv2d(3, 20, 1), nn.Flatten(2), nn.Linear(30, 18), nn.LayerNorm(18)))
    x = torch.randn(2, 3, 5, 6)
    verify(compiler.network(trace(module, x), module), module, x)


@pytest.mark.parametrize("width", [16, 24])
def test_pruned_networks_call_the_same_kernels(compiler, width):
    """Every family in one network, at several widths, from one trace."""

    class Network(nn.Module):
        def __init__(self, width=32, inner=16):
            super().__init__()
            self.stem = nn.Conv2d(3, width, 3, 2, 1)
            self.grouped = nn.Conv2d(width, 2 * width, 3, 1, 1, groups=width // 8)
            self.up = nn.ConvTranspose2d(2 * width, inner, 2, 2)
            self.mix = nn.Linear(inner + 3, 7)
            self.norm = nn.LayerNorm(7)

        def forward(self, x):
            y = F.gelu(self.up(F.max_pool2d(F.leaky_relu(self.grouped(self.stem(x))), 3, 2, ceil_mode=True)))
            y = torch.cat([F.interpolate(y, size=x.shape[2:], mode="bilinear"), x], 1)
            return F.softmax(self.norm(self.mix(y.permute(0, 2, 3, 1))), -1).permute(0, 3, 1, 2)

    x = torch.randn(1, 3, 18, 18)
    graph = trace(Network(), x)
    module = settled(Network(width, width - 5))
    artifact = compiler.network(graph, module)
    assert verify(artifact, module, x) <= 1e-5
    assert artifact.description["fallback_calls"] == 0
    dense, pruned = graph.shapes(Network()), graph.shapes(module)
    assert [shape.template for shape in dense] == [shape.template for shape in pruned]
