"""Libraries that time the calls of a network."""

import ctypes
import time

import numpy as np
import pytest
import torch
from compiled_toys import ResNet

from hwprune.compilation import timeline as timelines
from hwprune.compilation.graph import trace

INNER = (16, 32, 64)
IMAGE = torch.zeros(1, 3, 16, 16)


@pytest.fixture(scope="module")
def graph():
    return trace(ResNet(), IMAGE)


@pytest.fixture(scope="module")
def timeline(compiler, graph):
    narrow = [ResNet(inner=tuple(min(size, width) for size in INNER)) for width in range(8, 64, 8)]
    return compiler.timeline(compiler.resident(graph, ResNet(), narrow))


@pytest.fixture(scope="module")
def library(timeline):
    return ctypes.CDLL(str(timeline.artifact.path))


def run(library, timeline, request):
    """Status and output of one call."""
    padded = request.ljust(timeline.artifact.description["input_bytes"], b"\0")
    output = np.zeros(timeline.artifact.description["output_bytes"] // 4, np.float32)
    status = library.network_run(padded, ctypes.c_void_p(output.ctypes.data))
    return status, output.tobytes()


def numbers(compiler, graph, timeline, inner):
    return timeline.family.numbers(graph.for_target(compiler.target).plan(ResNet(inner=inner)))


def test_every_call_of_every_run_gets_a_time(compiler, graph, timeline, library):
    status, output = run(library, timeline, timeline.request(numbers(compiler, graph, timeline, INNER), 5))
    assert status == 0
    times_ms, readings_ms = timeline.times_ms(output, 5)
    assert times_ms.shape == (5, len(graph.shapes(ResNet())))
    assert (times_ms >= 0).all()
    assert (times_ms.sum(axis=1) > 0).all()
    assert readings_ms.shape == (5, 2)
    assert (readings_ms > 0).all()
    np.testing.assert_array_equal(readings_ms[1:, 0], readings_ms[:-1, 1])


def test_runs_wait_for_a_reference_that_is_fast_enough_but_not_for_ever(compiler, graph, timeline, library):
    dense = numbers(compiler, graph, timeline, INNER)
    took = {}
    for wait_ms in (0.0, 50.0):
        started = time.perf_counter()
        status, output = run(library, timeline, timeline.request(dense, 3, slowest_ms=1e-6, wait_ms=wait_ms))
        took[wait_ms] = time.perf_counter() - started
        assert status == 0
        assert (timeline.times_ms(output, 3)[0].sum(axis=1) > 0).all()
    assert took[50.0] >= 0.05


def test_a_narrow_layer_takes_less_time_and_the_others_stay(compiler, graph, timeline, library):
    fastest = {}
    for inner in (INNER, (16, 32, 4)):
        _, output = run(library, timeline, timeline.request(numbers(compiler, graph, timeline, inner), 32))
        fastest[inner] = timeline.times_ms(output, 32)[0].min(axis=0)
    narrowed = [number for number, shape in enumerate(graph.shapes(ResNet(inner=(16, 32, 4)))) if 4 in widths(shape)]
    assert narrowed
    wide, narrow = fastest[INNER], fastest[16, 32, 4]
    assert narrow[narrowed].sum() < 0.7 * wide[narrowed].sum()


def widths(shape):
    return shape.in_channels, shape.out_channels


def test_an_input_that_asks_for_nothing_does_nothing(timeline, library):
    noise = np.full(8, 0.5, np.float32).tobytes()  # what an agent fills inputs with when it loads a library
    status, output = run(library, timeline, noise)
    assert status == 0
    assert not any(output)


@pytest.mark.parametrize("runs", [0, -1, timelines.RUNS_MAX + 1])
def test_a_count_of_runs_that_has_no_room_is_refused(compiler, graph, timeline, library, runs):
    status, output = run(library, timeline, timeline.request(numbers(compiler, graph, timeline, INNER), runs))
    assert status == 1
    assert not any(output)


def test_to_an_agent_it_is_a_network(timeline):
    description = timeline.artifact.description
    assert description["kind"] == "network"
    assert description["input_bytes"] == 4 * description["inputs"][0][1]
    assert description["output_bytes"] == 4 * timelines.RUNS_MAX * (2 + timeline.calls)
