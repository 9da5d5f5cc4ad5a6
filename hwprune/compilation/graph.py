"""The fused graph of a network: traced once, read for any pruned copy of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from hwprune.compilation.aten import read, read_program
from hwprune.compilation.kernels.sparse import Sparse
from hwprune.compilation.layers import Layer
from hwprune.compilation.lowering import lower
from hwprune.compilation.plan import Plan
from hwprune.compilation.regions import BakedSizesError
from hwprune.compilation.targets import CpuTarget, host_target
from latency_models.shapes import LayerShape


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a compiled network needs.

    Attributes:
        arena_bytes: activations and scratch, as planned.
        weights_bytes: packed parameters.
        live_bytes: most bytes of activations and scratch that are needed at once: what no plan can go below.
    """

    arena_bytes: int
    weights_bytes: int
    live_bytes: int


@dataclass(frozen=True)
class Graph:
    """Fused layers of a traced network; parameters are named, not held.

    Attributes:
        target: what it is planned for; blocks of channels are as long as its vectors.
        inputs: name and shape of every input, batch first.
        outputs: names of the outputs.
        layers: in the order of their calls.
        sparse: which convolutions leave out weights that are zero: those that get faster by it (``auto``), all
            (``always``) or none (``never``).
    """

    target: CpuTarget
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    outputs: tuple[str, ...]
    layers: tuple[Layer, ...]
    sparse: Sparse = "auto"
    _retraced: dict[Any, Graph] = field(default_factory=dict, compare=False, repr=False)

    def for_target(self, target: CpuTarget) -> Graph:
        """The same network planned for another CPU."""
        return self if target == self.target else replace(self, target=target, _retraced={})

    def plan(self, module: nn.Module) -> Plan:
        """Calls, buffers and parameters of a (pruned) module with the traced one's submodule names.

        Raises:
            CompileError: the module lacks a parameter, or its widths do not fit together.
        """
        try:
            return lower(self.layers, self.inputs, self.outputs, module, self.target, self.sparse)
        except BakedSizesError:
            # Its forward computes with its widths: only a trace of its own tells with which results. Slow but right.
            key = tuple(tuple(parameter.shape) for parameter in module.parameters())
            if key not in self._retraced:
                self._retraced.clear()  # one candidate is asked for shapes, memory and library, then the next
                example = tuple(torch.zeros(shape) for _, shape in self.inputs)
                self._retraced[key] = replace(trace(module, example, self.target), sparse=self.sparse)
            return self._retraced[key].plan(module)

    def shapes(self, module: nn.Module) -> list[LayerShape]:
        """One entry a call of the library, in order; nothing is traced or compiled."""
        return [call.shape for call in self.plan(module).calls]

    def memory(self, module: nn.Module) -> MemoryPlan:
        """Exactly what the compiled library will need; nothing is compiled."""
        plan = self.plan(module)
        return MemoryPlan(plan.arena.size_bytes, plan.weights_bytes, plan.arena.live_bytes)


def trace(module: nn.Module, example_input: Tensor | Sequence[Tensor], target: CpuTarget | None = None) -> Graph:
    """Read the graph of a dense network in inference mode, BatchNorm and all.

    Args:
        module: left as it is.
        example_input: one input or several, of the batch size that inferences will have.
        target: what networks will be compiled for; None means this computer.

    Raises:
        TraceError: torch.export refuses the module, or it has inputs or outputs that are not float32 tensors.
    """
    inputs = (example_input,) if isinstance(example_input, Tensor) else tuple(example_input)
    names, outputs, layers = read(module, inputs)
    shapes = tuple((name, tuple(tensor.shape)) for name, tensor in zip(names, inputs, strict=True))
    return Graph(target or host_target(), shapes, outputs, layers)


def trace_program(program: ExportedProgram, target: CpuTarget) -> Graph:
    """Read the graph of a program that was exported in inference mode, at fixed shapes.

    Args:
        program: left as it is but for what it tells of its torch modules, of which nothing is known here.
        target: what it will be compiled for.

    Raises:
        TraceError: it has inputs or outputs that are not float32 tensors, or control flow.
    """
    for node in program.graph.nodes:
        node.meta.pop("nn_module_stack", None)
    names, outputs, layers = read_program(program)
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    shapes = tuple((name, tuple(int(size) for size in values[name].shape)) for name in names)
    return Graph(target, shapes, outputs, layers)
