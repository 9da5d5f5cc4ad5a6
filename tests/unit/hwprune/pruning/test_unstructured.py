"""Masks of single weights, and cuts pasted back."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from hwprune.networks import build
from hwprune.pruning.groups import build_groups
from hwprune.pruning.plan import PruningPlan
from hwprune.pruning.structured import Slicer
from hwprune.pruning.unstructured import WeightLayout


@pytest.fixture(scope="module")
def slicer():
    torch.manual_seed(0)
    module = build({"name": "resnet_cifar", "depth": 8, "widths": [4, 8, 8]}, 10, 3).eval()
    return Slicer(module, build_groups(module, torch.zeros(1, 3, 16, 16)))


@pytest.fixture
def bits(slicer):
    return np.random.default_rng(0).random(slicer.weights.size) < 0.3


def some_units(groups):
    return tuple(tuple(range(0, group.size, 2)) for group in groups)


def test_maskable_weights_are_those_of_convolutions_and_linear_layers():
    sizes = {depth: WeightLayout.of(build({"name": "resnet_cifar", "depth": depth}, 10, 3)).size for depth in (56, 110)}
    assert sizes == {56: 848_944, 110: 1_719_856}


def test_layers_that_share_their_weights_are_masked_once():
    layer = nn.Linear(3, 3)
    assert WeightLayout.of(nn.Sequential(layer, nn.ReLU(), layer)).size == 9


def test_mask_survives_packing(slicer, bits):
    layout = slicer.weights
    assert np.array_equal(layout.unpack(layout.pack(bits)), bits)
    assert len(layout.pack(bits)) == -(-layout.size // 8)


def test_masked_cut_has_zeros_exactly_where_the_mask_says(slicer, bits):
    plan = PruningPlan(PruningPlan.dense(slicer.groups).kept, slicer.weights.pack(bits))
    cut = slicer.cut(plan)
    assert np.array_equal(slicer.weights.row(cut), slicer.weights.row(slicer.module) * bits)
    dense = sum(parameter.numel() for parameter in slicer.module.parameters())
    assert slicer.parameter_count(plan) == dense - (~bits).sum()


def test_mask_of_a_cut_network_is_the_mask_of_what_is_left(slicer, bits):
    kept = some_units(slicer.groups)
    masked = slicer.cut(PruningPlan(PruningPlan.dense(slicer.groups).kept, slicer.weights.pack(bits)))
    both = PruningPlan(kept, slicer.weights.pack(bits))
    first_masked = Slicer(masked, slicer.groups).cut(PruningPlan(kept))
    pairs = zip(slicer.cut(both).parameters(), first_masked.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    nonzero = sum(int(mask.sum()) for mask in slicer.weight_masks(both).values())
    maskable = sum(mask.size for mask in slicer.weight_masks(both).values())
    assert slicer.parameter_count(both) == slicer.parameter_count(PruningPlan(kept)) - (maskable - nonzero)


def test_pasting_reverses_cutting(slicer):
    plan = PruningPlan(some_units(slicer.groups))
    cut = slicer.cut(plan)
    with torch.no_grad():
        for parameter in cut.parameters():
            parameter.add_(1)
    pasted = slicer.paste(cut, plan)
    again = Slicer(pasted, slicer.groups).cut(plan)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), cut.parameters(), strict=True))
    changed = sum(int((a != b).sum()) for a, b in zip(pasted.parameters(), slicer.module.parameters(), strict=True))
    assert changed == slicer.parameter_count(plan)


def test_plans_of_masks_and_trained_weights_survive_json_and_have_keys_of_their_own(slicer, bits):
    kept = PruningPlan.dense(slicer.groups).kept
    mask = slicer.weights.pack(bits)
    plans = [PruningPlan(kept), PruningPlan(kept, mask), PruningPlan(kept, mask, "w"), PruningPlan(kept, None, "w")]
    assert [PruningPlan.from_dict(json.loads(json.dumps(plan.as_dict()))) for plan in plans] == plans
    assert len({plan.key for plan in plans}) == 4
