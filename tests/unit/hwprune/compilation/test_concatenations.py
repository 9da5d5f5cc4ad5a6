"""Concatenations without copies: the first part, and parts of several concatenations, are where they belong."""

import pytest
import torch
import torch.nn.functional as F
from compiled_toys import settled
from torch import nn

from hwprune.compilation.graph import trace
from hwprune.compilation.verify import verify


class Growing(nn.Module):
    """Every layer reads all values before it."""

    def __init__(self, first=20, growth=(12, 7, 16, 3)):
        super().__init__()
        self.enter = nn.Conv2d(3, first, 1)
        self.layers = nn.ModuleList()
        self.norms = nn.ModuleList()
        for width in growth:
            self.norms.append(nn.BatchNorm2d(first))
            self.layers.append(nn.Conv2d(first, width, 3, 1, 1))
            first += width
        self.last = nn.Conv2d(first, 5, 1)

    def forward(self, x):
        values = [self.enter(x)]
        for norm, layer in zip(self.norms, self.layers, strict=True):
            values.append(layer(F.relu(norm(torch.cat(values, 1)))))
        return self.last(torch.cat(values, 1))


def agrees(compiler, module, x):
    """Number of copies into concatenations."""
    module = settled(module)
    graph = trace(module, x)
    assert verify(compiler.network(graph, module), module, x) <= 1e-5
    return [shape.op for shape in graph.shapes(module)].count("concat")


@pytest.mark.parametrize("batch", [1, 3])
def test_growing_concatenations_copy_every_part_once(compiler, batch):
    assert agrees(compiler, Growing(), torch.randn(batch, 3, 6, 5)) == 4


def test_growing_by_the_whole_is_the_same(compiler):
    class Chained(Growing):
        def forward(self, x):
            value = self.enter(x)
            for norm, layer in zip(self.norms, self.layers, strict=True):
                value = torch.cat([value, layer(F.relu(norm(value)))], 1)
            return self.last(value)

    assert agrees(compiler, Chained(), torch.randn(2, 3, 6, 5)) == 4


def test_pruned_widths_make_the_same_calls(compiler):
    x = torch.randn(1, 3, 6, 5)
    graph = trace(Growing(), x)
    module = settled(Growing(17, (1, 16, 5, 2)))
    assert verify(compiler.network(graph, module), module, x) <= 1e-5
    dense, pruned = graph.shapes(Growing()), graph.shapes(module)
    assert [shape.template for shape in dense] == [shape.template for shape in pruned]


def test_parts_of_two_different_concatenations(compiler):
    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList(nn.Conv2d(3, width, 1) for width in (20, 9, 30))
            self.ends = nn.ModuleList(nn.Conv2d(width, 4, 1) for width in (29, 50, 20))

        def forward(self, x):
            a, b, c = (part(x) for part in self.parts)
            left, right = self.ends[0](torch.cat([a, b], 1)), self.ends[1](torch.cat([a, c], 1))
            return left + right + self.ends[2](a)

    assert agrees(compiler, Forked(), torch.randn(2, 3, 6, 5)) == 3  # the second has to copy both of its parts


def test_a_concatenation_that_begins_another(compiler):
    class Shorter(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList(nn.Conv2d(3, width, 1) for width in (20, 9, 30))
            self.ends = nn.ModuleList(nn.Conv2d(width, 4, 1) for width in (59, 29))

        def forward(self, x):
            a, b, c = (part(x) for part in self.parts)
            return self.ends[0](torch.cat([a, b, c], 1)) + self.ends[1](torch.cat([a, b], 1))

    assert agrees(compiler, Shorter(), torch.randn(2, 3, 6, 5)) == 2


def test_one_value_twice(compiler):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter = nn.Conv2d(3, 21, 1)

        def forward(self, x):
            y = self.enter(x)
            return torch.cat([y, y, F.relu(y)], 1)

    assert agrees(compiler, Twice(), torch.randn(2, 3, 6, 5)) == 2


def test_parts_of_a_value_are_not_overwritten(compiler):
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.other = nn.Conv2d(3, 40, 1), nn.Conv2d(20, 20, 3, 1, 1)

        def forward(self, x):
            y = self.enter(x)
            first, second = y.chunk(2, 1)
            return torch.cat([first, self.other(second)], 1) + y

    assert agrees(compiler, Halves(), torch.randn(2, 3, 6, 5)) == 2


def test_vectors_are_joined_too(compiler):
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.last = nn.Linear(9, 20), nn.Linear(9, 11), nn.Linear(31, 4)

        def forward(self, x):
            return self.last(torch.cat([self.left(x), self.right(x)], -1))

    assert agrees(compiler, Joined(), torch.randn(3, 9)) == 1


def test_a_growing_concatenation_has_one_storage_as_large_as_the_last_of_it(compiler):
    module = Growing(20, (12, 7, 16, 3))
    lanes = compiler.target.lanes
    plan = trace(module, torch.zeros(3, 3, 6, 5), compiler.target).plan(module)
    (storage,) = {call.outputs[0].storage for call in plan.calls if call.shape.op == "concat"}
    assert storage == plan.calls[0].outputs[0].storage
    assert plan.storages[storage] == 3 * -(-58 // lanes) * lanes * 6 * 5
    strides = {place.stride_floats for call in plan.calls for place in call.inputs if place.storage == storage}
    assert strides == {plan.storages[storage] // 3}
