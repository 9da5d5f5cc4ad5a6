"""Resident libraries: one for every width of a network."""

import ctypes
import dataclasses
import json

import numpy as np
import pytest
import torch
from compiled_toys import ResNet, settled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from hwprune.compilation import link
from hwprune.compilation.graph import trace
from hwprune.compilation.objects import object_files
from hwprune.compilation.resident import Family, NotResidentError, neutral

INNER, STAGES = (16, 32, 64), (16, 32, 64)
IMAGE = torch.zeros(1, 3, 16, 16)
widths = st.tuples(*(st.integers(1, size) for size in INNER))


@pytest.fixture(scope="module")
def graph():
    return trace(ResNet(), IMAGE)


@pytest.fixture(scope="module")
def resident(compiler, graph):
    some = range(4, 64, 4)  # few channels, and any number of blocks
    return compiler.resident(graph, ResNet(), [pruned([min(size, width) for size in INNER]) for width in some])


@pytest.fixture(scope="module")
def library(resident):
    return ctypes.CDLL(str(resident.artifact.path))


def pruned(inner):
    return ResNet(inner=tuple(inner))


def run(library, x, shape, numbers=()):
    x, out = np.ascontiguousarray(x), np.zeros(shape, np.float32)
    pointers = ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(out.ctypes.data)
    if not numbers:
        assert library.network_run(*pointers) == 0
    else:
        assert library.resident_run((ctypes.c_int32 * len(numbers))(*numbers), *pointers) == 0
    return out


def linked_with(compiler, plan, blob, folder):
    """The network linked alone, with the first of these weights."""
    (folder / "weights.bin").write_bytes(blob[: plan.weights_bytes])
    usages = [call.usage for call in plan.calls]
    kernels = link.linked_kernels([link.reference_usage(compiler.target), *usages])
    text = link.network_source(plan, "{}", folder / "weights.bin", compiler.target)
    path = folder / "alone.so"
    link.link(text, object_files(kernels, compiler.target, compiler.folder), path, compiler.target)
    return ctypes.CDLL(str(path))


def test_at_dense_widths_it_computes_what_torch_computes_with_its_weights(resident, library, graph):
    x = torch.randn(IMAGE.shape)
    with torch.no_grad():
        expected = resident.module(x).numpy()
    assert np.ptp(expected) > 0
    numbers = resident.family.numbers(graph.plan(resident.module))
    for given_numbers in ((), numbers):
        found = run(library, x.numpy(), (1, 10), given_numbers)
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_trained_weights_in_its_place_give_what_torch_gives(compiler, tmp_path):
    batch = torch.randn(2, 3, 16, 16)
    dense = settled(ResNet(projection=True))
    plan = trace(dense, batch).plan(dense)
    family = Family.of(plan, [])
    (tmp_path / "weights.bin").write_bytes(link.weights_blob(plan))
    kernels = link.linked_kernels([link.reference_usage(compiler.target), *family.usages])
    text = family.source("{}", tmp_path / "weights.bin", compiler.target)
    path = tmp_path / "resident.so"
    link.link(text, object_files(kernels, compiler.target, compiler.folder), path, compiler.target)
    with torch.no_grad():
        expected = dense(batch).numpy()
    found = run(ctypes.CDLL(str(path)), batch.numpy(), (2, 10), family.numbers(plan))
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@given(inner=widths)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_at_any_widths_it_computes_what_a_library_alone_computes(
    compiler, resident, library, graph, tmp_path_factory, inner
):
    plan = graph.plan(pruned(inner))
    blob = link.weights_blob(resident.family.dense)
    x = np.random.default_rng(0).standard_normal((1, 3, 16, 16), np.float32)
    alone = linked_with(compiler, plan, blob, tmp_path_factory.mktemp("alone"))
    expected = run(alone, x, (1, 10))
    found = run(library, x, (1, 10), resident.family.numbers(plan))
    assert np.array_equal(found, expected)
    assert np.isfinite(found).all()
    assert np.abs(found).max() > 1e-3


