"""Networks from files as jobs for devices: compiled by us, and packed up for the devices' own ONNX Runtime."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import onnx
import torch
from torch import Tensor

from device_agents.client import SelfTest
from device_agents.protocol import LINE_BYTES_MAX
from hwprune.compilation.compiler import Compiler
from hwprune.compilation.graph import Graph, trace_program
from hwprune.compilation.targets import CpuTarget
from hwprune.errors import HwpruneError, TraceError
from hwprune.measurement.jobs import NetworkJob
from hwprune.models.inputs import Shape
from hwprune.models.model_file import ModelFile, open_model
from hwprune.models.onnx_file import inputs_of
from hwprune.records import Artifact
from latency_models.shapes import LayerShape

_log = logging.getLogger(__name__)

#: What runs a network: our own library, made by TVM, or the device's ONNX Runtime.
Engine = Literal["tvm", "onnxruntime"]

#: Bytes of a self-test's input and output that fit into one line of the wire, in base64.
SELF_TEST_BYTES_MAX = LINE_BYTES_MAX // 4 * 3 - (1 << 16)


@dataclass(frozen=True)
class Prepared:
    """A model for one target.

    Attributes:
        jobs: what can be measured, by engine.
        reasons: why the other engines cannot run it.
        own_kernels: calls of our library that have a schedule of ours, where some have none; else ().
        shapes: all layers of our library.
    """

    jobs: dict[Engine, NetworkJob] = field(default_factory=dict)
    reasons: dict[Engine, str] = field(default_factory=dict)
    own_kernels: tuple[LayerShape, ...] = ()
    shapes: tuple[LayerShape, ...] = ()


class ModelJobs:
    """One model; it is read once, and compiled once a target.

    Args:
        path: of its file.
        shapes: of its inputs, where the file leaves sizes free.

    Raises:
        ConfigError: the file cannot be read.
    """

    def __init__(self, path: Path, shapes: Mapping[str, Shape]) -> None:
        self.model: ModelFile = open_model(path, shapes)
        self._graph: Graph | None = None

    def prepare(self, compiler: Compiler, engines: Sequence[Engine]) -> Prepared:
        """Jobs of all engines that can run it; what fails is data."""
        prepared = Prepared()
        for engine in engines:
            try:
                if engine == "tvm":
                    prepared = self._compiled(compiler, prepared)
                else:
                    prepared.jobs[engine] = self._packed(compiler)
            except HwpruneError as error:
                prepared.reasons[engine] = str(error)
            except Exception as error:  # whatever torch or TVM trip over in a stranger's network
                line = next(iter(str(error).strip().splitlines()), "")
                prepared.reasons[engine] = f"it cannot be compiled ({type(error).__name__}: {line}): report this model"
                _log.debug("%s by %s", self.model.path, engine, exc_info=True)
        return prepared

    def plan(self, target: CpuTarget) -> Graph:
        """The model's graph for a target.

        Raises:
            TraceError: it cannot be traced.
        """
        if self._graph is None:
            self._graph = trace_program(self.model.program, target)
        return self._graph.for_target(target)

    def _compiled(self, compiler: Compiler, prepared: Prepared) -> Prepared:
        for each in self.model.inputs:
            if each.dtype != "float32":
                raise TraceError(
                    f"input {each.name!r} has numbers of type {each.dtype}, and our libraries take float32: have ONNX "
                    "Runtime run it (--engine onnxruntime)"
                )
        graph = self.plan(compiler.target)
        shapes = tuple(graph.shapes(self.model.module))
        artifact = compiler.network(graph, self.model.module)
        own = tuple(shape for shape in shapes if not shape.op.startswith("fallback:"))
        has_fallbacks = bool(artifact.description["fallback_calls"])
        job = NetworkJob(artifact, self_test(self.model.examples, self.model.outputs))
        return Prepared(
            {**prepared.jobs, "tvm": job}, prepared.reasons, own_kernels=own if has_fallbacks else (), shapes=shapes
        )

    def _packed(self, compiler: Compiler) -> NetworkJob:
        return NetworkJob(packed(compiler, self.model.onnx_bytes()), self._expected())

    def _expected(self) -> SelfTest | None:
        """What ONNX Runtime must compute; None where we cannot read the model ourselves."""
        try:
            return self_test(self.model.examples, self.model.outputs)
        except HwpruneError:
            return None


def packed(compiler: Compiler, content: bytes) -> Artifact:
    """Library of an ONNX model at fixed shapes, for the device's own ONNX Runtime.

    Raises:
        CompileError: TVM or the C compiler refuses.
    """
    inputs = inputs_of(onnx.load_model_from_string(content), {})
    described = [{"name": each.name, "dtype": each.dtype, "shape": list(each.shape)} for each in inputs]
    return compiler.onnx_model(content, described, sum(each.size_bytes for each in inputs))


def self_test(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> SelfTest | None:
    """What a network must compute for these inputs; None where the wire takes no line of that size."""
    given = b"".join(tensor.contiguous().numpy().tobytes() for tensor in inputs)
    expected = b"".join(tensor.contiguous().to(torch.float32).numpy().tobytes() for tensor in outputs)
    return SelfTest(given, expected) if len(given) + len(expected) <= SELF_TEST_BYTES_MAX else None
