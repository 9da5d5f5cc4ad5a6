"""A tiny network, compiled for a device as any other, that shows whether its libraries load and compute there."""

from __future__ import annotations

import torch
from torch import nn

from device_agents.client import AgentClient
from device_agents.registry import Device
from hwprune.compilation.compiler import Compiler
from hwprune.compilation.graph import trace
from hwprune.compilation.targets import CpuTarget
from hwprune.experiments.candidates import self_test
from hwprune.experiments.home import Home


def probe(home: Home, device: Device, client: AgentClient) -> float:
    """Compile, send, load, compare with torch's output; the time from opening to the first output, in ms.

    Raises:
        CompileError: the compiler is missing, or refuses.
        LoadFailed: the library does not load, or computes something else.
        AgentError: it cannot be sent, or the device is lost.
    """
    target = CpuTarget.from_dict(device.target, device.threads)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 8 * 8, 4)).eval()
    example = torch.zeros(1, 3, 8, 8)
    library = Compiler(target, home.path).network(trace(network, example, target), network)
    client.put(library.path, library.sha256)
    loaded = client.load(library.sha256, cores=device.pinned_cores, self_test=self_test(network, example))
    client.unload(loaded.handle)
    return loaded.load_ms
