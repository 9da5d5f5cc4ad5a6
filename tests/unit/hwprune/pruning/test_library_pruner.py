import pytest
import torch
from torch import nn

from hwprune import networks
from hwprune.pruning.groups import build_groups
from hwprune.pruning.importance import scores
from hwprune.pruning.library_pruner import library_plan
from hwprune.pruning.plan import PruningPlan
from hwprune.pruning.structured import Slicer

EXAMPLE = torch.zeros(1, 3, 16, 16)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    module: nn.Module = networks.build({"name": "resnet_cifar", "depth": 8}, 10, 3)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    return module.eval()


@pytest.mark.parametrize("importance", ["group_l2", "group_l1", "lamp", "bn_scale"])
def test_plan_removes_the_share_that_is_asked_for(resnet: nn.Module, importance: str) -> None:
    groups = build_groups(resnet, EXAMPLE)
    before = {name: value.clone() for name, value in resnet.state_dict().items()}
    plan = library_plan(resnet, groups, EXAMPLE, 0.4, importance=importance)  # type: ignore[arg-type]
    plan.check(groups)
    assert sum(plan.widths) / groups.sizes.sum() == pytest.approx(0.6, abs=0.1)
    assert all(torch.equal(value, before[name]) for name, value in resnet.state_dict().items())
    assert Slicer(resnet, groups).cut(plan)(EXAMPLE).shape == (1, 10)


def test_channels_of_small_norm_go_first(resnet: nn.Module) -> None:
    groups = build_groups(resnet, EXAMPLE)
    plan = library_plan(resnet, groups, EXAMPLE, 0.3)
    for kept, group_scores in zip(plan.kept, scores("l2_norm", resnet, groups), strict=True):
        if len(kept) < len(group_scores):
            gone = [score for unit, score in enumerate(group_scores) if unit not in kept]
            # The library adds the consumer's weights to a channel's own, so the order is about the same.
            assert sum(gone) / len(gone) < group_scores[list(kept)].mean()


def test_nothing_is_removed_at_ratio_zero_and_no_group_vanishes_at_the_largest(resnet: nn.Module) -> None:
    groups = build_groups(resnet, EXAMPLE)
    assert library_plan(resnet, groups, EXAMPLE, 0.0) == PruningPlan.dense(groups)
    assert min(library_plan(resnet, groups, EXAMPLE, 0.9).widths) >= 1
