"""A network as a list of steps, read from it once, that any candidate cut from it can be run by.

A step is a convolution together with what follows it (BatchNorm, the addition of a shortcut, an activation), which
oneDNN computes in one pass over memory, or a call of anything else. Between some steps only one activation is alive:
there a candidate may go on from what another one with the same channels up to there has computed.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from hwprune.pruning.plan import Groups

_RELU_FUNCTIONS = {F.relu, torch.relu, torch.relu_}
_RELU_METHODS = {"relu", "relu_"}
_ADD_FUNCTIONS = {operator.add, operator.iadd, torch.add}
_ADD_METHODS = {"add", "add_"}


@dataclass(frozen=True)
class Convolution:
    """A convolution and what is computed with it.

    Attributes:
        output: name of the value that it makes.
        input: value that it reads.
        conv: the module.
        norm: BatchNorm behind it, "" for none.
        other: value that is added then, "" for none.
        relu: whether a ReLU ends it.
        overwrites: the sum may take the place of ``other``, which nobody reads later.
    """

    output: str
    input: str
    conv: str
    norm: str = ""
    other: str = ""
    relu: bool = False
    overwrites: bool = False

    @property
    def reads(self) -> tuple[str, ...]:
        """Values that it reads."""
        return (self.input, self.other) if self.other else (self.input,)

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules whose tensors it takes."""
        return (self.conv, self.norm) if self.norm else (self.conv,)


@dataclass(frozen=True)
class Call:
    """Anything else.

    Attributes:
        output: name of the value that it makes.
        node: what is called.
        reads: values that it reads.
    """

    output: str
    node: fx.Node
    reads: tuple[str, ...]

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules whose tensors it takes."""
        return (str(self.node.target),) if self.node.op in ("call_module", "get_attr") else ()


Step = Convolution | Call


@dataclass(frozen=True)
class Program:
    """Steps in the order in which they are run.

    Attributes:
        input: name of the network's input.
        steps: the steps.
        output: what the network returns, its values in the places of their names.
        last_reads: values that nobody reads after each step.
        cuts: steps behind which their output alone is alive.
    """

    input: str
    steps: tuple[Step, ...]
    output: Any
    last_reads: tuple[tuple[str, ...], ...]
    cuts: tuple[int, ...]

    @classmethod
    def read(cls, network: nn.Module) -> Program | None:
        """Program of a network in evaluation mode; None for one whose control flow depends on its input."""
        try:
            graph = _Tracer().trace(network)
        except Exception:  # a user's forward may raise anything when it is run on symbols
            return None
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        if len(inputs) != 1:
            return None
        return _assemble(graph, dict(network.named_modules()))

    def groups_before(self, cut: int, groups: Groups) -> tuple[int, ...]:
        """Numbers of the groups that take part in the steps up to ``cut``."""
        modules = {name for step in self.steps[: cut + 1] for name in step.modules}
        return tuple(
            number for number, group in enumerate(groups) if any(member.module in modules for member in group.members)
        )


class _Tracer(fx.Tracer):
    """Follows modules with children, and calls all others as they are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(True for _ in m.children())


