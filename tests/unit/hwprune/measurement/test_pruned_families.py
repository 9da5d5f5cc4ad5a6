"""Pruned networks of every family: shapes and memory by arithmetic are those of the compiler's plans."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

from hwprune.compilation.graph import trace
from hwprune.compilation.targets import VECTOR_UNITS, CpuTarget
from hwprune.measurement.memory import MemoryArithmetic
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
    memory = MemoryArithmetic.learn(plan_at, shapes, lanes)
    widths = np.random.default_rng(1).integers(1, np.asarray(groups.sizes) + 1)
    plan = plan_at(widths)
    assert list(shapes([widths]).row(0)) == [call.shape for call in plan.calls]
    exact = plan.arena.live_bytes + plan.weights_bytes
    assert memory([widths])[0] == pytest.approx(exact, rel=0.01, abs=64 * 2 * len(plan.calls))
