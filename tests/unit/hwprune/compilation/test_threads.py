"""Several threads compute what one computes, always the same, and leave nothing behind."""

import ctypes
import functools
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compiled_toys import ResNet, Segmenter, settled
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hwprune.compilation import link
from hwprune.compilation.compiler import Compiler
from hwprune.compilation.graph import trace
from hwprune.compilation.kernels import specify
from hwprune.compilation.kernels.kernel import even_spans
from hwprune.compilation.objects import object_files
from hwprune.compilation.targets import host_target
from hwprune.compilation.verify import verify
from latency_models.shapes import LayerShape

THREADS = (2, 3)


@pytest.fixture(params=THREADS, ids=lambda count: f"{count} threads")
def threaded(request, compiler):
    return Compiler(host_target(request.param), compiler.folder)


class Layers(nn.Module):
    """A convolution to leave the input's layout, then a function."""

    def __init__(self, function, channels):
        super().__init__()
        self.enter = nn.Conv2d(3, channels, 1)
        self.function = function

    def forward(self, x):
        return self.function(self.enter(x))


class Joined(nn.Module):
    """A concatenation whose parts do not end with blocks, and a sum."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.sum = nn.Conv2d(3, 19, 3, 1, 1), nn.Conv2d(3, 40, 1), nn.Conv2d(59, 59, 3, 1, 1)

    def forward(self, x):
        both = torch.cat([F.relu(self.left(x)), self.right(x)], 1)
        return F.relu(self.sum(both) + both)


def agrees(compiler, module, *shape):
    module, x = settled(module), torch.randn(shape)
    artifact = compiler.network(trace(module, x), module)
    verify(artifact, module, x)
    return artifact


def conv(inputs, outputs, size, **fields):
    shape = LayerShape("conv2d", inputs, outputs, *size, (3, 3), (1, 1), (1, 1), layout=host_target().layout)
    return replace(shape, **fields)


@pytest.mark.parametrize(
    ("size", "width", "window"),
    [
        ((13, 11), 33, {"kernel_size": 3, "padding": 1}),  # more even by rows
        ((13, 11), 100, {"kernel_size": 3, "padding": 1}),
        ((3, 3), 100, {"kernel_size": 3, "padding": 1}),  # tiles of several rows: by blocks
        ((2, 20), 5, {"kernel_size": 3, "padding": 1}),  # one block, fewer rows than three threads
        ((12, 12), 33, {"kernel_size": 1}),
        ((13, 11), 100, {"kernel_size": 1}),
        ((13, 19), 33, {"kernel_size": 1}),
        ((13, 11), 33, {"kernel_size": 1, "stride": 2}),
        ((13, 11), 33, {"kernel_size": 3, "stride": 2, "padding": 1}),
        ((13, 11), 5, {"kernel_size": 3, "padding": 2, "dilation": 2}),
        ((13, 11), 33, {"kernel_size": (5, 1), "stride": (2, 1)}),
    ],
    ids=str,
)
def test_convolutions_of_several_threads_agree_with_torch(threaded, size, width, window):
    agrees(threaded, Layers(nn.Conv2d(width, width, **window), width), 1, 3, *size)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("outputs", [5, 33, 64, 200])
@pytest.mark.parametrize("size", [(13, 11), (32, 32), (3, 3)], ids=str)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)], ids=str)
def test_every_output_of_a_convolution_is_one_threads(threads, outputs, size, kernel):
    """Results of the shares, in float32 values, lie side by side and are the whole output."""
    target = host_target(threads)
    shape = conv(20, outputs, size, kernel=kernel, padding=(kernel[0] // 2,) * 2, epilogue="add")
    usage = specify(shape, target)
    covered = np.zeros(usage.outputs[0], int)
    pixels = size[0] * size[1]
    for share in usage.shares:
        _, blocks, *rows = share.numbers
        part = pixels * rows[1] // usage.numbers[3] if rows else pixels
        begin = share.offsets[1]
        assert share.offsets[4] == begin  # the residual is read where the sum is written
        for block in range(blocks):
            place = begin + block * pixels * target.lanes
            covered[place : place + part * target.lanes] += 1
    assert (covered == 1).all()


@given(st.integers(0, 500), st.integers(1, 64))
def test_spans_are_even_and_cover_everything(length, parts):
    spans = even_spans(length, parts)
    assert [place for first, size in spans for place in range(first, first + size)] == list(range(length))
    assert len(spans) == parts
    assert max(size for _, size in spans) - min(size for _, size in spans) <= 1


@pytest.mark.parametrize("threads", [1, 2])
def test_only_libraries_of_several_threads_need_threads(compiler, threads):
    artifact = agrees(Compiler(host_target(threads), compiler.folder), nn.Conv2d(3, 5, 3), 1, 3, 8, 8)
    assert (b"pthread_create" in artifact.path.read_bytes()) == (threads > 1)


@pytest.mark.parametrize(
    ("layer", "channels"),
    [
        (nn.Conv2d(40, 40, 3, 1, 1, groups=40), 40),
        (nn.Conv2d(5, 5, 5, 2, 2, groups=5), 5),
        (nn.Conv2d(48, 96, 3, 1, 1, groups=4), 48),
        (nn.ConvTranspose2d(33, 70, 3, 2, 1), 33),
        (nn.MaxPool2d(3, 2, 1), 40),
        (nn.AdaptiveAvgPool2d(1), 70),
        (nn.Upsample(scale_factor=2), 40),
        (nn.PReLU(40), 40),
        (nn.Sequential(nn.Hardswish(), nn.Flatten(), nn.Linear(20 * 9 * 7, 10)), 20),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(36, 500), nn.ReLU(), nn.Linear(500, 128)), 36),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_layers_of_several_threads_agree_with_torch(threaded, layer, channels):
    agrees(threaded, Layers(layer, channels), 1, 3, 9, 7)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("build", [functools.partial(ResNet, (7, 30, 65), (16, 33, 64)), Joined, Segmenter])
def test_networks_and_batches_of_several_threads_agree_with_torch(threaded, build, batch):
    agrees(threaded, build(), batch, 3, 16, 16)


def test_every_inference_gives_equal_bits(compiler, threaded):
    torch.manual_seed(3)
    module, x = settled(ResNet()), torch.randn(1, 3, 32, 32)
    graph = trace(module, x)
    libraries = [ctypes.CDLL(str(one.network(graph, module).path)) for one in (compiler, threaded)]
    expected, found = (infer(library, x.numpy()) for library in libraries)
    for _ in range(200):
        assert np.array_equal(infer(libraries[1], x.numpy()), found)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def infer(library, x, numbers=None):
    out = np.zeros(10, np.float32)
    pointers = ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(out.ctypes.data)
    assert (library.resident_run(numbers, *pointers) if numbers else library.network_run(*pointers)) == 0
    return out


def test_threads_begin_with_the_first_run_and_end_with_the_library(threaded):
    """In a process of its own: it is pinned, forks, and has to come to an end."""
    artifact = agrees(threaded, ResNet(), 1, 3, 16, 16)
    program = textwrap.dedent(
        """
        import _ctypes, ctypes, os, sys
        path, workers = sys.argv[1], int(sys.argv[2])
        def threads():
            return len(os.listdir("/proc/self/task"))
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
        x, out = (ctypes.c_float * 768)(), (ctypes.c_float * 10)()
        alone = threads()
        for _ in range(5):
            library = ctypes.CDLL(path)
            assert threads() == alone
            assert library.network_run(x, out) == 0
            assert threads() == alone + workers
            masks = {tuple(os.sched_getaffinity(int(task))) for task in os.listdir("/proc/self/task")}
            assert masks == {tuple(os.sched_getaffinity(0))}
            assert library.network_run(x, out) == 0
            child = os.fork()
            if not child:
                assert library.network_run(x, out) == 0
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            _ctypes.dlclose(library._handle)
            assert threads() == alone
        library = ctypes.CDLL(path)
        assert library.network_run(x, out) == 0
        """
    )
    command = [sys.executable, "-I", "-c", program, str(artifact.path), str(threaded.target.threads - 1)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_packs_run_every_share(threaded):
    target = threaded.target
    shapes = [conv(width, width, (8, 8)) for width in (3, 40, 64)]
    shapes += [replace(conv(33, 33, (8, 8)), op="depthwise"), conv(16, 16, (8, 8), batch=3)]
    shapes += [replace(conv(33, 300, (1, 1)), op="dense", kernel=(1, 1), padding=(0, 0))]
    pack = threaded.kernels(shapes)
    library = ctypes.CDLL(str(pack.artifact.path))
    for shape in shapes:
        index, numbers = pack.index[shape]
        assert len(numbers) == pack.artifact.description["kernels"][index]["numbers"]
        assert len(numbers) % target.threads == 0
        assert library.kernel_run(index, (ctypes.c_int32 * len(numbers))(*numbers)) == 0
    assert library.kernel_run(len(shapes), None) == 1


def test_a_resident_network_of_several_threads_computes_what_the_same_network_linked_alone_does(threaded, tmp_path):
    x = torch.randn(1, 3, 16, 16)
    graph = trace(ResNet(), x).for_target(threaded.target)
    examples = [ResNet(inner=(min(width, 16), min(width, 32), width)) for width in range(4, 64, 4)]
    resident = threaded.resident(graph, ResNet(), examples)
    verify(resident.artifact, resident.module, x)
    library = ctypes.CDLL(str(resident.artifact.path))
    blob = link.weights_blob(resident.family.dense)
    for inner in ((16, 32, 64), (3, 17, 40), (1, 1, 1)):
        plan = graph.plan(ResNet(inner=inner))
        (tmp_path / "weights.bin").write_bytes(blob[: plan.weights_bytes])
        text = link.network_source(plan, "{}", tmp_path / "weights.bin", threaded.target)
        kernels = link.linked_kernels([link.reference_usage(threaded.target), *(call.usage for call in plan.calls)])
        path = tmp_path / f"alone{inner[0]}.so"
        link.link(text, object_files(kernels, threaded.target, threaded.folder), path, threaded.target)
        alone = infer(ctypes.CDLL(str(path)), x.numpy())
        numbers = resident.family.numbers(plan)
        assert alone.any()
        assert np.array_equal(infer(library, x.numpy(), (ctypes.c_int32 * len(numbers))(*numbers)), alone)
