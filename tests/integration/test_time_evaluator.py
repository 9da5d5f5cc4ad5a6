"""The library that the agent times is the one that TVM loads and times itself."""

from __future__ import annotations

import numpy as np
import torch

from device_agents.client import AgentClient
from device_agents.transport import LoopbackTransport
from hwprune.compilation.compiler import Compiler
from hwprune.compilation.graph import trace
from hwprune.compilation.targets import host_target
from hwprune.networks.resnet_cifar import build


def test_agent_and_time_evaluator_run_the_same_network(tmp_path):
    import tvm

    torch.manual_seed(0)
    module = build(depth=8, num_classes=10).eval()
    x = torch.randn(1, 3, 16, 16)
    library = Compiler(host_target(), tmp_path).network(trace(module, x), module)
    with torch.inference_mode():
        expected = module(x).numpy()

    with AgentClient(LoopbackTransport(tmp_path / "agent")) as client:
        client.put(library.path, library.sha256)
        loaded = client.load(library.sha256)
        by_agent = np.frombuffer(client.run(loaded.handle, x.numpy().tobytes()), np.float32).reshape(expected.shape)

    tvm_library = tvm.runtime.load_module(str(library.path))
    device = tvm.cpu()
    output = tvm.runtime.tensor(np.zeros_like(expected), device)
    timed = tvm_library.time_evaluator("main", device, number=1, repeat=3)(
        tvm.runtime.tensor(x.numpy(), device), output
    )
    assert min(timed.results) > 0
    by_evaluator = output.numpy()

    np.testing.assert_array_equal(by_agent, by_evaluator)
    np.testing.assert_allclose(by_agent, expected, atol=1e-4 * np.abs(expected).max())
