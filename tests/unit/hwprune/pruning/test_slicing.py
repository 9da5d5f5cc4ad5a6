import copy

import numpy as np
import pytest
import torch
import torch_pruning
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hwprune import networks
from hwprune.errors import ConfigError
from hwprune.pruning.groups import build_groups
from hwprune.pruning.plan import PruningPlan
from hwprune.pruning.structured import Slicer

SMALL_IMAGE = (2, 3, 32, 32)
IMAGE = (2, 3, 64, 64)

NETWORKS = {
    "resnet_cifar": (lambda: networks.build({"name": "resnet_cifar", "depth": 20}, 10, 3), SMALL_IMAGE),
    "resnet_cifar_projection": (
        lambda: networks.build({"name": "resnet_cifar", "depth": 20, "shortcut": "projection"}, 10, 3),
        SMALL_IMAGE,
    ),
    "vgg_cifar": (lambda: networks.build({"name": "vgg_cifar", "depth": 16}, 10, 3), SMALL_IMAGE),
    "resnet18": (lambda: torchvision.models.resnet18(weights=None), IMAGE),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(weights=None), IMAGE),
    "vgg16_bn": (lambda: torchvision.models.vgg16_bn(weights=None, init_weights=False), SMALL_IMAGE),
    "densenet121": (lambda: torchvision.models.densenet121(weights=None), IMAGE),
    "efficientnet_b0": (lambda: torchvision.models.efficientnet_b0(weights=None), IMAGE),
    "regnet_y_400mf": (lambda: torchvision.models.regnet_y_400mf(weights=None), IMAGE),
    "toy_decoder": (lambda: Decoder(), SMALL_IMAGE),
}


