import re

import pytest
import torch
from compiled_toys import ResNet, settled
from torch import nn

from hwprune.compilation.graph import trace
from hwprune.compilation.targets import CpuTarget
from hwprune.errors import CompileError, TraceError

X = torch.zeros(1, 3, 32, 32)
NEON = CpuTarget.from_dict({"mcpu": "cortex-a72", "mtriple": "aarch64-linux-gnu"})


def test_shapes_are_those_of_the_fused_layers():
    shapes = trace(ResNet(), X, NEON).shapes(ResNet(inner=(7, 30, 64)))
    ops = [shape.op for shape in shapes]
    assert ops == ["conv2d"] * 3 + ["conv2d", "pad_shortcut", "conv2d"] * 2 + ["global_pool", "dense", "unpack"]
    first, second, third = shapes[:3]
    assert (first.in_channels, first.out_channels, first.layout) == (3, 16, "nchw-nchw4c")
    assert (second.in_channels, second.out_channels, second.epilogue) == (16, 7, "relu")
    assert (third.in_channels, third.out_channels, third.epilogue) == (7, 16, "add+relu")
    assert (third.height, third.kernel, third.padding, third.layout) == (32, (3, 3), (1, 1), "nchw4c")
    strided = shapes[3]
    assert (strided.stride, strided.height, strided.out_channels) == ((2, 2), 32, 30)


def test_memory_of_one_convolution_by_hand():
    module = nn.Conv2d(3, 5, 3, padding=1)
    memory = trace(module, torch.zeros(1, 3, 6, 6), NEON).memory(module)
    output, padded = 2 * 4 * 36 * 4, 3 * 8 * 8 * 4
    weights, bias = 8 * 3 * 9 * 4, 8 * 4
    assert memory.weights_bytes == -(-weights // 64) * 64 + -(-bias // 64) * 64
    assert memory.arena_bytes == output + padded
    assert memory.live_bytes == output + padded


def test_a_graph_can_be_planned_for_another_cpu(compiler):
    graph = trace(ResNet(), X, NEON)
    layouts = {shape.layout for shape in graph.for_target(compiler.target).shapes(ResNet())[1:]}
    assert compiler.target.layout in layouts
    assert {digits for layout in layouts for digits in re.findall(r"\d+", layout)} == {str(compiler.target.lanes)}
    module = settled(ResNet())
    assert compiler.network(graph, module).target == compiler.target.name


def test_tracing_leaves_the_module_alone():
    module = ResNet().train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    trace(module, X, NEON)
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_a_network_with_control_flow_cannot_be_traced():
    class Choice(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(TraceError, match="Choice cannot be traced"):
        trace(Choice(), X, NEON)


def test_outputs_must_be_float32_tensors():
    class Best(nn.Module):
        def forward(self, x):
            return x.flatten(1).argmax(1)

    with pytest.raises(TraceError, match="no float32 tensor"):
        trace(Best(), X, NEON)


def test_widths_that_do_not_fit_together_are_named():
    graph = trace(ResNet(), X, NEON)
    module = ResNet()
    module.fc = nn.Linear(50, 10)
    with pytest.raises(CompileError, match="layer 'fc' gets 64 channels where it needs 50"):
        graph.shapes(module)


def test_a_residual_of_another_width_is_named():
    graph = trace(ResNet(), X, NEON)
    module = ResNet()
    module.layers[1].shortcut.back = 3
    with pytest.raises(CompileError, match=r"layer 'layers.1.conv2' gets 27 channels where it needs 32"):
        graph.shapes(module)


def test_a_module_with_other_names_is_refused():
    graph = trace(ResNet(), X, NEON)
    with pytest.raises(CompileError, match=r"no parameter 'conv1.weight'"):
        graph.shapes(nn.Linear(3, 3))
