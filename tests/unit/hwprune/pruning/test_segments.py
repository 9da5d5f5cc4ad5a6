"""Networks taken apart at the places where one tensor connects all."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hwprune.errors import ConfigError
from hwprune.networks import build
from hwprune.pruning.groups import build_groups
from hwprune.pruning.plan import PruningPlan
from hwprune.pruning.segments import Segments, groups_within
from hwprune.pruning.structured import Slicer

NETWORKS = {
    "resnet": ({"name": "resnet_cifar", "depth": 20}, 32),
    "projection": ({"name": "resnet_cifar", "depth": 8, "shortcut": "projection"}, 32),
    "vgg": ({"name": "vgg_cifar", "depth": 14}, 32),
}


@pytest.fixture(scope="module", params=NETWORKS)
def case(request):
    spec, size = NETWORKS[request.param]
    torch.manual_seed(0)
    module = build(spec, 10, 3).eval()
    x = torch.randn(2, 3, size, size)
    return request.param, module, Segments(module, x), x


def test_parts_in_a_row_are_the_network(case):
    _, module, segments, x = case
    with torch.no_grad():
        found = x
        places = segments.places
        for start, end in itertools.pairwise(places):
            found = segments.part(start, end)(found)
            assert found.shape[1:] == end.shape[1:]
        assert torch.equal(found, module(x))


def test_stages_are_those_of_the_papers(case):
    name, module, segments, x = case
    groups = build_groups(module, x)
    expected = {"resnet": [3, 3, 3], "projection": [1, 1, 1], "vgg": [2, 2, 3, 3, 3]}
    assert [len(stage) for stage in segments.stages(groups)] == expected[name]


def test_multiply_adds_are_what_torch_counts(case):
    _, module, segments, x = case
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    assert segments.macs(module) * len(x) == counter.get_total_flops() // 2
    middle = segments.places[len(segments.places) // 2]
    assert segments.macs(module, end=middle) + segments.macs(module, middle) == segments.macs(module)


def test_span_holds_all_that_reads_or_writes_the_channels_and_ends_at_their_consumer():
    module = build({"name": "vgg_cifar", "depth": 14}, 10, 3).eval()
    x = torch.zeros(1, 3, 32, 32)
    segments, groups = Segments(module, x), build_groups(module, x)
    start, end = segments.span([groups[0], groups[1]])
    assert start.index == 0
    assert segments.calls("features.7") == (end.index,)  # the third convolution, before its BatchNorm


def test_part_can_be_cut_as_the_whole_network_is(case):
    _, module, segments, x = case
    groups = build_groups(module, x)
    plan = PruningPlan(tuple(tuple(range(0, group.size, 2)) for group in groups))
    whole = Slicer(module, groups).cut(plan)
    start, end = segments.span([groups[1], groups[2]])
    part = segments.part(start, end)
    cut = Slicer(part, groups_within(part, groups)).cut(plan)
    with torch.no_grad():
        given = segments.part(segments.places[0], start, whole)(x)
        assert torch.equal(cut(given), segments.part(segments.places[0], end, whole)(x))


def test_network_that_branches_on_values_cannot_be_taken_apart():
    class Branching(nn.Module):
        def forward(self, x):
            return F.relu(x) if x.sum() > 0 else x

    with pytest.raises(ConfigError, match="cannot be taken apart"):
        Segments(Branching(), torch.zeros(1, 3, 8, 8))
