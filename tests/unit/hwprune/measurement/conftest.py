import dataclasses
import hashlib
import json
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from device_agents.client import AgentClient, SelfTest
from device_agents.registry import Device
from device_agents.transport import LoopbackTransport
from hwprune.measurement.link import Link
from hwprune.measurement.measure import Measurer
from hwprune.measurement.session import Settings
from hwprune.records import Artifact
from hwprune.store import Store
from latency_models.shapes import LayerShape

SOURCE = Path(__file__).with_name("library.c")
SCHEDULE = "fixture"


@dataclasses.dataclass(frozen=True)
class Pack:
    artifact: Artifact
    index: dict[LayerShape, tuple[int, tuple[int, ...]]]


class FixtureCompiler:
    """Compiles libraries of known behaviour from ``library.c``."""

    schedule_version = SCHEDULE

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.packs = 0

    def network(self, work: int = 1000, fatal_call: int = 0, kills_parent: int = 0, **description: Any) -> Artifact:
        facts = {"inputs": [[1, 4]], "outputs": [[1, 1]], "input_bytes": 16, "output_bytes": 4}
        return self.library(
            "network", {**facts, **description}, WORK=work, FATAL_CALL=fatal_call, KILLS_PARENT=kills_parent
        )

    def resident(self) -> Artifact:
        facts = {"inputs": [[1, 4]], "outputs": [[1, 1]], "input_bytes": 16, "output_bytes": 4, "numbers": 2}
        return self.library("resident", facts, WORK=10)

    def kernels(self, shapes: Sequence[LayerShape]) -> Pack:
        self.packs += 1
        artifact = self.library("kernels", {"kernels": [{"index": 0, "symbol": "kernel", "numbers": 2}]}, WORK=1)
        return Pack(artifact, {shape: (0, (shape.in_channels, shape.out_channels)) for shape in shapes})

    def memory_probe(self) -> Artifact:
        return self.network(work=5000, outputs=[[1, 2]])

    def library(self, kind: Any, facts: dict[str, Any], **macros: int) -> Artifact:
        description = {"abi": 1, "kind": kind, "weights_bytes": 100, "arena_bytes": 23, "fallback_calls": 0, **facts}
        text = json.dumps(json.dumps({**description, "fallback_ops": facts.get("fallback_ops", [])}))
        defines = [
            f"-D{name}={value}"
            for name, value in {"FATAL_CALL": 0, "KILLS_PARENT": 0, **macros, "DESCRIPTION": text}.items()
        ]
        path = self.folder / "draft.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", *defines, str(SOURCE), "-o", str(path)], check=True)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        path = path.rename(self.folder / f"{sha256}.so")
        return Artifact(path, sha256, kind, "host", SCHEDULE, description)


@pytest.fixture
def compiler(tmp_path: Path) -> FixtureCompiler:
    folder = tmp_path / "artifacts"
    folder.mkdir()
    return FixtureCompiler(folder)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store.db", tmp_path / "artifacts") as store:
        yield store


@pytest.fixture
def client(tmp_path: Path) -> Iterator[AgentClient]:
    with AgentClient(LoopbackTransport(tmp_path / "agent")) as client:
        yield client


@pytest.fixture
def measurer(client: AgentClient, compiler: FixtureCompiler, store: Store) -> Measurer:
    """Quick, and in no need of a quiet computer."""
    device = Device(
        name="local", transport="local", platform="cpu", target={"kind": "llvm"}, description=client.describe()
    )
    brief = Settings(blocks=6, calls_min=3, block_ms_min=0.5, repeats_max=1, repeat_s=1.0, timeout_s=5.0)
    return Measurer(
        Link(lambda: client),
        compiler,
        store,
        device,
        settings=brief,
        resident_settings=brief,
        kernel_settings=brief,
        wait_s=0.0,
        say=lambda _text: None,
    )


@pytest.fixture
def sum_of_four() -> SelfTest:
    """What every network of the fixture computes."""
    return SelfTest(struct.pack("4f", 1, 2, 3, 4), struct.pack("f", 10))
