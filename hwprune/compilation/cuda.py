"""A network for NVIDIA GPUs: TVM's default schedules, CUDA text that nvcc checks, and a library for TVM's runtime.

No CPU schedule of ours is used, and nothing here has run on a GPU (docs/compilation.md).
"""

from __future__ import annotations

import copy
import hashlib
import shutil
import subprocess
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tvm
from torch import Tensor, nn
from tvm import relax

from hwprune.compilation.folding import weight_and_bias
from hwprune.compilation.graph import trace
from hwprune.compilation.relax_import import from_torch
from hwprune.errors import CompileError


@dataclass(frozen=True)
class CudaTarget:
    """GPUs that networks are compiled for; the schedules are not tuned, so an architecture is all they depend on.

    Attributes:
        arch: as nvcc names it, ``sm_80``.
    """

    arch: str = "sm_80"

    def as_tvm(self) -> Any:
        """The target as TVM's ``Target``, with limits that all architectures since sm_70 keep."""
        limits = {"max_threads_per_block": 1024, "thread_warp_size": 32, "max_shared_memory_per_block": 48 << 10}
        return tvm.target.Target({"kind": "cuda", "arch": self.arch, **limits}, "llvm")


@dataclass(frozen=True)
class CudaLibrary:
    """A compiled network.

    Attributes:
        path: library for TVM's runtime: ``relax.VirtualMachine(tvm.runtime.load_module(path), tvm.cuda())["main"]``.
        source: the CUDA text of its kernels.
        cubin: what nvcc made of the text: it compiles, and for which architecture is in the file.
        target: what it was compiled for.
    """

    path: Path
    source: Path
    cubin: Path
    target: CudaTarget


def compile_cuda(
    module: nn.Module, example_input: Tensor | Sequence[Tensor], folder: Path, target: CudaTarget | None = None
) -> CudaLibrary:
    """Compile a network by TVM's default GPU schedules and check the CUDA text with nvcc.

    Args:
        module: a network in inference mode; it is not changed.
        example_input: one input or several; the library takes these shapes.
        folder: where three files appear, named by the digest of the library.
        target: architecture; sm_80 if missing.

    Raises:
        CompileError: there is no nvcc, or it refuses the text or the architecture.
        CompileError: TVM does not know an operator or cannot schedule it.
        CompileError: the folder cannot be written.
    """
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise CompileError("nvcc not found: install the CUDA toolkit and put its bin folder on PATH")
    target = target or CudaTarget()
    inputs = (example_input,) if isinstance(example_input, Tensor) else tuple(example_input)
    executable = _build(fold_batch_norms(module, inputs), inputs, target)
    text = _cuda_text(executable.mod)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as name:
            stem = Path(name) / "network"
            draft = CudaLibrary(stem.with_suffix(".so"), stem.with_suffix(".cu"), stem.with_suffix(".cubin"), target)
            draft.source.write_text(text)
            _check(nvcc, draft)
            executable.export_library(str(draft.path))
            digest = hashlib.sha256(draft.path.read_bytes()).hexdigest()
            path, source, cubin = (
                file.replace(folder / f"{digest}{file.suffix}") for file in (draft.path, draft.source, draft.cubin)
            )
    except OSError as error:
        raise CompileError(f"cannot write to {folder} ({error}): free space or choose another folder") from error
    return CudaLibrary(path, source, cubin, target)


def fold_batch_norms(module: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """A copy whose BatchNorms are part of the layers before them, wherever such a pair is met only once."""
    folded = copy.deepcopy(module)
    tensors = {**dict(folded.named_parameters()), **dict(folded.named_buffers())}
    layers = [layer for layer in trace(module, inputs).layers if {"weight", "bn_var"} <= layer.parameters.keys()]
    users: dict[str, int] = defaultdict(int)
    for layer in layers:
        for role in ("weight", "bn_var"):
            users[layer.parameters[role]] += 1
    for layer in layers:
        weight_name, norm_name = layer.parameters["weight"], layer.parameters["bn_var"].rpartition(".")[0]
        if users[weight_name] > 1 or users[layer.parameters["bn_var"]] > 1:
            continue
        owner = folded.get_submodule(weight_name.rpartition(".")[0])
        is_transposed = isinstance(owner, nn.modules.conv._ConvTransposeNd)
        if is_transposed or not isinstance(owner, (nn.Linear, nn.modules.conv._ConvNd)):
            continue  # TVM computes these BatchNorms as they are
        weight, bias = weight_and_bias(layer, tensors)
        owner.weight, owner.bias = (nn.Parameter(torch.from_numpy(array), False) for array in (weight, bias))
        folded.set_submodule(norm_name, nn.Identity())
    return folded


def _build(module: nn.Module, inputs: tuple[Tensor, ...], target: CudaTarget) -> Any:
    """The network as an executable of TVM's virtual machine.

    Raises:
        CompileError: TVM does not know an operator or cannot schedule it.
    """
    with torch.no_grad():
        program = torch.export.export(module, inputs)
    imported = relax.transform.DecomposeOpsForInference()(from_torch(program))
    tvm_target = target.as_tvm()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return relax.build(imported, tvm_target, relax_pipeline=relax.get_default_pipeline(tvm_target))
    except Exception as error:  # TVM raises whatever its C++ threw, under many types
        line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        remedy = "correct the architecture or replace the operator"
        raise CompileError(f"TVM cannot compile this network for {target.arch} ({line}): {remedy}") from error


def _cuda_text(module: Any) -> str:
    """CUDA text of all kernels."""
    texts = [part.inspect_source() for part in module.imports if part.kind == "cuda"]
    return "\n".join([*texts, *(_cuda_text(part) for part in module.imports if part.kind != "cuda")])


def _check(nvcc: str, draft: CudaLibrary) -> None:
    """Compile the text to a cubin.

    Raises:
        CompileError: nvcc refuses it.
    """
    command = [nvcc, "-cubin", f"-arch={draft.target.arch}", "-o", str(draft.cubin), str(draft.source)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        lines = run.stderr.splitlines() or ["no message"]
        line = next((line for line in lines if "error" in line or "fatal" in line), lines[-1])
        raise CompileError(
            f"nvcc failed ({line.strip()}): check that it knows {draft.target.arch} and finds a compiler"
        )