class Decoder(nn.Module):
    """A segmenter's shape, with every kind of layer that the networks above lack."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.InstanceNorm2d(6, affine=True), nn.PReLU(6))
        self.deep = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8, affine=False), nn.SiLU())
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.spread = nn.ConvTranspose2d(12, 12, 2, 2, groups=6)
        self.mix = nn.Linear(12, 5)
        self.head = nn.Conv2d(5, 3, 1)

    def forward(self, x):
        narrow = self.down(x)
        joined = torch.cat([self.up(self.deep(narrow)), narrow], 1)
        mixed = self.mix(self.spread(joined).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(torch.relu(mixed))


def shaken(build, seed=0):
    """A network without special values: a wrong slice of ones or zeros would show nothing."""
    torch.manual_seed(seed)
    module = build().eval()
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 1.5)
                if layer.affine:
                    layer.weight.uniform_(0.5, 1.5)
                    layer.bias.normal_(0, 0.1)
            elif isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None:
                layer.bias.normal_(0, 0.1)
    return module


@pytest.fixture(scope="module", params=NETWORKS)
def case(request):
    build, shape = NETWORKS[request.param]
    module = shaken(build)
    groups = build_groups(module, torch.zeros(1, *shape[1:]), prune_residual=True)
    torch.manual_seed(1)
    return module, Slicer(module, groups), torch.randn(shape)


def random_plan(groups, generator, only=None):
    kept = []
    for number, size in enumerate(groups.sizes):
        count = generator.integers(1, size) if only in (None, number) else size
        kept.append(tuple(sorted(generator.choice(size, count, replace=False).tolist())))
    return PruningPlan(tuple(kept))


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def macs(module, x):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    return counter.get_total_flops() // 2


def test_nothing_but_the_output_is_protected_when_streams_are_pruned(case):
    _, slicer, _ = case
    assert {entry.reason for entry in slicer.groups.protected} == {"an output of the network"}


def test_every_channel_belongs_to_one_unit(case):
    module, slicer, _ = case
    seen = {}
    for group in slicer.groups:
        for member in group.members:
            assert member.indices.shape[0] == group.size
            seen.setdefault((member.module, member.side), []).append(member.indices.ravel())
    for (name, side), owned in seen.items():
        channels = np.concatenate(owned)
        layer = module.get_submodule(name)
        assert len(set(channels.tolist())) == len(channels)
        if isinstance(layer, nn.Conv2d):
            # Where a layer loses channels at all, each of its channels can go, since only outputs are protected.
            assert len(channels) == (layer.in_channels if side == "in" else layer.out_channels)


def test_a_cut_network_answers_as_the_masked_one(case):
    _, slicer, x = case
    generator = np.random.default_rng(0)
    for _ in range(2):
        plan = random_plan(slicer.groups, generator)
        with torch.no_grad():
            cut, masked = slicer.cut(plan)(x), slicer.masked(plan)(x)
        assert (cut - masked).abs().max() <= 1e-5 * masked.abs().max()


def test_the_mask_zeroes_exactly_what_the_cut_removes(case):
    module, slicer, _ = case
    plan = random_plan(slicer.groups, np.random.default_rng(1))
    zeros = {
        which: sum(int((parameter == 0).sum()) for parameter in network.parameters())
        for which, network in (("masked", slicer.masked(plan)), ("dense", module))
    }
    removed = parameters(module) - parameters(slicer.cut(plan))
    assert removed - zeros["dense"] <= zeros["masked"] - zeros["dense"] <= removed


def test_parameters_are_counted_without_cutting(case):
    module, slicer, _ = case
    generator = np.random.default_rng(2)
    plans = [PruningPlan.dense(slicer.groups), *(random_plan(slicer.groups, generator) for _ in range(3))]
    expected = [parameters(slicer.cut(plan)) for plan in plans]
    assert slicer.parameter_counts([plan.widths for plan in plans]).tolist() == expected
    assert expected[0] == parameters(module)


def test_every_group_saves_work(case):
    module, slicer, x = case
    dense = macs(module, x[:1])
    generator = np.random.default_rng(3)
    for number in generator.choice(len(slicer.groups), min(4, len(slicer.groups)), replace=False):
        assert macs(slicer.cut(random_plan(slicer.groups, generator, only=number)), x[:1]) < dense


def test_a_cut_network_trains_alone_and_its_state_round_trips(case):
    module, slicer, x = case
    before = {key: value.clone() for key, value in module.state_dict().items()}
    plan = random_plan(slicer.groups, np.random.default_rng(4))
    cut = slicer.cut(plan).train()
    optimizer = torch.optim.SGD(cut.parameters(), lr=0.1)
    cut(x).square().mean().backward()
    optimizer.step()
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert not module.training
    again = slicer.cut(plan)
    again.load_state_dict(cut.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(x), cut.eval()(x))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "resnet_cifar_projection"])
def test_cuts_equal_those_of_torch_pruning(name):
    build, shape = NETWORKS[name]
    module = shaken(build)
    slicer = Slicer(module, build_groups(module, torch.zeros(1, *shape[1:]), prune_residual=True))
    plan = random_plan(slicer.groups, np.random.default_rng(0))
    theirs = copy.deepcopy(module)
    graph = torch_pruning.DependencyGraph().build_dependency(theirs, torch.zeros(1, *shape[1:]))
    for group, kept in zip(slicer.groups, plan.kept, strict=True):
        layer = theirs.get_submodule(group.name)
        removed = sorted(set(range(group.size)) - set(kept))
        graph.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, removed).prune()
    ours = slicer.cut(plan).state_dict()
    for key, value in theirs.state_dict().items():
        assert torch.equal(value, ours[key]), key


def test_the_attributes_of_cut_layers_state_their_channels():
    module = shaken(NETWORKS["resnet_cifar"][0])
    slicer = Slicer(module, build_groups(module, torch.zeros(1, 3, 32, 32), prune_residual=True))
    cut = slicer.cut(random_plan(slicer.groups, np.random.default_rng(0)))
    for layer in cut.modules():
        if isinstance(layer, nn.Conv2d):
            assert list(layer.weight.shape[:2]) == [layer.out_channels, layer.in_channels // layer.groups]
        elif isinstance(layer, nn.BatchNorm2d):
            assert len(layer.running_mean) == layer.num_features
        elif isinstance(layer, nn.Linear):
            assert list(layer.weight.shape) == [layer.out_features, layer.in_features]
    first = cut.layer2[0]
    assert first.shortcut.front + cut.conv1.out_channels + first.shortcut.back == first.conv2.out_channels


def test_kept_channels_are_told_by_layer_side():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4 * 4, 2))
    slicer = Slicer(module, build_groups(module, torch.zeros(1, 3, 2, 2)))
    kept = slicer.kept_channels(PruningPlan(((1, 3),)))
    assert {place: channels.tolist() for place, channels in kept.items()} == {
        ("0", "out"): [1, 3],
        ("2", "in"): [4, 5, 6, 7, 12, 13, 14, 15],
    }
    assert slicer.kept_channels(PruningPlan.dense(slicer.groups)) == {}


def test_a_cut_reads_the_weights_of_its_time():
    module = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 1, 1))
    slicer = Slicer(module, build_groups(module, torch.zeros(1, 3, 8, 8)))
    with torch.no_grad():
        module[0].weight.fill_(7.0)
    cut = slicer.cut(PruningPlan(((0, 2),)))
    assert cut[0].weight.shape == (2, 3, 1, 1)
    assert (cut[0].weight == 7.0).all()


def test_a_cut_shares_no_hooks_with_the_dense_network():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 1, 1))
    slicer = Slicer(module, build_groups(module, torch.zeros(1, 3, 8, 8)))
    cut = slicer.cut(PruningPlan.dense(slicer.groups))
    cut[0].register_forward_hook(lambda *_: None)
    assert not module[0]._forward_hooks


class Listed(nn.Module):
    """Runs its layers from containers of its own beside the registered ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.head = nn.Conv2d(4, 1, 1)
        self.first = (self.stem, torch.relu)
        self.rest = {"head": [self.head]}

    def forward(self, x):
        for step in (*self.first, *self.rest["head"]):
            x = step(x)
        return x


def test_layers_that_run_from_a_list_are_cut_there_too():
    module = Listed()
    slicer = Slicer(module, build_groups(module, torch.zeros(1, 3, 8, 8)))
    cut = slicer.cut(PruningPlan(((1, 2),)))
    assert cut.first[0] is cut.stem
    assert cut.rest["head"][0] is cut.head
    assert cut(torch.zeros(1, 3, 8, 8)).shape == (1, 1, 8, 8)


def test_frozen_parameters_stay_frozen_and_shared_layers_stay_shared():
    relu = nn.ReLU()
    module = nn.Sequential(nn.Conv2d(3, 4, 1), relu, nn.Conv2d(4, 4, 1), relu, nn.Conv2d(4, 1, 1))
    module[0].requires_grad_(False)
    slicer = Slicer(module, build_groups(module, torch.zeros(1, 3, 8, 8)))
    cut = slicer.cut(PruningPlan(((0,), (1, 3))))
    assert [cut[0].weight.requires_grad, cut[2].weight.requires_grad] == [False, True]
    assert cut[1] is cut[3]
    assert cut[1] is not relu


def test_a_plan_of_other_groups_is_refused():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 1, 1))
    slicer = Slicer(module, build_groups(module, torch.zeros(1, 3, 8, 8)))
    for method in (slicer.cut, slicer.masked):
        with pytest.raises(ConfigError, match="unit 4 of group '0'"):
            method(PruningPlan(((4,),)))