def test_widths_in_turns_do_not_disturb_each_other(resident, library, graph):
    x = np.ones((1, 3, 16, 16), np.float32)
    numbers = [resident.family.numbers(graph.plan(pruned(inner))) for inner in ((16, 32, 64), (3, 5, 7))]
    first = [run(library, x, (1, 10), each) for each in numbers]
    again = [run(library, x, (1, 10), each) for each in reversed(numbers)]
    assert not np.array_equal(*first)
    assert np.array_equal(first, again[::-1])


def test_the_library_says_what_it_is(resident, library):
    library.library_description.restype = ctypes.c_char_p
    description = json.loads(library.library_description())
    assert description == resident.artifact.description
    assert (description["kind"], resident.artifact.kind) == ("resident", "resident")
    assert description["numbers"] == len(resident.family.numbers(resident.family.dense))


def test_a_kernel_that_was_not_compiled_in_is_missed(graph):
    family = Family.of(graph.plan(ResNet()), [])
    plan = graph.plan(pruned((1, 1, 1)))
    plan.calls[3].usage = dataclasses.replace(plan.calls[3].usage, kernel=plan.calls[0].usage.kernel)
    with pytest.raises(NotResidentError, match="lacks a kernel for"):
        family.numbers(plan)


def test_kernels_of_the_examples_are_compiled_in(graph):
    dense, example = graph.plan(ResNet()), graph.plan(pruned((1, 1, 1)))
    example.calls[3].usage = dataclasses.replace(example.calls[3].usage, kernel=example.calls[0].usage.kernel)
    family = Family.of(dense, [example])
    step = sum(family.slots[:3])
    assert [family.numbers(plan)[step] for plan in (dense, example)] == [0, 1]
    assert example.calls[3].usage in family.usages


def test_a_wider_network_is_refused(graph):
    family = Family.of(graph.plan(pruned((8, 8, 8))), [])
    with pytest.raises(NotResidentError, match="more memory"):
        family.numbers(graph.plan(ResNet()))


def test_a_network_with_other_calls_or_outputs_is_refused(graph):
    family = Family.of(graph.plan(ResNet()), [])
    for other, image in ((ResNet(blocks=2), IMAGE), (ResNet(), torch.zeros(1, 3, 8, 8))):
        with pytest.raises(NotResidentError, match="other calls, inputs or outputs"):
            family.numbers(trace(other, image).plan(other))


class Cosine(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return torch.cos(self.conv(x)).mean((2, 3))


def test_operators_without_a_kernel_of_ours_keep_a_network_from_being_resident(compiler):
    network = Cosine()
    with pytest.raises(NotResidentError, match="fallback:cos"):
        compiler.resident(trace(network, IMAGE), network, [])


def test_the_first_number_chooses_among_known_kernels(resident, library):
    numbers = [*resident.family.numbers(resident.family.dense)]
    numbers[0] = 99
    x, out = np.zeros((1, 3, 16, 16), np.float32), np.zeros((1, 10), np.float32)
    array = (ctypes.c_int32 * len(numbers))(*numbers)
    assert library.resident_run(array, ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(out.ctypes.data)) == 1


def test_neutral_weights_neither_grow_nor_fade_in_a_deep_network():
    layers = [nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU()) for _ in range(60)]
    network = nn.Sequential(*layers)
    for layer in network:
        nn.init.zeros_(layer[0].weight)
        nn.init.constant_(layer[1].running_var, 1e-12)
    with torch.no_grad():
        values = neutral(network)(torch.ones(1, 16, 8, 8))
    assert 1e-4 < values.abs().max() < 1
    assert torch.equal(values, neutral(network)(torch.ones(1, 16, 8, 8)))
    assert network[0][0].weight.abs().max() == 0
