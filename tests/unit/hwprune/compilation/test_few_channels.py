"""Convolutions to few channels against torch: every number of them, between planes and blocks."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compiled_toys import settled
from torch import nn

from hwprune.compilation.compiler import Compiler
from hwprune.compilation.graph import trace
from hwprune.compilation.kernels.conv import Conv
from hwprune.compilation.kernels.narrow import NarrowConv
from hwprune.compilation.targets import VECTOR_UNITS, CpuTarget, host_target
from hwprune.compilation.verify import verify
from hwprune.measurement.plans import PlanArithmetic
from hwprune.measurement.shapes import ShapeArithmetic
from latency_models.stairs import FEW_LANES_MIN, Stair

needs_wide_vectors = pytest.mark.skipif(
    host_target().lanes < FEW_LANES_MIN, reason=f"this processor's vectors have fewer than {FEW_LANES_MIN} lanes"
)
LANES, FEW = host_target().lanes, Stair.of(host_target().lanes).few
WIDE = CpuTarget("skylake-avx512", VECTOR_UNITS[0])


class Chain(nn.Module):
    """Channels that are few or many between convolutions, and a result that others read, too."""

    def __init__(self, first=20, widths=(8, 8), window=None):
        super().__init__()
        self.enter = nn.Conv2d(3, first, 1)
        self.one = nn.Conv2d(first, widths[0], **(window or {"kernel_size": 3, "padding": 1}))
        self.two = nn.Conv2d(widths[0], widths[1], 3, padding=1)
        self.down = nn.Conv2d(widths[1], 20, 3, padding=1, stride=2)
        self.pixels = nn.Conv2d(widths[1], 7, 1)

    def forward(self, x):
        x = F.silu(self.two(F.relu(self.one(self.enter(x)))))
        return self.down(x), self.pixels(x)


class Residual(nn.Module):
    """Few channels that are added, pooled and returned."""

    def __init__(self, channels=6):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        first = F.hardswish(self.one(x))
        second = self.two(first)
        return F.relu(second + first), F.max_pool2d(second, 2)


def agrees(compiler, module, *size):
    module, x = settled(module), torch.randn(size)
    graph = trace(module, x)
    verify(compiler.network(graph, module), module, x)
    return graph.plan(module)


def kernels(plan):
    return [type(call.usage.kernel) for call in plan.calls if call.shape.op == "conv2d"]


@needs_wide_vectors
@pytest.mark.parametrize("widths", [(1, 2), (3, 11), (12, 12), (5, 13), (13, 5), (16, 16)], ids=str)
def test_any_number_of_few_channels(compiler, widths):
    plan = agrees(compiler, Chain(widths=widths), 1, 3, 16, 32)
    expected = [NarrowConv if width <= FEW else Conv for width in widths]
    assert kernels(plan) == [Conv, *expected, Conv, Conv]
    assert [call.shape.layout for call in plan.calls[1:5]] == [
        f"nchw{LANES}c-few{LANES}c", f"few{LANES}c", f"few{LANES}c-nchw{LANES}c", f"few{LANES}c-nchw{LANES}c",
    ]  # fmt: skip


@needs_wide_vectors
@pytest.mark.parametrize("size", [(4, 16), (7, 27), (9, 37), (33, 48)], ids=str)
@pytest.mark.parametrize(
    "window",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 5, "padding": 2},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": (3, 5), "padding": (0, 2)},
        {"kernel_size": 3, "padding": (2, 1)},
    ],
    ids=str,
)
def test_any_window_and_size(compiler, window, size):
    agrees(compiler, Chain(33, (4, 10), window), 1, 3, *size)


@needs_wide_vectors
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_and_batches(compiler, threads, batch):
    threaded = Compiler(host_target(threads), compiler.folder)
    plan = agrees(threaded, Chain(widths=(7, 9)), batch, 3, 14, 16)
    assert NarrowConv in kernels(plan)


@needs_wide_vectors
def test_few_channels_that_others_read_are_in_blocks(compiler):
    plan = agrees(compiler, Residual(), 1, 3, 16, 16)
    assert kernels(plan) == [NarrowConv, Conv] or kernels(plan) == [NarrowConv, NarrowConv]
    assert not any("few" in call.shape.layout for call in plan.calls)


@pytest.mark.parametrize(("size", "stride"), [((16, 8), 1), ((16, 18), 1), ((3, 32), 1), ((32, 32), 2)], ids=str)
def test_images_that_fill_no_vectors_are_left_to_blocks_of_channels(size, stride):
    module = nn.Sequential(nn.Conv2d(3, 20, 1), nn.Conv2d(20, 4, 3, stride, 1), nn.Conv2d(4, 20, 1)).eval()
    plan = trace(module, torch.zeros(1, 3, *size), WIDE).plan(module)
    assert set(kernels(plan)) == {Conv}
    assert not any("few" in call.shape.layout for call in plan.calls)


def test_the_plan_is_a_function_of_the_layers_channels():
    widths = list(itertools.product((3, 12, 13, 20), repeat=2))

    def plan_at(row):
        module = Chain(widths=tuple(row)).eval()
        return trace(module, torch.zeros(1, 3, 16, 16), WIDE).plan(module)

    shapes = ShapeArithmetic.learn(lambda row: [call.shape for call in plan_at(row).calls], (20, 20))
    arithmetic = PlanArithmetic.learn(plan_at, shapes, WIDE)
    for row in widths:
        assert [call.usage for call in arithmetic(row).calls] == [call.usage for call in plan_at(row).calls]
        assert arithmetic(row).arena == plan_at(row).arena


def test_planes_take_no_more_memory_than_their_channels():
    module = Chain(widths=(5, 16)).eval()
    plan = trace(module, torch.zeros(1, 3, 16, 16), WIDE).plan(module)
    (written,) = {place.storage for place in plan.calls[1].outputs}
    assert plan.storages[written] == 5 * 16 * 16
    assert np.prod([value.shape for value in plan.inputs]) == 3 * 16 * 16
