import numpy as np
import pytest
import torch

from hwprune import networks
from hwprune.compilation.graph import Graph, trace
from hwprune.compilation.targets import VECTOR_UNITS, CpuTarget
from hwprune.errors import TraceError
from hwprune.measurement.memory import MemoryArithmetic
from hwprune.measurement.shapes import ShapeArithmetic
from hwprune.pruning.groups import build_groups
from hwprune.pruning.plan import Groups, PruningPlan
from hwprune.pruning.structured import Slicer

#: Sizes in the arena and among the weights are rounded up to cache lines; predictions are not.
LINE_BYTES = 64


class Pruned:
    """A network at any widths, through the compiler's own plans."""

    def __init__(self, spec: dict[str, object], size: int, lanes: int, prune_residual: bool = False) -> None:
        self.dense = networks.build(spec, 10, 3).eval()
        example = torch.zeros(1, 3, size, size)
        self.groups: Groups = build_groups(self.dense, example, prune_residual=prune_residual)
        self.slicer = Slicer(self.dense, self.groups)
        unit = next(unit for unit in VECTOR_UNITS if unit.lanes == lanes)
        self.graph: Graph = trace(self.dense, example, CpuTarget("x86-64-v2", unit))

    def module(self, widths):
        return self.slicer.cut(PruningPlan(tuple(tuple(range(int(width))) for width in widths)))

    def learn(self) -> MemoryArithmetic:
        shapes = ShapeArithmetic.learn(lambda widths: self.graph.shapes(self.module(widths)), self.groups.sizes)
        return MemoryArithmetic.learn(lambda widths: self.graph.plan(self.module(widths)), shapes, self.graph.target)


@pytest.mark.parametrize(("size", "lanes", "prune_residual"), [(16, 16, False), (32, 16, True), (16, 4, True)])
def test_predicted_bytes_are_those_of_the_plan_at_random_widths(size: int, lanes: int, prune_residual: bool):
    pruned = Pruned({"name": "resnet_cifar", "depth": 8}, size, lanes, prune_residual)
    arithmetic = pruned.learn()
    generator = np.random.default_rng(7)
    widths = generator.integers(1, pruned.groups.sizes + 1, size=(12, len(pruned.groups)))
    for row, predicted in zip(widths, arithmetic(widths), strict=True):
        plan = pruned.graph.plan(pruned.module(row))
        exact = plan.arena.live_bytes + plan.weights_bytes
        parameters = sum(len(call.usage.parameters) for call in plan.calls)
        assert exact - parameters * LINE_BYTES <= predicted <= exact + 1
        assert predicted <= plan.arena.size_bytes + plan.weights_bytes + 1


def test_a_network_that_is_pruned_never_needs_more_than_the_dense_one():
    pruned = Pruned({"name": "vgg_cifar", "depth": 14}, 32, 16)
    arithmetic = pruned.learn()
    sizes = pruned.groups.sizes
    halves = np.maximum(sizes // 2, 1)
    dense, half = arithmetic(np.stack([sizes, halves]))
    memory = pruned.graph.memory(pruned.dense)
    assert half < dense
    assert dense == pytest.approx(memory.live_bytes + memory.weights_bytes, rel=1e-3)


def test_buffers_that_come_and_go_with_the_widths_are_refused():
    pruned = Pruned({"name": "resnet_cifar", "depth": 8}, 16, 16)
    shapes = ShapeArithmetic.learn(lambda widths: pruned.graph.shapes(pruned.module(widths)), pruned.groups.sizes)

    def plan_at(widths):
        plan = pruned.graph.plan(pruned.module(widths))
        if widths[0] < pruned.groups.sizes[0]:
            plan.lives.popitem()
        return plan

    with pytest.raises(TraceError, match="come and go"):
        MemoryArithmetic.learn(plan_at, shapes, pruned.graph.target)
