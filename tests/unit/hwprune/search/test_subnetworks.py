"""Sub-networks and what they are judged by."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from hwprune.networks import build
from hwprune.pruning.groups import build_groups
from hwprune.pruning.segments import Segments, groups_within
from hwprune.pruning.structured import Slicer
from hwprune.search.subnetworks import PartJudge, divide


def conv(inside, outside):
    return [nn.Conv2d(inside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    layers = [*conv(3, 8), *conv(8, 8), nn.MaxPool2d(2), *conv(8, 12), *conv(12, 12), nn.AdaptiveAvgPool2d(1)]
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(12, 10)).eval()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            nn.init.uniform_(layer.bias, -0.2, 0.2)
    x = torch.randn(16, 3, 16, 16)
    return module, x, Segments(module, x[:1]), build_groups(module, x[:1])


def judge_of(network, number):
    module, x, segments, groups = network
    parts = divide(segments, groups)
    part = parts[number]
    dense = segments.part(part.start, part.end)
    given = segments.part(segments.places[0], part.start)(x).detach()
    tail = None if number else segments.part(part.end, segments.places[-1])
    targets = torch.arange(16) % 10
    behind = segments.macs(module, part.end)
    return PartJudge(
        dense,
        groups_within(dense, groups),
        part.numbers,
        part.leaving,
        tail,
        [(given, targets)],
        [given],
        None,
        segments.pixels(part.start, part.end),
        behind,
        segments.macs(module) * 16,
    )


def test_plain_network_is_divided_at_its_poolings(network):
    _, _, segments, groups = network
    first, second = divide(segments, groups)
    assert (first.numbers, second.numbers) == ((0, 1), (2, 3))
    assert (first.leaving, second.leaving) == ({1}, set())
    assert first.end == second.start
    assert first.end.shape[2:] == (8, 8)  # behind the pooling


@pytest.mark.parametrize(("depth", "bits"), [(56, (144, 288, 576)), (110, (288, 576, 1152))])
def test_residual_network_is_divided_into_its_stages(depth, bits):
    module = build({"name": "resnet_cifar", "depth": depth}, 10, 3).eval()
    x = torch.zeros(1, 3, 32, 32)
    segments, groups = Segments(module, x), build_groups(module, x)
    parts = divide(segments, groups)
    assert tuple(int(groups.sizes[list(part.numbers)].sum()) for part in parts) == bits
    shares = np.diff([segments.macs(module, end=place) for place in (parts[0].start, *(p.end for p in parts))])
    assert np.abs(shares / shares.sum() - 1 / 3).max() < 0.02
    assert [part.end.index for part in divide(segments, groups, "equal_macs")][-1] == parts[-1].end.index


def test_residual_network_is_divided_into_as_many_parts_as_are_wanted():
    module = build({"name": "resnet_cifar", "depth": 20}, 10, 3).eval()
    x = torch.zeros(1, 3, 32, 32)
    segments, groups = Segments(module, x), build_groups(module, x)
    everything = list(range(len(groups)))
    for wanted, numbers in ((2, (4, 5)), (9, (1,) * 9), (100, (1,) * 9)):  # no part is smaller than a block
        parts = divide(segments, groups, "equal_macs", wanted)
        assert tuple(len(part.numbers) for part in parts) == numbers
        assert [number for part in parts for number in part.numbers] == everything
        assert parts[-1].end == segments.places[-1]


def test_channels_that_leave_a_sub_network_are_zero_for_the_next_one(network):
    module, x, _, groups = network
    judge = judge_of(network, 0)
    units = ((0, 2, 5), (1, 2, 3, 7))
    masked = Slicer(module, groups).masked(judge.plan(units))
    with torch.no_grad():
        assert torch.allclose(judge.detector(judge.raw(units)(x)), masked(x), atol=1e-5)
        features = judge.raw(units)(x)
    assert features.shape[1] == 8
    assert features[:, [0, 4, 5, 6]].abs().max() == 0


def test_sub_network_is_judged_by_the_network_around_it(network):
    module, x, _, groups = network
    for number, units in enumerate([((0, 1), (2, 3)), ((4, 5, 6), (0, 1, 2, 3))]):
        judge = judge_of(network, number)
        with torch.no_grad():
            answers = Slicer(module, groups).masked(judge.plan(units))(x).argmax(1)
        wrong = int((answers != torch.arange(16) % 10).sum()) / 16
        assert judge.error(judge.raw(units)) == wrong


def test_multiply_adds_of_the_unpruned_sub_networks_are_those_of_the_network(network):
    judges = [judge_of(network, number) for number in (0, 1)]
    # Statistics are taken on as many images as errors, and the tail behind the first one counts.
    inside = [judge.macs(judge.part) for judge in judges]
    assert judges[0].compute(judges[0].part).total == pytest.approx((2 * inside[0] + inside[1]) / sum(inside))
    assert judges[1].compute(judges[1].part, 0.0).total == pytest.approx(2 * inside[1] / sum(inside))


def test_judge_that_another_process_reads_says_the_same(network):
    judge = judge_of(network, 0)
    units = ((0, 1, 6), (2, 3))
    again = pickle.loads(pickle.dumps(judge))
    assert again.error(again.candidate(units)) == judge.error(judge.candidate(units))
