"""A small network for emulated boards: compiled for what their agent says they are, and what torch computes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from device_agents.client import AgentClient, SelfTest, TimingRequest, TimingResult
from hwprune.compilation.compiler import Compiler
from hwprune.compilation.graph import trace
from hwprune.compilation.targets import CpuTarget, target_of
from hwprune.networks.resnet_cifar import build
from hwprune.records import Artifact

#: Short, for what an emulator makes of it.
QUICK = {"blocks": 5, "calls_min": 5, "block_ms_min": 1.0, "warmup_ms_max": 50.0, "timeout_s": 60.0}


@dataclass(frozen=True)
class SmallNetwork:
    """A network of one board.

    Attributes:
        artifact: its library.
        self_test: an input, and the output that torch computes for it.
    """

    artifact: Artifact
    self_test: SelfTest

    @classmethod
    def compiled(cls, description: dict[str, Any], folder: Path) -> SmallNetwork:
        """Made for the board that its agent describes; ``folder`` keeps what is compiled."""
        torch.manual_seed(0)
        network = build(depth=8, num_classes=10, widths=(8, 12, 20)).eval()
        x = torch.randn(1, 3, 16, 16)
        with torch.no_grad():
            expected = network(x)
        compiler = Compiler(CpuTarget.from_dict(target_of(description)), folder)
        artifact = compiler.network(trace(network, x), network)
        return cls(artifact, SelfTest(x.numpy().tobytes(), expected.numpy().tobytes()))

    def load(self, client: AgentClient) -> int:
        """Handle of the library on the board, whose output is that of torch."""
        client.put(self.artifact.path, self.artifact.sha256)
        return client.load(self.artifact.sha256, self_test=self.self_test, timeout_s=60.0).handle

    def time(self, client: AgentClient, **settings: Any) -> TimingResult:
        """Load it and time it."""
        (result,) = client.measure([TimingRequest(self.load(client))], **{**QUICK, **settings})
        assert result.error is None
        return result


def fastest_ms(result: TimingResult) -> float:
    """The least of all values."""
    return min(min(block.values_ms) for block in result.blocks)
