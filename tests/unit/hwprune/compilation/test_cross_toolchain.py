"""Compilers are found, and what they make is loaded by C libraries other than this computer's."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import c_runner
import layer_networks
import numpy as np
import pytest
import torch

from hwprune.compilation.compiler import Compiler
from hwprune.compilation.graph import trace
from hwprune.compilation.targets import CpuTarget
from hwprune.compilation.toolchain import compiler_command
from hwprune.compilation.verify import TOLERANCE
from hwprune.errors import CompileError

pytestmark = pytest.mark.boards

AARCH64 = {"kind": "llvm", "mcpu": "cortex-a53", "mtriple": "aarch64-linux-gnu"}
X86 = {"kind": "llvm", "mcpu": "x86-64-v2", "mtriple": "x86_64-linux-gnu"}
ZIG = [sys.executable, "-m", "ziglang", "cc"]

#: All that libraries may ask of the program that loads them; glibc 2.17 and musl have each of these, or the other one.
FROM_OUTSIDE = {"memcpy", "memset"}
THREADS_FROM_OUTSIDE = {
    *("__cxa_finalize", "clock_gettime", "sched_yield", "sigfillset", "syscall"),
    *("pthread_create", "pthread_join", "pthread_sigmask", "__register_atfork", "pthread_atfork"),
}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """Folder of compiled kernels that all tests share."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Function that puts empty programs of these names on an otherwise empty PATH; there is no zig."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    def put(*names):
        for name in names:
            (tmp_path / name).touch(0o755)

    return put


def test_this_computers_compilers_come_in_order(programs, monkeypatch):
    programs("gcc", "clang", "other")
    assert compiler_command("x86_64", True) == ["gcc"]
    monkeypatch.setenv("CC", "clang -pipe")
    assert compiler_command("x86_64", True) == ["clang", "-pipe"]
    assert compiler_command("x86_64", True, "other -v") == ["other", "-v"]


def test_another_processors_compiler_is_a_cross_compiler(programs, monkeypatch):
    programs("cc", "aarch64-linux-gnu-gcc", "other")
    monkeypatch.setenv("CC", "cc")
    assert compiler_command("aarch64", False) == ["aarch64-linux-gnu-gcc"]
    assert compiler_command("aarch64", False, "other") == ["other"]


def test_zig_is_taken_where_there_is_no_other(programs, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "ziglang")
    assert compiler_command("aarch64", False) == [*ZIG, "-target", "aarch64-linux-gnu.2.17"]
    programs("aarch64-linux-gnu-gcc")
    assert compiler_command("aarch64", False) == ["aarch64-linux-gnu-gcc"]


def test_a_missing_cross_compiler_names_both_ways_to_get_one(programs):
    programs("cc")
    with pytest.raises(
        CompileError, match=r"for x86_64: .*`apt install gcc-x86-64-linux-gnu`, or `pip install ziglang`"
    ):
        compiler_command("x86_64", False)


def test_a_triple_may_name_its_vendor():
    assert CpuTarget.from_dict({**AARCH64, "mtriple": "aarch64-unknown-linux-gnu"}).arch == "aarch64"


def compiled(kernels, fields, threads, name="elementwise"):
    """A network's library, or a skipped test where no compiler makes one."""
    target = CpuTarget.from_dict(fields, threads)
    try:
        target.compiler_command()
    except CompileError as error:
        pytest.skip(str(error))
    module, x = layer_networks.network(name)
    artifact = Compiler(target, kernels).network(trace(module, x), module)
    with torch.no_grad():
        return artifact, x, module(x).flatten().numpy()


def difference(got, wanted):
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize(
    ("name", "threads"), [("global_pool", 1), ("elementwise", 1), ("resize", 1), ("softmax", 1), ("global_pool", 2)]
)
@pytest.mark.parametrize("fields", [X86, AARCH64], ids=["x86_64", "aarch64"])
def test_a_library_asks_for_no_other_library_and_no_version(kernels, fields, threads, name):
    if not shutil.which("readelf"):
        pytest.skip("needs binutils")
    artifact, _, _ = compiled(kernels, fields, threads, name)
    assert asked_for(artifact) <= (FROM_OUTSIDE | THREADS_FROM_OUTSIDE if threads > 1 else FROM_OUTSIDE)


def asked_for(artifact):
    """Functions that a library asks for; of whatever library, in whatever version."""
    command = ["readelf", "--wide", "--dynamic", "--dyn-syms", "--version-info", artifact.path]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "NEEDED" not in text
    assert "GLIBC" not in text
    return set(re.findall(r"\bUND (\w+)$", text, re.MULTILINE))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("fields", [X86, AARCH64], ids=["x86_64", "aarch64"])
def test_a_timeline_asks_for_the_time_alone(kernels, fields, threads):
    if not shutil.which("readelf"):
        pytest.skip("needs binutils")
    target = CpuTarget.from_dict(fields, threads)
    try:
        target.compiler_command()
    except CompileError as error:
        pytest.skip(str(error))
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3)).eval()
    compiler = Compiler(target, kernels)
    timeline = compiler.timeline(compiler.resident(trace(module, torch.zeros(1, 3, 8, 8), target), module, [module]))
    allowed = FROM_OUTSIDE | {"clock_gettime"} | (THREADS_FROM_OUTSIDE if threads > 1 else set())
    assert "clock_gettime" in asked_for(timeline.artifact) <= allowed


@pytest.mark.parametrize("threads", [1, 2])
def test_musl_loads_and_runs_a_library(kernels, tmp_path, threads):
    if not shutil.which("musl-gcc"):
        pytest.skip("needs musl: apt install musl-tools")
    artifact, x, wanted = compiled(kernels, X86, threads)
    runner = c_runner.build(["musl-gcc"], tmp_path)
    assert difference(c_runner.run([runner], artifact, x), wanted) < TOLERANCE


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("cc", ["", "zig"])
def test_both_toolchains_make_aarch64_libraries_that_compute_what_torch_computes(kernels, tmp_path, threads, cc):
    if cc and not importlib.util.find_spec("ziglang"):
        pytest.skip("needs zig: pip install ziglang")
    if not shutil.which("qemu-aarch64") or not Path("/usr/aarch64-linux-gnu/lib/libc.so.6").exists():
        pytest.skip("needs an emulator and a C library: apt install qemu-user libc6-dev-arm64-cross")
    if not shutil.which("aarch64-linux-gnu-gcc"):
        pytest.skip("needs a compiler of the program that loads: apt install gcc-aarch64-linux-gnu")
    cc = cc and " ".join([*ZIG, "-target", "aarch64-linux-gnu.2.17"])
    artifact, x, wanted = compiled(kernels, {**AARCH64, "cc": cc}, threads)
    runner = c_runner.build(["aarch64-linux-gnu-gcc"], tmp_path)
    got = c_runner.run(["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", runner], artifact, x)
    assert difference(got, wanted) < TOLERANCE
