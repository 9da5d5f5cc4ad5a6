"""Pruned networks of every family: shapes and memory by arithmetic are those of the compiler's plans."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

from hwprune import networks
from hwprune.compilation.graph import trace
from hwprune.compilation.resident import Family
from hwprune.compilation.targets import VECTOR_UNITS, CpuTarget
from hwprune.errors import TraceError
from hwprune.measurement.memory import MemoryArithmetic
from hwprune.measurement.plans import PlanArithmetic
from hwprune.measurement.shapes import ShapeArithmetic
from hwprune.pruning.groups import build_groups
from hwprune.pruning.plan import PruningPlan
from hwprune.pruning.structured import Slicer


class UNet(nn.Module):
    """Two scales joined by a transposed convolution, the other one by a resize."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(3, 20, 3, 1, 1), nn.Conv2d(20, 24, 3, 2, 1), nn.Conv2d(24, 40, 3, 2, 1)])
        self.up = nn.ConvTranspose2d(40, 18, 2, 2)
        self.mix = nn.ModuleList([nn.Conv2d(42, 20, 3, 1, 1), nn.Conv2d(40, 9, 1), nn.Conv2d(9, 4, 1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = F.gelu(self.down[0](x))
        middle = F.leaky_relu(self.down[1](fine))
        middle = self.mix[0](torch.cat([self.up(F.elu(self.down[2](middle))), middle], 1))
        fine = torch.cat([fine, F.interpolate(middle, scale_factor=2)], 1)
        return torch.softmax(self.mix[2](F.mish(self.mix[1](fine))), 1)


NETWORKS = {
    "resnet_cifar": lambda: networks.build({"name": "resnet_cifar", "depth": 8}, 10, 3),
    "vgg_cifar": lambda: networks.build({"name": "vgg_cifar", "depth": 14}, 10, 3),
    "mobilenet_v2": lambda: torchvision.models.MobileNetV2(num_classes=5, width_mult=0.25),
    "resnext": lambda: ResNet(Bottleneck, [1, 1, 1, 1], num_classes=10, groups=32, width_per_group=4),
    "regnet": lambda: torchvision.models.RegNet(
        torchvision.models.regnet.BlockParams.from_init_params(
            depth=4, w_0=16, w_a=24.0, w_m=2.5, group_width=8, se_ratio=0.25
        ),
        num_classes=5,
    ),
    "shufflenet": lambda: torchvision.models.ShuffleNetV2([1, 1, 1], [16, 32, 48, 64, 128], num_classes=5),
    "densenet": lambda: torchvision.models.DenseNet(32, (2, 3), num_init_features=50, num_classes=5),
    "unet": UNet,
}


@pytest.mark.parametrize(
    ("name", "lanes"), [("resnext", 16), ("regnet", 8), ("shufflenet", 16), ("densenet", 16), ("unet", 4)]
)
def test_arithmetic_knows_what_the_compiler_plans(name, lanes):
    torch.manual_seed(0)
    dense, example = NETWORKS[name]().eval(), torch.zeros(1, 3, 32, 32)
    groups = build_groups(dense, example, prune_residual=True)
    slicer = Slicer(dense, groups)
    graph = trace(dense, example, CpuTarget("x86-64-v2", next(unit for unit in VECTOR_UNITS if unit.lanes == lanes)))

    def plan_at(widths):
        return graph.plan(slicer.cut(PruningPlan(tuple(tuple(range(int(width))) for width in widths))))

    shapes = ShapeArithmetic.learn(lambda widths: [call.shape for call in plan_at(widths).calls], groups.sizes)
    assert not any(template.op.startswith("fallback") for template in shapes.templates)
    memory = MemoryArithmetic.learn(plan_at, shapes, graph.target)
    widths = np.random.default_rng(1).integers(1, np.asarray(groups.sizes) + 1)
    plan = plan_at(widths)
    assert list(shapes([widths]).row(0)) == [call.shape for call in plan.calls]
    exact = plan.arena.live_bytes + plan.weights_bytes
    assert memory([widths])[0] == pytest.approx(exact, rel=0.01, abs=64 * 2 * len(plan.calls))


class Planned:
    """A network at any widths, through the compiler's own plans."""

    def __init__(self, name: str, lanes: int, batch: int, threads: int, *, prune_residual: bool = True) -> None:
        torch.manual_seed(0)
        dense, example = NETWORKS[name]().eval(), torch.zeros(batch, 3, 32, 32)
        self.groups = build_groups(dense, example, prune_residual=prune_residual)
        self.slicer = Slicer(dense, self.groups)
        unit = next(unit for unit in VECTOR_UNITS if unit.lanes == lanes)
        self.graph = trace(dense, example, CpuTarget("x86-64-v2", unit, threads=threads))

    def plan(self, widths):
        return self.graph.plan(self.slicer.cut(PruningPlan(tuple(tuple(range(int(width))) for width in widths))))

    def learn(self):
        shapes = ShapeArithmetic.learn(lambda row: [call.shape for call in self.plan(row).calls], self.groups.sizes)
        return PlanArithmetic.learn(self.plan, shapes, self.graph.target)


@pytest.mark.parametrize(
    ("name", "lanes", "batch", "threads"),
    [
        ("resnet_cifar", 16, 1, 1),
        ("resnet_cifar", 4, 3, 2),
        ("vgg_cifar", 8, 1, 1),
        ("mobilenet_v2", 16, 2, 1),
        ("resnext", 16, 1, 1),
        ("regnet", 8, 1, 1),
    ],
)
def test_a_plan_by_arithmetic_is_what_a_resident_library_would_be_called_with(name, lanes, batch, threads):
    # Where a shortcut pads with zero channels, they are in front or behind: residual widths alone do not tell.
    network = Planned(name, lanes, batch, threads, prune_residual=name != "resnet_cifar")
    arithmetic = network.learn()
    sizes = np.asarray(network.groups.sizes)
    rows = [sizes, np.ones_like(sizes), *np.random.default_rng(1).integers(1, sizes + 1, (6, len(sizes)))]
    plans = [network.plan(row) for row in rows]
    family = Family.of(plans[0], plans)
    for row, plan in zip(rows, plans, strict=True):
        found = arithmetic(row.tolist())
        assert family.numbers(found) == family.numbers(plan)
        assert found.arena == plan.arena
        assert found.weights_bytes == plan.weights_bytes
        assert [call.shape for call in found.calls] == [call.shape for call in plan.calls]


@pytest.mark.parametrize("name", ["shufflenet", "densenet", "unet", "resnet_cifar"])
def test_a_network_whose_calls_depend_on_more_than_channel_counts_has_no_plan_by_arithmetic(name):
    with pytest.raises(TraceError, match="in more than"):
        Planned(name, 16, 1, 1).learn()
