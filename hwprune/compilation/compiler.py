"""Pruned module -> library in the artifacts folder; kernels are compiled once and kept."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from hwprune.compilation import link, memory_probe, onnx_library, timeline
from hwprune.compilation.graph import Graph
from hwprune.compilation.kernels import SCHEDULE_VERSION, specify
from hwprune.compilation.kernels.kernel import Kernel, Usage
from hwprune.compilation.objects import object_files
from hwprune.compilation.plan import FLOAT_BYTES, Plan
from hwprune.compilation.resident import Family, ResidentNetwork, neutral
from hwprune.compilation.targets import CpuTarget
from hwprune.compilation.timeline import Timeline
from hwprune.errors import CompileError
from hwprune.records import Artifact
from latency_models.shapes import LayerShape

#: Version of the C functions that a library exports.
ABI_VERSION = 1


@dataclass(frozen=True)
class KernelPack:
    """A library of kernels.

    Attributes:
        artifact: the library.
        index: layer -> number of its kernel and the integers to call it with.
    """

    artifact: Artifact
    index: Mapping[LayerShape, tuple[int, tuple[int, ...]]]


class Compiler:
    """Compiles for one target; ``folder`` holds kernel objects and artifacts, and other processes may share it.

    Kernels are compiled by ``executor``, or in this process where it is None.

    Attributes:
        schedule_version: version of the kernels' schedules.
    """

    schedule_version = SCHEDULE_VERSION

    def __init__(self, target: CpuTarget, folder: Path, executor: Executor | None = None) -> None:
        self.target = target
        self.folder = folder
        self.executor = executor

    def network(self, graph: Graph, module: nn.Module) -> Artifact:
        """Library of a (pruned) module: ``network_run(input, output)``.

        Raises:
            CompileError: its widths do not fit together, or TVM or the C compiler refuses.
        """
        plan = graph.for_target(self.target).plan(module)
        description = self._network_description(plan)
        usages = [call.usage for call in plan.calls]
        kernels = link.linked_kernels([link.reference_usage(self.target), *usages])
        objects = object_files(kernels, self.target, self.folder, self.executor)
        with self._draft() as draft:
            blob = draft / "weights.bin"
            blob.write_bytes(link.weights_blob(plan))
            text = link.network_source(plan, json.dumps(description), blob, self.target)
            artifact = self._store(text, objects, draft, "network", description)
        return replace(artifact, shapes=tuple(call.shape for call in plan.calls))

    def onnx_model(self, model: bytes, inputs: Sequence[Mapping[str, Any]], input_bytes: int) -> Artifact:
        """Library of a model for the device's own ONNX Runtime; see ``engine_onnxruntime.py``.

        Args:
            model: in ONNX's format, with its weights.
            inputs: ``name``, ``dtype`` and ``shape`` of every input.
            input_bytes: of all of them.

        Raises:
            CompileError: TVM or the C compiler refuses.
        """
        description = {
            **self._description("onnx"),
            "inputs": [list(each["shape"]) for each in inputs],
            "inputs_of_model": [dict(each) for each in inputs],
            "input_bytes": input_bytes,
            "model_bytes": len(model),
            "threads": self.target.threads,
        }
        kernels = link.linked_kernels([link.reference_usage(self.target)])
        objects = object_files(kernels, self.target, self.folder, self.executor)
        with self._draft() as draft:
            blob = draft / "model.onnx"
            blob.write_bytes(model)
            text = onnx_library.source(json.dumps(description), blob, self.target)
            return self._store(text, objects, draft, "onnx", description)

    def memory_probe(self) -> Artifact:
        """Library that reads memory, as a network whose one output is its one input.

        Raises:
            CompileError: TVM or the C compiler refuses.
        """
        description = {
            **self._description("network"),
            "inputs": [[1]],
            "outputs": [[1]],
            "input_bytes": FLOAT_BYTES,
            "output_bytes": FLOAT_BYTES,
        }
        kernels = link.linked_kernels([link.reference_usage(self.target)])
        objects = object_files(kernels, self.target, self.folder, self.executor)
        with self._draft() as draft:
            text = memory_probe.source(json.dumps(description), self.target)
            return self._store(text, objects, draft, "network", description)

    def resident(self, graph: Graph, dense: nn.Module, examples: Iterable[nn.Module]) -> ResidentNetwork:
        """Library that runs a network at any widths: ``resident_run(numbers, input, output)``.

        Args:
            graph: the network's.
            dense: the widest network.
            examples: pruned ones that between them call all the kernels that others will call.

        Raises:
            NotResidentError: the network has operators without a kernel of ours.
            CompileError: widths do not fit together, or TVM or the C compiler refuses.
        """
        graph = graph.for_target(self.target)
        module = neutral(dense)
        family = Family.of(graph.plan(module), map(graph.plan, examples))
        description = {
            **self._network_description(family.dense),
            "kind": "resident",
            "arena_bytes": family.arena_bytes,
            "numbers": sum(family.slots),
        }
        kernels = link.linked_kernels([link.reference_usage(self.target), *family.usages])
        objects = object_files(kernels, self.target, self.folder, self.executor)
        with self._draft() as draft:
            blob = draft / "weights.bin"
            blob.write_bytes(link.weights_blob(family.dense))
            text = family.source(json.dumps(description), blob, self.target)
            artifact = self._store(text, objects, draft, "resident", description)
        return ResidentNetwork(artifact, family, module)

    def timeline(self, network: ResidentNetwork) -> Timeline:
        """Library that times the calls of a resident network: its kernels are there already.

        Raises:
            CompileError: the C compiler refuses.
        """
        family = network.family
        description = timeline.describe(network.artifact.description, family)
        kernels = link.linked_kernels([link.reference_usage(self.target), *family.usages])
        objects = object_files(kernels, self.target, self.folder, self.executor)
        with self._draft() as draft:
            blob = draft / "weights.bin"
            blob.write_bytes(link.weights_blob(family.dense))
            text = timeline.source(family, description, blob, self.target)
            return Timeline(self._store(text, objects, draft, "network", description), family)

    def kernels(self, shapes: Sequence[LayerShape]) -> KernelPack:
        """One library with all kernels of these layers: ``kernel_run(index, numbers)``.

        Raises:
            CompileError: there is no kernel for a layer (fallbacks have none), or TVM or the C compiler refuses.
        """
        usages = {shape: specify(shape, self.target) for shape in shapes}
        if not usages:
            raise CompileError("a pack of no kernels: give at least one layer shape")
        members: dict[tuple[Kernel, int], list[Usage]] = {}
        for shape, usage in usages.items():
            members.setdefault((usage.kernel, shape.batch), []).append(usage)
        order = {member: index for index, member in enumerate(members)}
        entries = [link.PackEntry(tuple(uses), batch, self.target.threads) for (_, batch), uses in members.items()]
        kernels = [
            {"index": index, "symbol": kernel.symbol, "numbers": len(members[kernel, batch][0].integers)}
            for (kernel, batch), index in order.items()
        ]
        description = {**self._description("kernels"), "calls": len(entries), "kernels": kernels}
        all_kernels = link.linked_kernels([link.reference_usage(self.target), *usages.values()])
        objects = object_files(all_kernels, self.target, self.folder, self.executor)
        with self._draft() as draft:
            text, description["arena_bytes"] = link.pack_source(entries, description, self.target)
            artifact = self._store(text, objects, draft, "kernels", description)
        index = {shape: (order[usage.kernel, shape.batch], usage.integers) for shape, usage in usages.items()}
        return KernelPack(artifact, index)

    def _description(self, kind: str) -> dict[str, Any]:
        """What every library says of itself."""
        return {
            "abi": ABI_VERSION,
            "kind": kind,
            "target": self.target.name,
            "schedule_version": SCHEDULE_VERSION,
            "inputs": [],
            "outputs": [],
            "input_bytes": 0,
            "output_bytes": 0,
            "arena_bytes": 0,
            "weights_bytes": 0,
            "calls": 0,
            "fallback_calls": 0,
            "fallback_ops": [],
        }

    def _network_description(self, plan: Plan) -> dict[str, Any]:
        """What a network's library says of itself."""
        inputs, outputs = ([list(value.shape) for value in values] for values in (plan.inputs, plan.outputs))
        fallbacks = [
            call.shape.op.removeprefix("fallback:") for call in plan.calls if call.shape.op.startswith("fallback:")
        ]
        return {
            **self._description("network"),
            "inputs": inputs,
            "outputs": outputs,
            "input_bytes": FLOAT_BYTES * sum(map(math.prod, inputs)),
            "output_bytes": FLOAT_BYTES * sum(map(math.prod, outputs)),
            "arena_bytes": plan.arena.size_bytes,
            "weights_bytes": plan.weights_bytes,
            "calls": len(plan.calls),
            "fallback_calls": len(fallbacks),
            "fallback_ops": sorted({op for names in fallbacks for op in names.split("+")}),
        }

    @contextlib.contextmanager
    def _draft(self) -> Iterator[Path]:
        """A folder beside the artifacts that vanishes afterwards.

        Raises:
            CompileError: nothing can be written there.
        """
        artifacts = self.folder / "artifacts"
        try:
            artifacts.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=artifacts) as name:
                yield Path(name)
        except OSError as error:
            raise CompileError(f"cannot write to {artifacts} ({error}): free space or choose another folder") from error

    def _store(
        self,
        text: str,
        objects: Sequence[Path],
        draft: Path,
        kind: Literal["network", "kernels", "resident", "onnx"],
        description: dict[str, Any],
    ) -> Artifact:
        """Link into ``draft``, then move under the digest: the folder never holds half a library."""
        library = draft / "library.so"
        link.link(text, objects, library, self.target)
        sha256 = hashlib.sha256(library.read_bytes()).hexdigest()
        path = draft.parent / f"{sha256}.so"
        library.replace(path)
        return Artifact(path, sha256, kind, self.target.name, SCHEDULE_VERSION, description)
