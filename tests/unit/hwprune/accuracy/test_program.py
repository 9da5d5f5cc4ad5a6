"""Programs compute what the network does, for every candidate, fused or not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hwprune import networks
from hwprune.accuracy.bound import Bound
from hwprune.accuracy.program import Convolution, Program
from hwprune.pruning.groups import build_groups
from hwprune.pruning.plan import PruningPlan
from hwprune.pruning.structured import Slicer

NETWORKS = {
    "pad": {"name": "resnet_cifar", "depth": 8},
    "projection": {"name": "resnet_cifar", "depth": 8, "shortcut": "projection"},
    "vgg": {"name": "vgg_cifar", "depth": 14},
    "mobile": {"name": "torchvision_zoo", "arch": "mobilenet_v2"},
}


def network_of(spec: dict[str, object]) -> nn.Module:
    """A network whose BatchNorm layers do something."""
    torch.manual_seed(0)
    network = networks.build(spec, num_classes=10, in_channels=3)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
            nn.init.normal_(layer.running_mean, std=0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return network.eval()


class Wayward(nn.Module):
    """Takes another path for bright images: no program can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y if x.mean() > 0 else -y


class Reused(nn.Module):
    """One value is added twice, read after that, and returned beside the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3, padding=1)
        self.two = nn.Conv2d(4, 4, 3, padding=1)
        self.three = nn.Conv2d(4, 4, 1)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = self.one(x)
        b = torch.relu(self.two(self.drop(a)) + a)
        c = self.three(b).add(a)
        return c + b, a.mean((2, 3))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_candidates_program_answers_as_the_candidate_does(name: str) -> None:
    network = network_of(NETWORKS[name])
    images = torch.randn(3, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    groups = build_groups(network, images[:1])
    program = Program.read(network)
    assert program is not None
    generator = np.random.default_rng(1)
    kept = (np.sort(generator.permutation(group.size)[: generator.integers(1, group.size + 1)]) for group in groups)
    plan = PruningPlan(tuple(tuple(int(unit) for unit in units) for units in kept))
    with torch.inference_mode():
        for module in (network, Slicer(network, groups).cut(plan)):
            expected = module(images)
            for folded in (True, False):
                found = Bound(program, module, torch.float32, folded=folded)(images)
                torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
            short = Bound(program, module, torch.bfloat16, folded=True)(images)
            assert short.dtype == torch.float32
            assert (short - expected).abs().max() < 0.1 * expected.abs().max()


def test_a_residual_block_is_two_steps() -> None:
    program = Program.read(network_of(NETWORKS["pad"]))
    assert program is not None
    convolutions = [step for step in program.steps if isinstance(step, Convolution)]
    assert len(convolutions) == 7
    assert all(step.norm and step.relu for step in convolutions)
    assert [bool(step.other) for step in convolutions] == [False, False, True, False, True, False, True]
    # The shortcuts that pad are calls: what these return is never overwritten.
    assert [step.overwrites for step in convolutions if step.other] == [True, False, False]


def test_what_is_read_later_is_not_overwritten() -> None:
    network = Reused().eval()
    program = Program.read(network)
    assert program is not None
    images = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(Bound(program, network, torch.float32, folded=True)(images), network(images))


def test_a_network_with_data_dependent_paths_has_no_program() -> None:
    assert Program.read(Wayward().eval()) is None


def test_going_on_behind_any_cut_gives_the_same_bits() -> None:
    network = network_of(NETWORKS["pad"])
    program = Program.read(network)
    assert program is not None
    images = torch.randn(4, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        whole = Bound(program, network, torch.bfloat16, folded=True, keep=program.cuts)
        expected = whole(images)
        assert len(program.cuts) >= 4
        for cut in program.cuts:
            (behind,) = whole.kept[cut]
            rest = Bound(program, network, torch.bfloat16, folded=True, after=cut)
            for _ in range(2):  # what is kept is left as it was
                assert torch.equal(rest(behind), expected)
