import pytest

from hwprune.compilation import toolchain
from hwprune.compilation.targets import CpuTarget, host_target
from hwprune.errors import CompileError


@pytest.mark.parametrize(
    ("fields", "lanes"),
    [
        ({"mcpu": "sapphirerapids"}, 16),
        ({"mcpu": "haswell"}, 8),
        ({"mcpu": "nehalem"}, 4),
        ({"mcpu": "rocketlake", "mattr": ["-avx512f"]}, 8),
        ({"mcpu": "cortex-a72", "mtriple": "aarch64-linux-gnu", "mattr": ["+neon"]}, 4),
    ],
)
def test_vector_width_follows_from_the_cpu(fields, lanes):
    target = CpuTarget.from_dict({"kind": "llvm", **fields})
    assert target.lanes == lanes
    assert target.layout == f"nchw{lanes}c"
    assert fields["mcpu"] in target.name


def test_native_is_this_computer():
    assert CpuTarget.from_dict({"mcpu": "native"}) == host_target()
    assert host_target().is_host


def test_an_unknown_cpu_is_named():
    with pytest.raises(CompileError, match="does not know the CPU 'pentium9'"):
        CpuTarget.from_dict({"mcpu": "pentium9"})


def test_a_cpu_without_vectors_is_refused():
    with pytest.raises(CompileError, match="no kernels for it"):
        CpuTarget.from_dict({"mcpu": "i486", "mtriple": "i386-linux-gnu"})


def test_gpus_are_refused():
    with pytest.raises(CompileError, match="use kind 'llvm'"):
        CpuTarget.from_dict({"kind": "cuda"})


def test_threads_are_part_of_a_target_and_at_least_one():
    assert "2 threads" in CpuTarget.from_dict({}, threads=2).name
    with pytest.raises(CompileError, match="set threads to 1 or more"):
        CpuTarget.from_dict({}, threads=0)


def test_a_missing_compiler_names_the_package(monkeypatch):
    monkeypatch.setattr(toolchain.shutil, "which", lambda name: None)
    with pytest.raises(CompileError, match="apt install gcc`"):
        host_target().compiler_command()


def test_a_missing_cross_compiler_names_the_package(monkeypatch):
    monkeypatch.setattr(toolchain.shutil, "which", lambda name: None)
    target = CpuTarget.from_dict({"mcpu": "cortex-a72", "mtriple": "aarch64-linux-gnu"})
    with pytest.raises(CompileError, match="apt install gcc-aarch64-linux-gnu`"):
        target.compiler_command()


def test_the_compiler_can_be_named_with_options(monkeypatch):
    monkeypatch.setenv("CC", "cc -pipe")
    assert host_target().compiler_command() == ["cc", "-pipe"]
