"""One library for every width of a network: its calls take their integers from the caller, not from its own text.

What depends on widths in a network's C text is integers alone: channel counts, offsets in the arena, offsets in the
weights. A resident library reads them from an array, so a candidate of a search is nothing but such an array. Where
widths choose between kernels, the library holds all of them and the array says which. The weights are those of a
network whose values neither grow nor fade, whatever layer reads them, because processors are slower on denormals.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hwprune.compilation import link, threads
from hwprune.compilation.kernels.kernel import Usage
from hwprune.compilation.plan import Plan
from hwprune.compilation.targets import CpuTarget
from hwprune.errors import CompileError
from hwprune.records import Artifact

#: Magnitude of all weights: sums of 5000 products do not grow by it, and a bias alone keeps values from fading.
WEIGHT_MIN, WEIGHT_MAX = 0.01, 0.03

_RUN = """
static const int32_t dense[] = {%(dense)s};
int network_run(const float *input, float *output) { return resident_run(dense, input, output); }
"""


class NotResidentError(CompileError):
    """A network that a resident library cannot run; it has to be linked alone."""


@dataclass(frozen=True)
class Family:
    """The networks that one resident library runs.

    Attributes:
        dense: the widest of them.
        kernels: for each call the statements that it may be, with places for integers, and a use of each one's kernel.
        slots: integers of each call, the choice of the statement included.
        arena_bytes: largest arena.
    """

    #: Of ``resident_run``, with their types.
    ARGUMENTS: ClassVar = (("numbers", "const int32_t *"), ("input", "const float *"), ("output", "float *"))

    dense: Plan
    kernels: tuple[dict[str, Usage], ...]
    slots: tuple[int, ...]
    arena_bytes: int

    @classmethod
    def of(cls, dense: Plan, others: Iterable[Plan]) -> Family:
        """Networks that call the kernels which the given ones call.

        Args:
            dense: the widest network.
            others: further networks of the same layers; one that makes other calls is left out.

        Raises:
            NotResidentError: the network has operators without a kernel of ours; their code is of fixed widths.
        """
        fallbacks = sorted({call.shape.op for call in dense.calls if call.shape.op.startswith("fallback:")})
        if fallbacks:
            raise NotResidentError(f"{', '.join(fallbacks)} has code of fixed widths only: link each network alone")
        kernels: list[dict[str, Usage]] = [{} for _ in dense.calls]
        slots = [1] * len(dense.calls)
        arena_bytes = 0
        for plan in (dense, *others):
            if _interface(plan) != _interface(dense):
                continue
            arena_bytes = max(arena_bytes, plan.arena.size_bytes)
            for step, (text, integers) in enumerate(_statements(plan)):
                kernels[step].setdefault(text, plan.calls[step].usage)
                slots[step] = max(slots[step], 1 + len(integers))
        return cls(dense, tuple(kernels), tuple(slots), arena_bytes)

    def numbers(self, plan: Plan) -> tuple[int, ...]:
        """What ``resident_run`` is called with to run a network.

        Raises:
            NotResidentError: it calls other kernels, or needs more memory than the library has.
        """
        if _interface(plan) != _interface(self.dense):
            raise NotResidentError("it has other calls, inputs or outputs than the resident network: link it alone")
        if plan.arena.size_bytes > self.arena_bytes or plan.weights_bytes > self.dense.weights_bytes:
            raise NotResidentError("it needs more memory than the resident network: link it alone")
        numbers: list[int] = []
        for kernels, slots, (text, integers) in zip(self.kernels, self.slots, _statements(plan), strict=True):
            if text not in kernels:
                raise NotResidentError(f"the resident network lacks a kernel for {_symbol(text)}: link it alone")
            numbers += [list(kernels).index(text), *integers, *[0] * (slots - 1 - len(integers))]
        return tuple(numbers)

    @property
    def usages(self) -> list[Usage]:
        """A use of every kernel that the library calls."""
        return [usage for kernels in self.kernels for usage in kernels.values()]

    def source(self, description: str, blob: Path, target: CpuTarget) -> str:
        """C text of the library, with the weights of the dense network in ``blob``."""
        dense = ", ".join(map(str, self.numbers(self.dense)))
        text = link.head(self.usages, description, target) + link.memory(self.arena_bytes, blob)
        # The numbers of a call: which of its kernels, then the integers of that.
        body = f"    const int32_t *p;\n{threads.in_order(self.call_texts(), target.threads)}"
        text += threads.function("resident_run", self.ARGUMENTS, body, target.threads)
        return text + _RUN % {"dense": dense}

    def call_texts(self) -> list[str]:
        """C text of every call: a choice between its statements, by the numbers that are its own."""
        begins = [sum(self.slots[:step]) for step in range(len(self.slots))]
        return [_call_text(begin, list(kernels)) for begin, kernels in zip(begins, self.kernels, strict=True)]


@dataclass(frozen=True)
class ResidentNetwork:
    """A library that runs a network at any widths.

    Attributes:
        artifact: the library.
        family: the networks that it runs.
        module: dense network with the library's weights, for a self-test.
    """

    artifact: Artifact
    family: Family
    module: nn.Module


def neutral(module: nn.Module, seed: int = 0) -> nn.Module:
    """Copy of a network with weights that make values neither grow nor fade, also where a layer reads another's."""
    module = copy.deepcopy(module).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            _fill(parameter, generator)
        for layer in module.modules():
            if isinstance(layer, _BatchNorm) and layer.running_mean is not None and layer.running_var is not None:
                _fill(layer.running_mean, generator)
                layer.running_var.fill_(1.0)
                if layer.affine:
                    layer.weight.fill_(1.0)
    return module


def _fill(tensor: torch.Tensor, generator: torch.Generator) -> None:
    """Random signs and magnitudes from :data:`WEIGHT_MIN` to :data:`WEIGHT_MAX`."""
    magnitudes = WEIGHT_MIN + (WEIGHT_MAX - WEIGHT_MIN) * torch.rand(tensor.shape, generator=generator)
    tensor.copy_(magnitudes * (1 - 2 * torch.randint(2, tensor.shape, generator=generator)))


def _interface(plan: Plan) -> tuple[object, ...]:
    """What cannot differ between networks of one library."""
    shapes = ([value.shape for value in values] for values in (plan.inputs, plan.outputs))
    return (len(plan.calls), *shapes)


def _statements(plan: Plan) -> list[tuple[str, list[int]]]:
    """The C statement of each call with ``p[1]``, ``p[2]``, ... for its integers, and these."""
    offsets = link.parameter_offsets([call.usage for call in plan.calls])
    return [_statement(plan, step, parameters) for step, parameters in enumerate(offsets)]


def _statement(plan: Plan, step: int, parameters: Sequence[int]) -> tuple[str, list[int]]:
    integers: list[int] = []

    def write(value: int) -> str:
        integers.append(int(value))
        return f"p[{len(integers)}]"

    return link.statement(plan, step, parameters, write), integers


def _symbol(statement: str) -> str:
    """The first kernel that a statement calls."""
    return statement[statement.index("hw_") :].split("(")[0]


def _call_text(begin: int, statements: Sequence[str]) -> str:
    """C text of one call, whose numbers begin at ``begin``: a choice between statements."""
    cases = [f"    case {number}:\n        {text}\n        break;" for number, text in enumerate(statements)]
    lines = [f"    p = numbers + {begin};", "    switch (p[0]) {", *cases, "    default:", "        return 1;", "    }"]
    return "\n".join(lines)
