"""Kernel -> object file with plain C functions, in a cache that processes may share."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

import tvm
from tvm import tirx
from tvm.tirx.buffer import is_buffer_var

from hwprune.compilation import c_code
from hwprune.compilation.kernels import SCHEDULE_VERSION
from hwprune.compilation.kernels.explicit import EXPLICIT
from hwprune.compilation.kernels.kernel import Kernel
from hwprune.compilation.targets import CpuTarget
from hwprune.errors import CompileError


def object_files(
    kernels: Iterable[Kernel], target: CpuTarget, folder: Path, executor: Executor | None = None
) -> list[Path]:
    """Object files of the kernels, in their order; missing ones are compiled.

    Args:
        kernels: what is wanted.
        target: the processor.
        folder: where they are kept.
        executor: what compiles where several are missing; None for this process.

    Raises:
        CompileError: TVM or the C compiler refuses a kernel, or the folder cannot be written.
    """
    kernels = list(kernels)
    paths = [object_path(kernel, target, folder) for kernel in kernels]
    if all(path.exists() for path in paths):
        return paths
    with _in_turn(folder / "locks", target):
        # Who waited may find that somebody else has compiled them: boards of one model want the same kernels.
        missing = {path: kernel for kernel, path in zip(kernels, paths, strict=True) if not path.exists()}
        compiled = executor.map if executor is not None and len(missing) > 1 else map
        for path, content in zip(missing, compiled(_compile, missing.values(), [target] * len(missing)), strict=True):
            _keep(content, path)
    return paths


@contextlib.contextmanager
def _in_turn(folder: Path, target: CpuTarget) -> Iterator[None]:
    """Keep other processes from compiling for the same target meanwhile; the system frees it if this one dies.

    Raises:
        CompileError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / f"compiling-{hashlib.sha256(target.name.encode()).hexdigest()[:12]}.lock", "w")  # noqa: SIM115
    except OSError as error:
        raise CompileError(f"cannot write to {folder} ({error}): free space or choose another folder") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def object_path(kernel: Kernel, target: CpuTarget, folder: Path) -> Path:
    """Where the object file of a kernel lies: its name holds all that its content depends on."""
    state = repr((SCHEDULE_VERSION, tvm.__version__, kernel.symbol, replace(target, threads=1).name))
    return folder / "kernels" / f"{hashlib.sha256(state.encode()).hexdigest()[:24]}.o"


def _compile(kernel: Kernel, target: CpuTarget) -> bytes:
    """Object file of one kernel."""
    tvm_target = target.as_tvm()
    with tempfile.TemporaryDirectory(prefix="hwprune-") as scratch:
        draft = Path(scratch) / "kernel.o"
        try:
            if kernel.is_composite:
                c_code.build(c_code.PRELUDE + c_code.PADDING + kernel.glue, ["-O2", "-c"], [], draft, target)
            else:
                functions = {symbol: lower(function, symbol, tvm_target) for symbol, function in kernel.build().items()}
                module = tvm.get_global_func("target.build.llvm")(tvm.IRModule(functions), tvm_target)
                module.write_to_file(str(draft))
            return draft.read_bytes()
        except CompileError:
            raise
        except OSError as error:
            raise CompileError(f"cannot write {draft} ({error}): free space there, or set TMPDIR") from error
        except Exception as error:  # TVM raises whatever its C++ threw, under many types
            line = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            raise CompileError(f"TVM cannot compile {kernel.symbol} ({line}): report this layer") from error


def _keep(content: bytes, path: Path) -> None:
    """Write an object file whole or not at all; other processes may write the same one."""
    draft = path.with_name(f"{path.stem}.{os.getpid()}.{threading.get_ident()}.o")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content)
        draft.replace(path)
    except OSError as error:
        raise CompileError(f"cannot write {path} ({error}): free space or choose another folder") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def lower(function: Any, symbol: str, target: Any) -> Any:
    """TIR function -> one that takes raw pointers: neither packed calling convention nor TVM runtime.

    MakePackedAPI is switched off and its part done here: buffers declared from pointers, device attributes set.
    Accumulators stay on the stack (``disable_lower_builtin``); otherwise they would become workspace calls.
    """
    attributes = {"global_symbol": symbol, "calling_conv": 1, "tirx.noalias": True, "tirx.is_scheduled": True}
    module = tvm.IRModule({symbol: function.with_attrs(attributes)})
    module = tirx.transform.BindTarget(target)(module)
    pipeline, finalize, _ = tirx.get_tir_pipeline("s_tir")
    skipped = ["MakePackedAPI", "FP8StorageLegalize", "BF16StorageLegalize", "AnnotateEntryFunc"]
    if EXPLICIT in function.attrs:
        module = tirx.transform.VectorizeLoop()(module)
    else:
        with tvm.transform.PassContext(opt_level=2, disabled_pass=["tirx." + name for name in skipped]):
            module = pipeline(module)
    function = module[symbol]
    pointer = tvm.ir.PointerType(tvm.ir.PrimType("float32"))
    parameters: list[Any] = []
    body: list[Any] = []
    for parameter in function.params:
        if is_buffer_var(parameter):
            parameters.append(tirx.Var(parameter.name, pointer))
            body.append(tirx.DeclBuffer(parameter, data=parameters[-1]))
        else:
            parameters.append(parameter)
    body += [_on_stack(statement) for statement in _statements(function.body)]
    zero, cpu = tirx.const(0, "int32"), tirx.const(1, "int32")
    wrapped = tirx.AttrStmt(zero, "device_id", zero, tirx.SeqStmt(body))
    wrapped = tirx.AttrStmt(zero, "device_type", cpu, wrapped)
    lowered = tirx.PrimFunc(parameters, wrapped, function.ret_type, function.attrs)
    return finalize()(tvm.IRModule({symbol: lowered}))[symbol]


def _statements(body: Any) -> Sequence[Any]:
    return list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]


def _on_stack(statement: Any) -> Any:
    if isinstance(statement, tirx.AllocBuffer):
        return tirx.AllocBuffer(statement.buffer, {"disable_lower_builtin": tirx.IntImm("bool", 1)})
    return statement
