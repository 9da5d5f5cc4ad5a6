"""Networks planned for a device that is not there: all that a compiler would say of them, and no library."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from hwprune.compilation.compiler import Compiler
from hwprune.compilation.graph import Graph
from hwprune.compilation.resident import Family, NotResidentError, ResidentNetwork
from hwprune.compilation.timeline import Timeline
from hwprune.records import Artifact, network_key


class Planner(Compiler):
    """Gives artifacts without a file, known by their layers; needs no C compiler."""

    def network(self, graph: Graph, module: nn.Module) -> Artifact:
        """What a library of the module would say of itself; see :meth:`Compiler.network`."""
        plan = graph.for_target(self.target).plan(module)
        shapes = tuple(call.shape for call in plan.calls)
        description = self._network_description(plan)
        version = self.schedule_version
        return Artifact(Path(), network_key(shapes), "network", self.target.name, version, description, shapes)

    def onnx_model(self, model: bytes, inputs: Sequence[Mapping[str, Any]], input_bytes: int) -> Artifact:
        """What a library of the model would say of itself; it is known by the layers that ours would have."""
        description = {**self._description("onnx"), "inputs": [list(each["shape"]) for each in inputs]}
        return Artifact(Path(), "", "onnx", self.target.name, self.schedule_version, description)

    def resident(self, graph: Graph, dense: nn.Module, examples: Iterable[nn.Module]) -> ResidentNetwork:
        """What a library for every width would be called with; see :meth:`Compiler.resident`.

        Raises:
            NotResidentError: the network has operators without a kernel of ours.
        """
        graph = graph.for_target(self.target)
        family = Family.of(graph.plan(dense), map(graph.plan, examples))
        description = {**self._network_description(family.dense), "kind": "resident"}
        key = network_key(tuple(call.shape for call in family.dense.calls))
        artifact = Artifact(Path(), key, "resident", self.target.name, self.schedule_version, description)
        return ResidentNetwork(artifact, family, dense)

    def timeline(self, network: ResidentNetwork) -> Timeline:
        """Refuse: nothing runs here, and so nothing is timed.

        Raises:
            NotResidentError: always.
        """
        raise NotResidentError("a recorded device runs no libraries")
