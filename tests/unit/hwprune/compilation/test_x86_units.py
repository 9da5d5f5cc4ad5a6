"""Libraries for the vector units of older x86-64 computers, run on this one."""

import itertools
from dataclasses import replace

import layer_networks
import pytest

from hwprune.compilation.compiler import Compiler
from hwprune.compilation.graph import trace
from hwprune.compilation.targets import VECTOR_UNITS, CpuTarget, host_target
from hwprune.compilation.verify import TOLERANCE, verify

#: LLVM name -> the unit that it must get; computers with AVX-512 run all other tests on that.
CPUS = {"haswell": "avx2", "nehalem": "sse4.2"}
#: Families whose blocks of registers hang on the unit are tried on both, the others by turns.
ON_BOTH = ("conv_1x1", "conv_3x3", "conv_strided", "conv_plain", "few_channels", "depthwise", "dense", "elementwise")
FAMILIES = sorted({*zip(layer_networks.NETWORKS, itertools.cycle(CPUS)), *itertools.product(ON_BOTH, CPUS)})


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """Folder of compiled kernels that all tests share."""
    return tmp_path_factory.mktemp("kernels")


def compiler(cpu, kernels):
    """Compiler for one of the CPUs, if this computer has what it has."""
    target, order = CpuTarget.from_dict({"kind": "llvm", "mcpu": cpu}), [unit.feature for unit in VECTOR_UNITS]
    host = host_target().unit.feature
    if host == "neon" or order.index(host) > order.index(CPUS[cpu]):
        pytest.skip(f"this computer has {host}, not {CPUS[cpu]}")
    assert target.unit.feature == CPUS[cpu]
    return Compiler(target, kernels)


@pytest.mark.parametrize(("name", "cpu"), FAMILIES)
def test_every_family_computes_what_torch_computes(kernels, name, cpu):
    module, x = layer_networks.network(name)
    artifact = compiler(cpu, kernels).network(trace(module, x), module)
    assert artifact.description["fallback_calls"] == 0
    assert verify(artifact, module, x) < TOLERANCE


@pytest.mark.parametrize("cpu", CPUS)
def test_the_sparse_kernel_computes_what_torch_computes(kernels, cpu):
    module, x = layer_networks.half_zero()
    artifact = compiler(cpu, kernels).network(replace(trace(module, x), sparse="always"), module)
    assert verify(artifact, module, x) < TOLERANCE
