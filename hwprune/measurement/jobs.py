"""What is measured: compiled networks, and libraries of many kernels."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from device_agents.client import SelfTest
from hwprune.records import Artifact, digest, network_key
from latency_models.shapes import LayerShape


class KernelPack(Protocol):
    """One library of many kernels."""

    @property
    def artifact(self) -> Artifact:
        """The library."""
        ...

    @property
    def index(self) -> Mapping[LayerShape, tuple[int, tuple[int, ...]]]:
        """Layer -> number of its kernel and the integers to call it with."""
        ...


class KernelCompiler(Protocol):
    """What :class:`Measurer` needs of ``compilation.compiler.Compiler``."""

    @property
    def schedule_version(self) -> str:
        """Version of the kernels' schedules."""
        ...

    def kernels(self, shapes: Sequence[LayerShape]) -> KernelPack:
        """One library with the kernels of these layers."""
        ...

    def memory_probe(self) -> Artifact:
        """Library that reads memory."""
        ...


@dataclass(frozen=True)
class NetworkJob:
    """A compiled network to measure.

    Attributes:
        artifact: its library, or a resident one that runs it.
        self_test: what the library must compute before any number of it is believed.
        own_kernels_ms: what its kernels with a schedule of ours take together, as far as that is known; the rest of its
            latency is then the share of the others. Needed only where it makes calls to others.
        numbers: what stands for its widths in a resident library; () in a library of its own.
        memory_bytes: packed weights plus arena of the network itself; None for the library's.
        engine: what runs it, where that is not our own code: ``onnxruntime`` with its version.
        shapes: its layers; () for the library's.
    """

    artifact: Artifact
    self_test: SelfTest | None = None
    own_kernels_ms: float | None = None
    numbers: tuple[int, ...] = ()
    memory_bytes: int | None = None
    engine: str = ""
    shapes: tuple[LayerShape, ...] = ()

    @functools.cached_property
    def key(self) -> str:
        """What its measurement is kept under."""
        if not self.numbers:
            return self.artifact.sha256
        return digest({"library": self.artifact.sha256, "numbers": list(self.numbers)})

    @functools.cached_property
    def shapes_key(self) -> str:
        """Digest of its layers, which is the same wherever it is compiled."""
        return network_key(self.shapes or self.artifact.shapes)

    @property
    def planned_memory_bytes(self) -> int | None:
        """Packed weights plus arena; None where they are not ours."""
        return self.artifact.planned_memory_bytes if self.memory_bytes is None else self.memory_bytes
