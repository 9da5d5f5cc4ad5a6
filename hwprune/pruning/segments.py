"""A network in parts: the places where one tensor alone connects what comes before with what comes behind.

Between two such places lies a part that runs by itself. A plain network has one behind every operation, a residual one
behind every block.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from hwprune.errors import ConfigError
from hwprune.networks.layers import PadShortcut
from hwprune.pruning.layers import channel_axes, is_producer
from hwprune.pruning.plan import Group, Groups, Member


@dataclass(frozen=True)
class Place:
    """A tensor that alone connects two parts of a network.

    Attributes:
        index: number of the operation that makes it, 0 for the network's input.
        shape: of the tensor, batch first.
    """

    index: int
    shape: tuple[int, ...]


class Segments:
    """A dense network taken apart; its parts have the names of its submodules.

    Raises:
        ConfigError: the network's forward cannot be read (it depends on values), or takes several inputs.
    """

    def __init__(self, module: nn.Module, example_input: Tensor) -> None:
        self.module = module
        try:
            self._graph = _Tracer().trace(module)
            values = _Shapes(module, self._graph)
            with torch.inference_mode():
                values.run(example_input)
        except Exception as error:  # a user's forward may raise anything
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ConfigError(
                f"the network cannot be taken apart ({reason}): its forward must take one tensor and not branch on "
                "values; use hamp or nsga2"
            ) from error
        self._nodes = [node for node in self._graph.nodes if node.op not in ("get_attr", "output")]
        if [node.op for node in self._nodes].count("placeholder") != 1:
            raise ConfigError("a network of several inputs cannot be taken apart: use hamp or nsga2")
        self._number = {node: number for number, node in enumerate(self._nodes)}
        self._shapes = values.shapes

    @functools.cached_property
    def places(self) -> tuple[Place, ...]:
        """All places, from the input to the output."""
        last_use = {
            node: max((self._number.get(user, len(self._nodes)) for user in node.users), default=-1)
            for node in self._nodes
        }
        found = []
        for number, node in enumerate(self._nodes):
            alive = [earlier for earlier in self._nodes[: number + 1] if last_use[earlier] > number]
            if alive == [node] and node in self._shapes:
                found.append(Place(number, self._shapes[node]))
        return tuple(found)

    def calls(self, layer: str) -> tuple[int, ...]:
        """Numbers of the operations that call a layer."""
        return tuple(
            number for number, node in enumerate(self._nodes) if node.op == "call_module" and node.target == layer
        )

    def span(self, groups: Sequence[Group]) -> tuple[Place, Place]:
        """The narrowest pair of places between which everything lies that groups of channels touch."""
        numbers = [number for group in groups for member in group.members for number in self.calls(member.module)]
        before = [place for place in self.places if place.index < min(numbers)]
        behind = [place for place in self.places if place.index >= max(numbers)]
        return before[-1], behind[0]

    def producer(self, group: Group) -> int:
        """Number of the operation that makes a group's channels first."""
        return min(
            number
            for member in group.members
            if member.side == "out" and is_producer(self.module.get_submodule(member.module))
            for number in self.calls(member.module)
        )

    def stages(self, groups: Groups) -> list[list[int]]:
        """Numbers of the groups, put together where their channels have the same height and width."""
        stages: list[list[int]] = []
        last: tuple[int, ...] = ()
        for number, group in enumerate(groups):
            index = self.producer(group)
            size = next((place.shape[2:] for place in self.places if place.index >= index), ())
            if stages and size in ((), last):  # linear layers belong to what comes before them
                stages[-1].append(number)
            else:
                stages.append([number])
                last = size
        return stages

    def pixels(self, start: Place | None = None, end: Place | None = None) -> dict[str, int]:
        """How often the window of every layer with weights is applied to an image, between two places."""
        first = 0 if start is None else start.index
        last = len(self._nodes) if end is None else end.index
        found: dict[str, int] = {}
        for number, node in enumerate(self._nodes):
            if not first < number <= last or node.op != "call_module":
                continue
            layer = self.module.get_submodule(str(node.target))
            if is_producer(layer):
                # A transposed convolution's window moves over its input.
                source = node.args[0] if getattr(layer, "transposed", False) else node
                assert isinstance(source, fx.Node)
                shape = self._shapes[source]
                times = math.prod(shape[1:-1] if isinstance(layer, nn.Linear) else shape[2:])
                found[str(node.target)] = found.get(str(node.target), 0) + times
        return found

    def macs(self, module: nn.Module, start: Place | None = None, end: Place | None = None) -> float:
        """Multiply-adds of one image between two places, by default of the whole, at the widths of ``module``."""
        return macs(module, self.pixels(start, end))

    def part(self, start: Place, end: Place, module: nn.Module | None = None) -> fx.GraphModule:
        """What computes the tensor at ``end`` from the one at ``start``; layers are shared with ``module``.

        Args:
            start: where it begins.
            end: where it ends.
            module: the dense network, or one of the same submodule names; the dense one where None.
        """
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {self._nodes[start.index]: graph.placeholder("x")}

        def lies_inside(node: fx.Node) -> bool:
            return start.index < self._number.get(node, -1) <= end.index

        for node in self._graph.nodes:
            if lies_inside(node) or (node.op == "get_attr" and any(map(lies_inside, node.users))):
                copies[node] = graph.node_copy(node, lambda argument: copies[argument])
        graph.output(copies[self._nodes[end.index]])
        part = fx.GraphModule(self.module if module is None else module, graph)
        part.train((self.module if module is None else module).training)
        return part


def macs(module: nn.Module, pixels: Mapping[str, int]) -> float:
    """Multiply-adds of one image in the layers that ``pixels`` names, at the widths of ``module``."""
    return float(
        sum(module.get_submodule(name).get_parameter("weight").numel() * times for name, times in pixels.items())
    )


def groups_within(part: nn.Module, groups: Groups) -> Groups:
    """The same groups, of which only the layers of a part are members; groups without any have none."""
    layers = {name for name, layer in part.named_modules() if channel_axes(layer) is not None}
    return Groups(
        tuple(Group(group.name, group.size, _members(group.members, layers)) for group in groups), groups.protected
    )


def _members(members: Sequence[Member], layers: set[str]) -> tuple[Member, ...]:
    return tuple(member for member in members if member.module in layers)


class _Tracer(fx.Tracer):
    """Keeps layers whole that pruning knows by name."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, PadShortcut) or super().is_leaf_module(m, module_qualified_name)


class _Shapes(fx.Interpreter):
    """Notes the shape of every tensor."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, graph=graph)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n] = tuple(value.shape)
        return value
