from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from hwprune.pruning.groups import build_groups
from hwprune.pruning.plan import PruningPlan
from hwprune.pruning.soundness import unsound_groups
from hwprune.pruning.structured import Slicer

IMAGE = torch.zeros(1, 3, 8, 8)


def chain():
    torch.manual_seed(0)
    layers = []
    for inputs, outputs in ((3, 8), (8, 6), (6, 5), (5, 7), (7, 2)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-2])


def test_right_groups_pass():
    module = chain()
    assert unsound_groups(module, IMAGE, build_groups(module, IMAGE)) == {}


@pytest.mark.parametrize("wrong", range(4))
def test_a_group_that_points_at_wrong_channels_is_found_among_right_ones(wrong):
    module = chain()
    groups = list(build_groups(module, IMAGE))
    *others, consumer = groups[wrong].members
    shifted = replace(consumer, indices=np.roll(consumer.indices, 1, axis=0))
    groups[wrong] = replace(groups[wrong], members=(*others, shifted))
    assert list(unsound_groups(module, IMAGE, groups)) == [groups[wrong].name]


def test_a_group_that_misses_a_layer_is_found_among_right_ones():
    module = chain()
    groups = list(build_groups(module, IMAGE))
    groups[2] = replace(groups[2], members=groups[2].members[:-1])
    reasons = unsound_groups(module, IMAGE, groups)
    assert list(reasons) == [groups[2].name]
    assert "fails without some of its channels" in reasons[groups[2].name]


def test_branches_that_start_at_zero_hide_nothing():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(3, 6, 1)
            self.other = nn.Conv2d(6, 3, 1)
            nn.init.zeros_(self.other.weight)
            self.head = nn.Conv2d(3, 1, 1)

        def forward(self, x):
            return self.head(x + self.other(self.one(x).softmax(1)))

    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1), Block())
    groups = build_groups(module, IMAGE, prune_residual=True)
    assert "2.one" not in [group.name for group in groups]


def test_shuffled_channels_stay_whole_and_the_rest_is_pruned():
    torch.manual_seed(0)
    module = torchvision.models.shufflenet_v2_x0_5(weights=None).eval()
    groups = build_groups(module, torch.zeros(1, 3, 64, 64))
    slicer = Slicer(module, groups)
    assert len(groups) >= 12
    assert len(groups.protected) >= 4
    plan = PruningPlan(tuple(tuple(range(0, group.size, 2)) for group in groups))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        cut, masked = slicer.cut(plan)(x), slicer.masked(plan)(x)
    assert (cut - masked).abs().max() <= 1e-5 * masked.abs().max()