def _assemble(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> Program:
    same = _aliases(graph, modules)
    users = _users(graph, same)
    placed: dict[fx.Node, Convolution] = {}  # by the last node of each
    taken: set[fx.Node] = set()
    for node in graph.nodes:
        if _is_convolution(node, modules):
            step, nodes = _fused(node, modules, users, same, taken)
            placed[nodes[-1]] = step
            taken.update(nodes)
    steps: list[Step] = []
    output: Any = None
    for node in graph.nodes:
        if node in placed:
            steps.append(placed[node])
        elif node.op == "output":
            output = fx.node.map_arg(node.args[0], lambda found: same.get(found, found))
        elif node.op != "placeholder" and node not in taken and node not in same:
            reads = tuple(dict.fromkeys(same.get(found, found).name for found in node.all_input_nodes))
            steps.append(Call(node.name, _with_inputs(node, same), reads))
    source = next(node.name for node in graph.nodes if node.op == "placeholder")
    (end,) = graph.find_nodes(op="output")
    return _finished(source, steps, output, {same.get(found, found).name for found in end.all_input_nodes})


def _finished(source: str, steps: list[Step], output: Any, returned: set[str]) -> Program:
    """Program with what is known of the life of its values."""
    last = {name: number for number, step in enumerate(steps) for name in step.reads}
    last |= dict.fromkeys(returned, len(steps))
    makers = {step.output: step for step in steps}
    readers: dict[str, list[Step]] = {}
    for step in steps:
        for name in step.reads:
            readers.setdefault(name, []).append(step)
    settled: list[Step] = []
    for number, step in enumerate(steps):
        if isinstance(step, Convolution) and step.other and last[step.other] == number:
            # What a call returns may share memory with what it read, so only convolutions' own values are overwritten.
            own = isinstance(makers.get(step.other), Convolution) and step.other != step.input
            if own and all(isinstance(reader, Convolution) for reader in readers[step.other]):
                step = replace(step, overwrites=True)
        settled.append(step)
    last_reads = tuple(
        tuple(name for name in dict.fromkeys(step.reads) if last[name] == number) for number, step in enumerate(steps)
    )
    made_at = {source: -1} | {step.output: number for number, step in enumerate(steps)}
    cuts = tuple(
        number
        for number, step in enumerate(steps[:-1])
        if [name for name, made in made_at.items() if made <= number < last.get(name, -1)] == [step.output]
    )
    return Program(source, tuple(settled), output, last_reads, cuts)


def _aliases(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> dict[fx.Node, fx.Node]:
    """Nodes that return what they are given, in evaluation mode, with the node that made it."""
    same: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node.op == "call_module" and isinstance(modules[str(node.target)], nn.Identity | nn.Dropout):
            source = node.all_input_nodes[0]
            same[node] = same.get(source, source)
    return same


def _users(graph: fx.Graph, same: Mapping[fx.Node, fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """Nodes that read each node's value, aliases followed."""
    users: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        if node not in same:
            for source in dict.fromkeys(same.get(found, found) for found in node.all_input_nodes):
                users.setdefault(source, []).append(node)
    return users


def _with_inputs(node: fx.Node, same: Mapping[fx.Node, fx.Node]) -> fx.Node:
    """The node, reading what its aliases stand for."""
    for source in node.all_input_nodes:
        if source in same:
            node.replace_input_with(source, same[source])
    return node


def _is_convolution(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return False
    conv = modules[str(node.target)]
    return type(conv) is nn.Conv2d and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _fused(
    node: fx.Node,
    modules: Mapping[str, nn.Module],
    users: Mapping[fx.Node, list[fx.Node]],
    same: Mapping[fx.Node, fx.Node],
    taken: set[fx.Node],
) -> tuple[Convolution, list[fx.Node]]:
    """The step that begins with a convolution, and the nodes that it stands for."""
    nodes = [node]
    norm = other = ""
    relu = False

    def following() -> fx.Node | None:
        found = users.get(nodes[-1], [])
        return found[0] if len(found) == 1 and found[0].op != "output" and found[0] not in taken else None

    after = following()
    if after is not None and after.op == "call_module" and type(modules[str(after.target)]) is nn.BatchNorm2d:
        norm = str(after.target)
        nodes.append(after)
        after = following()
    if after is not None and _is_addition(after):
        first, second = (same.get(found, found) for found in after.args)  # type: ignore[arg-type]
        if first is not second:
            other = (second if first is nodes[-1] else first).name
            nodes.append(after)
            after = following()
    if after is not None and _is_relu(after, modules):
        relu = True
        nodes.append(after)
    source = same.get(node.all_input_nodes[0], node.all_input_nodes[0])
    return Convolution(nodes[-1].name, source.name, str(node.target), norm, other, relu), nodes


def _is_relu(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return type(modules[str(node.target)]) is nn.ReLU
    return (node.op == "call_function" and node.target in _RELU_FUNCTIONS) or (
        node.op == "call_method" and node.target in _RELU_METHODS
    )


def _is_addition(node: fx.Node) -> bool:
    adds = (node.op == "call_function" and node.target in _ADD_FUNCTIONS) or (
        node.op == "call_method" and node.target in _ADD_METHODS
    )
    return adds and not node.kwargs and len(node.args) == 2 and all(isinstance(found, fx.Node) for found in node.args)


def returned(output: Any, values: Mapping[str, Any]) -> Any:
    """What a network returns, its values in the places of their names."""
    return fx.node.map_arg(output, lambda node: values[node.name])
