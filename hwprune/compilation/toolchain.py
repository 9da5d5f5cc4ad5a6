"""Which C compiler makes a target's libraries, and the options by which any C library can load them."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Iterator

from hwprune.errors import CompileError

#: Of a library that names no C library and no version of a function, so that glibc from 2.17 and musl load it: what it
#: calls is found in the program that loads it (docs/devices.md).
LIBRARY_OPTIONS = ("-shared", "-s", "-nostdlib", "-Wl,--build-id=none", "-Wl,-z,noexecstack")

#: Of code that needs no header of a C library and calls nothing but what its text names: distributions switch on more.
CODE_OPTIONS = ("-pipe", "-fPIC", "-ffreestanding", "-fbuiltin", "-fno-stack-protector", "-U_FORTIFY_SOURCE")


def code_options(arch: str) -> list[str]:
    """Options of all C code for an architecture."""
    # Else atomics are calls of the compiler's own library, which is not linked.
    return [*CODE_OPTIONS, *(["-mno-outline-atomics"] if arch == "aarch64" else [])]


def environment(scratch: str) -> dict[str, str]:
    """Variables that keep a compiler's files in a folder that vanishes: zig would keep every library ever made."""
    return {"ZIG_GLOBAL_CACHE_DIR": scratch, "ZIG_LOCAL_CACHE_DIR": scratch}


def compiler_command(arch: str, is_host: bool, named: str = "") -> list[str]:
    """C compiler and its first arguments: the named one, or the first that is installed.

    Args:
        arch: of the processor, as ``uname -m`` tells it.
        is_host: whether this computer's own compiler makes code for it.
        named: what the device's entry says, with options.

    Raises:
        CompileError: there is none for this architecture.
    """
    for command in _candidates(arch, is_host, named):
        if command and shutil.which(command[0]):
            return command
    package = "gcc" if is_host else f"gcc-{arch.replace('_', '-')}-linux-gnu"
    setting = "CC" if is_host else "cc of the device's target"
    raise CompileError(
        f"no C compiler found for {arch}: install one (`apt install {package}`, or `pip install ziglang`) "
        f"or name it in {setting}"
    )


def _candidates(arch: str, is_host: bool, named: str) -> Iterator[list[str]]:
    """Commands that may be there, the preferred first."""
    yield shlex.split(named)
    if is_host:
        yield shlex.split(os.environ.get("CC", ""))
        yield from (["cc"], ["gcc"], ["clang"])
    else:
        yield [f"{arch}-linux-gnu-gcc"]
    if importlib.util.find_spec("ziglang"):
        yield [sys.executable, "-m", "ziglang", "cc", "-target", f"{arch}-linux-gnu.2.17"]
