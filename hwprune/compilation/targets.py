"""What kernels are compiled for: vector width, register tile, caches and C compiler of a CPU."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hwprune.compilation import processors, toolchain
from hwprune.errors import CompileError

os.environ.setdefault("TVM_NUM_THREADS", "1")  # read when TVM is imported; kernels here never need its pool


@dataclass(frozen=True)
class VectorUnit:
    """Vector registers of an instruction set.

    Attributes:
        feature: LLVM's name of the feature that brings it.
        lanes: float32 values a register.
        accumulators: registers a tile may keep; the others hold weights and the broadcast input.
        l1_bytes: first-level data cache that can be counted on.
    """

    feature: str
    lanes: int
    accumulators: int
    l1_bytes: int


# The sums are the most of which LLVM keeps all in registers, counted as accesses to the stack between the first and the
# last multiply-add of compiled 3x3 tiles (the tiles of 1, 2, 3, 4 blocks that `tiling.pixels_max` allows, in pixels):
#
#   unit     registers  sums  tiles          why not more
#   avx512f  32         21    16, 10, 7, 5   inputs that the next tap reads again stay in the other eleven
#   avx2     16         10    8, 5, 3, 2     12 sums, as in hand-written kernels of one tap, spill 42 to 68 times a
#                                            channel: 1.1 to 1.4 times the time
#   sse4.2   16         9     7, 4, 3, 2     no fused multiply-add: each product needs a register of its own
#   neon     32         20    15, 10, 6, 5   21 sums spill on the in-order cortex-a53, whose loads LLVM moves ahead
#
# The cache is the smallest in common use: Haswell, Skylake, cortex-a53 and a72 have 32 KB, later ones 48 or 64.
#: Best first.
VECTOR_UNITS = (
    VectorUnit("avx512f", 16, 21, 32 << 10),
    VectorUnit("avx2", 8, 10, 32 << 10),
    VectorUnit("sse4.2", 4, 9, 32 << 10),
    VectorUnit("neon", 4, 20, 32 << 10),
)


@dataclass(frozen=True)
class CpuTarget:
    """A CPU that kernels are compiled for.

    Attributes:
        mcpu: LLVM's CPU name.
        unit: the vector registers to use.
        mtriple: LLVM's triple; "" for this computer's.
        mattr: further LLVM features, ``+`` or ``-`` in front.
        threads: threads of one inference.
        cc: command of the C compiler; "" to look for one.
    """

    mcpu: str
    unit: VectorUnit
    mtriple: str = ""
    mattr: tuple[str, ...] = ()
    threads: int = 1
    cc: str = ""

    @classmethod
    def from_dict(cls, target: Mapping[str, Any], threads: int = 1) -> CpuTarget:
        """Target of a device's entry, ``{"kind": "llvm", "mcpu": ..., "mtriple": ..., "mattr": [...]}``.

        A missing ``mcpu`` (or ``native``) means this computer's.

        Raises:
            CompileError: a kind other than ``llvm``, less than one thread, or a CPU that LLVM does not know.
        """
        if target.get("kind", "llvm") != "llvm":
            raise CompileError(f"target kind {target['kind']!r} cannot be compiled for: use kind 'llvm'")
        if threads < 1:
            raise CompileError(f"{threads} threads cannot run a network: set threads to 1 or more")
        mcpu = str(target.get("mcpu") or "native")
        mcpu = _llvm("target.llvm_get_system_cpu") if mcpu in ("native", "host") else mcpu
        mtriple = str(target.get("mtriple") or "")
        mattr = tuple(str(feature) for feature in target.get("mattr") or ())
        return cls(mcpu, _vector_unit(mcpu, mtriple, mattr), mtriple, mattr, threads, str(target.get("cc") or ""))

    @property
    def lanes(self) -> int:
        """Float32 values of one vector register, and channels of one block."""
        return self.unit.lanes

    @property
    def accumulators(self) -> int:
        """Registers that a tile of outputs may keep."""
        return self.unit.accumulators

    @property
    def layout(self) -> str:
        """Name of the blocked layout: ``nchw16c``, ``nchw8c`` or ``nchw4c``."""
        return f"nchw{self.lanes}c"

    @property
    def name(self) -> str:
        """The target as text; equal texts mean interchangeable libraries."""
        parts = [self.mcpu, *([self.mtriple] if self.mtriple else []), *self.mattr]
        return f"{' '.join(parts)} ({self.lanes} lanes, {self.threads} thread{'s' * (self.threads > 1)})"

    @property
    def arch(self) -> str:
        """The architecture, as ``uname -m`` tells it."""
        return self.mtriple.split("-")[0] or platform.machine()

    @property
    def is_host(self) -> bool:
        """Whether its libraries run on this computer's architecture."""
        return self.arch == platform.machine()

    def as_tvm(self) -> Any:
        """The target as TVM's ``Target``."""
        import tvm

        fields: dict[str, Any] = {"kind": "llvm", "mcpu": self.mcpu, "num-cores": 1}
        if self.mtriple:
            fields["mtriple"] = self.mtriple
        if self.mattr:
            fields["mattr"] = list(self.mattr)
        target = tvm.target.Target(fields)
        return target.with_host(target)

    def compiler_command(self) -> list[str]:
        """C compiler and its first arguments: ``cc`` of the target, or the first that is installed.

        Raises:
            CompileError: there is none for this architecture.
        """
        return toolchain.compiler_command(self.arch, self.is_host, self.cc)


@functools.cache
def host_target(threads: int = 1) -> CpuTarget:
    """This computer's CPU, as LLVM names it."""
    return CpuTarget.from_dict({"kind": "llvm"}, threads)


def target_of(description: Mapping[str, Any]) -> dict[str, Any]:
    """Target of a device, from what its agent said of it: a design that LLVM knows, less what the system does not name.

    Raises:
        CompileError: there are no kernels for its processor, or it does not tell which one it has.
    """
    arch, mcpu, features = processors.identify(description)
    target: dict[str, Any] = {"kind": "llvm", "mtriple": f"{arch}-linux-gnu", "mcpu": mcpu, "mattr": []}
    tvm_target = CpuTarget(mcpu, VECTOR_UNITS[-1], target["mtriple"]).as_tvm()
    for feature, is_there in features.items():
        if _llvm("target.llvm_cpu_has_feature", feature, tvm_target) != is_there:
            target["mattr"].append(f"{'+' if is_there else '-'}{feature}")
    CpuTarget.from_dict(target)
    return target


def _llvm(function: str, *arguments: Any) -> Any:
    """Ask the LLVM inside TVM."""
    import tvm

    return tvm.get_global_func(function)(*arguments)


@functools.cache
def _vector_unit(mcpu: str, mtriple: str, mattr: tuple[str, ...]) -> VectorUnit:
    """The best vector unit that this CPU has.

    Raises:
        CompileError: LLVM does not know the CPU, or it has no vector unit of the table.
    """
    if not _llvm("target.llvm_is_valid_cpu", mcpu, mtriple or _llvm("target.llvm_get_system_triple")):
        raise CompileError(f"LLVM does not know the CPU {mcpu!r}: correct mcpu in the device's entry")
    target = CpuTarget(mcpu, VECTOR_UNITS[-1], mtriple, mattr).as_tvm()
    for unit in VECTOR_UNITS:
        if f"-{unit.feature}" not in mattr and _llvm("target.llvm_cpu_has_feature", unit.feature, target):
            return unit
    raise CompileError(f"{mcpu!r} has none of {', '.join(unit.feature for unit in VECTOR_UNITS)}: no kernels for it")
