"""A region of the graph -> TVM's own code at fixed shapes, by way of Relax."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import tvm
from torch import Tensor
from torch.export import ExportedProgram
from tvm import relax, s_tir, tirx
from tvm.ir.expr import GenericConst
from tvm.relax.frontend.torch import from_exported_program

from hwprune.compilation.arena import Life, align, plan_arena
from hwprune.compilation.regions import Region
from hwprune.compilation.targets import CpuTarget
from hwprune.errors import CompileError


@dataclass
class Step:
    """A call of one function.

    Attributes:
        symbol: the function.
        arguments: names of buffers, outputs last.
    """

    symbol: str
    arguments: tuple[str, ...]


@dataclass
class RelaxProgram:
    """Functions and the order of their calls.

    Attributes:
        functions: TIR functions by symbol.
        inputs: buffers that are handed in.
        outputs: buffers that are handed back.
        steps: calls in order.
        sizes: bytes of every buffer that is neither input nor constant.
        constants: contents of the buffers that the import found or folded.
    """

    inputs: list[str]
    functions: dict[str, Any] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def workspace(self) -> tuple[dict[str, int], int]:
        """Byte offsets of the buffers between the calls, and the bytes that hold them all."""
        lives: dict[str, Life] = {}
        for number, step in enumerate(self.steps):
            for name in step.arguments:
                if name in self.sizes and name not in self.outputs:
                    lives.setdefault(name, Life(self.sizes[name], number, number)).last = number
        plan = plan_arena(lives)
        return dict(plan.offsets), plan.size_bytes


def import_region(
    region: Region, shapes: Sequence[tuple[int, ...]], tensors: Sequence[Tensor], target: CpuTarget
) -> RelaxProgram:
    """Lower a region at the shapes of its inputs and tensors; once for each.

    Raises:
        CompileError: TVM does not know one of its operators, or fails on it.
    """
    key = (target, tuple(shapes), tuple(tuple(tensor.shape) for tensor in tensors))
    if key not in region.programs:
        if len(region.programs) >= 64:  # a search would fill the memory
            region.programs.clear()
        try:
            region.programs[key] = import_program(region.export(shapes, tensors), target.as_tvm())
        except Exception as error:  # of any of TVM's passes, or of torch's tracer
            line = next(iter(str(error).strip().splitlines()), type(error).__name__)
            names = ", ".join(region.operators)
            raise CompileError(f"TVM cannot compile {names} ({line}): replace it in the network") from error
    program: RelaxProgram = region.programs[key]
    return program


def import_program(program: ExportedProgram, target: Any) -> RelaxProgram:
    """Lower an exported program to TIR functions.

    Raises:
        CompileError: TVM does not know one of its operators.
    """
    transform = relax.transform
    passes = [
        transform.DecomposeOpsForInference(),
        transform.CanonicalizeBindings(),
        transform.LegalizeOps(),
        transform.AnnotateTIROpPattern(),
        transform.FuseOps(),
        transform.FuseTIR(),
        transform.DeadCodeElimination(),
        transform.CanonicalizeBindings(),
    ]
    with target, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = tvm.transform.Sequential(passes)(from_torch(program))
    return _Reader(module).program


def from_torch(program: ExportedProgram) -> Any:
    """Relax module of the program; what its reader does not know is decomposed into core operators first."""
    try:
        return from_exported_program(program)
    except Exception:  # the reader asserts and raises by turns; the second try tells
        try:
            with torch.no_grad():
                return from_exported_program(program.run_decompositions())
        except Exception as error:
            line = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise CompileError(f"TVM cannot import an operator ({line}): replace it in the network") from error


class _Reader:
    """Walks the bindings of the main function."""

    def __init__(self, module: Any) -> None:
        self.module = module
        main = module["main"]
        self.names: dict[Any, Any] = {}
        self.program = RelaxProgram([f"i{index}" for index in range(len(main.params))])
        self.names.update(zip(main.params, self.program.inputs, strict=True))
        for block in main.body.blocks:
            for binding in block.bindings:
                self._bind(binding.var, binding.value)
        result = self._value(main.body.body)
        for index, source in enumerate(result if isinstance(result, list) else [result]):
            self._output(index, source)

    def _bind(self, var: Any, value: Any) -> None:
        if isinstance(value, relax.Call) and value.op.name == "relax.call_tir":
            self.names[var] = self._call(value.args[0], list(value.args[1]), value.ty_args[0])
        else:
            self.names[var] = self._value(value)

    def _value(self, value: Any) -> Any:
        """Name of a buffer, or a list of names."""
        if isinstance(value, relax.Tuple):
            return [self._value(item) for item in value.fields]
        if isinstance(value, relax.TupleGetItem):
            return self._value(value.tuple_value)[value.index]
        if isinstance(value, GenericConst):
            name = f"c{len(self.program.constants)}"
            self.program.constants[name] = np.ascontiguousarray(value.value.numpy())
            return name
        if value in self.names:
            return self.names[value]
        raise CompileError(f"TVM leaves {type(value).__name__} in a fallback: replace that operator in the network")

    def _call(self, function: Any, arguments: Sequence[Any], out: Any) -> Any:
        """Add a call; its temporary buffers become arguments, because they may be too large for the stack."""
        prim_func, temporary = _without_allocations(self.module[function])
        text = prim_func.script()
        symbol = f"hw_relax_{hashlib.sha256(text.encode()).hexdigest()[:24]}"
        self.program.functions[symbol] = prim_func
        outs = list(out.fields) if hasattr(out, "fields") else [out]
        names = [self._buffer(_bytes(item.shape, item.dtype)) for item in outs]
        scratch = [self._buffer(_bytes(buffer.shape, buffer.dtype)) for buffer in temporary]
        inputs = [self._value(argument) for argument in arguments]
        self.program.steps.append(Step(symbol, (*inputs, *names, *scratch)))
        return names if hasattr(out, "fields") else names[0]

    def _buffer(self, size_bytes: int) -> str:
        name = f"b{len(self.program.sizes)}"
        self.program.sizes[name] = size_bytes
        return name

    def _output(self, index: int, source: str) -> None:
        """Add an output.

        Raises:
            CompileError: an input, a constant or another output is handed back.
        """
        if source in self.program.sizes and source not in self.program.outputs:
            self.program.outputs.append(source)
            return
        raise CompileError(f"output {index} of a fallback is computed by nobody: remove it from the network")


def _without_allocations(function: Any) -> tuple[Any, list[Any]]:
    """The function with its temporary buffers as last arguments."""
    root = function.body.block
    temporary = list(root.alloc_buffers)
    parts: Any = (root.reads, root.writes, root.name_hint, root.body, None, [], root.match_buffers, root.annotations)
    block = s_tir.SBlock([], *parts)
    body = s_tir.SBlockRealize([], True, block)
    return tirx.PrimFunc([*function.params, *temporary], body, function.ret_type, function.attrs), temporary


def _bytes(shape: Any, dtype: Any) -> int:
    return align(math.prod(int(size) for size in shape) * np.dtype(str(dtype)).itemsize)
