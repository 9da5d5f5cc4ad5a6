"""Libraries for aarch64, run in an emulator: do they compute what torch computes?"""

import itertools
import shutil
from dataclasses import replace

import c_runner
import layer_networks
import numpy as np
import pytest
import torch

from hwprune.compilation.compiler import Compiler
from hwprune.compilation.graph import trace
from hwprune.compilation.targets import CpuTarget
from hwprune.compilation.verify import TOLERANCE

pytestmark = pytest.mark.boards

CPUS = ("cortex-a53", "cortex-a72", "cortex-a76", "neoverse-n1")
TRIPLE = "aarch64-linux-gnu"

#: Every family on one CPU, the CPUs by turns.
FAMILIES = tuple(zip(layer_networks.NETWORKS, itertools.cycle(CPUS), strict=False))


@pytest.fixture(scope="module")
def emulate(tmp_path_factory):
    """Runs a network's library in the emulator: artifact and input -> output."""
    needs = {"qemu-aarch64": "qemu-user", f"{TRIPLE}-gcc": f"gcc-{TRIPLE} libc6-dev-arm64-cross"}
    missing = [package for program, package in needs.items() if not shutil.which(program)]
    if missing:
        pytest.skip(f"needs an emulator and a cross compiler: apt install {' '.join(missing)}")
    runner = c_runner.build([f"{TRIPLE}-gcc"], tmp_path_factory.mktemp("runner"))

    def run(artifact, x):
        return c_runner.run(["qemu-aarch64", "-L", f"/usr/{TRIPLE}", runner], artifact, x)

    return run


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """Folder of compiled kernels that all tests share."""
    return tmp_path_factory.mktemp("kernels")


def difference(emulate, kernels, cpu, module, x, sparse="never"):
    """Largest difference from torch, relative to the largest output, and the kernels that were called."""
    target = CpuTarget.from_dict({"kind": "llvm", "mcpu": cpu, "mtriple": TRIPLE})
    assert target.unit.feature == "neon"
    graph = replace(trace(module, x), sparse=sparse)
    artifact = Compiler(target, kernels).network(graph, module)
    assert artifact.description["fallback_calls"] == 0
    with torch.no_grad():
        wanted = module(x).flatten().numpy()
    return float(np.abs(emulate(artifact, x) - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize(("name", "cpu"), FAMILIES)
def test_every_family_computes_what_torch_computes(emulate, kernels, name, cpu):
    assert difference(emulate, kernels, cpu, *layer_networks.network(name)) < TOLERANCE


@pytest.mark.parametrize("cpu", CPUS[::3])
def test_the_sparse_kernel_computes_what_torch_computes(emulate, kernels, cpu):
    assert difference(emulate, kernels, cpu, *layer_networks.half_zero(), sparse="always") < TOLERANCE
