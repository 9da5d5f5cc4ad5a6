"""The libraries on the device: their files, and the processes that hold some of them."""

from __future__ import annotations

import array
import hashlib
import os
from typing import Any, Sequence

from device_agents.agent.children import Child, ChildFailed

SUFFIX = ".so"

#: Calls of a network before its peak memory is read.
SETTLING_CALLS = 3


class LibraryRefused(Exception):  # noqa: N818
    """A library that cannot be loaded; the text says why."""


class Libraries:
    """Files named by the SHA-256 of their bytes, and the loaded ones.

    Args:
        folder: where the files lie.
        bundle: where the shipped modules lie.
        kept_bytes: files beyond this are dropped, those unused for the longest first.

    Attributes:
        loaded: the process of every handle.
    """

    def __init__(self, folder: str, bundle: str, kept_bytes: int = 1 << 30) -> None:
        self._kept_bytes = kept_bytes
        self._folder = folder
        self._bundle = bundle
        self._checked: dict[str, float] = {}
        self._empty_peak: int | None = None
        self._next_handle = 1
        self._names: dict[int, str] = {}
        self.loaded: dict[int, Child] = {}

    def held(self) -> list[str]:
        """Digests of all files, also of those not loaded."""
        return sorted(name[: -len(SUFFIX)] for name in os.listdir(self._folder) if name.endswith(SUFFIX))

    def load(
        self, library: str, cores: Sequence[int], self_test: dict[str, Any] | None, timeout_s: float
    ) -> dict[str, Any]:
        """Open a library in a process of its own, and test it.

        Args:
            library: digest of the file.
            cores: where to pin the process; anywhere if empty.
            self_test: ``input`` and ``expected`` output as bytes of float32, and ``rtol``, the largest difference as a
                share of the largest expected value; None skips the comparison.
            timeout_s: longest silence of the process.

        Returns:
            Handle, description, load time, memory, and the digests of files that were dropped to make room.

        Raises:
            LibraryRefused: the file is missing or torn, cannot be opened, crashes, hangs, or computes something else.
        """
        path = self._check_file(library)
        empty = self._empty_peak_bytes(timeout_s)
        child = Child(self._bundle)
        try:
            answer = open_and_test(child, path, cores, self_test, timeout_s)
        except ChildFailed as failure:
            child.end()
            raise LibraryRefused(str(failure)) from failure
        handle, self._next_handle = self._next_handle, self._next_handle + 1
        self.loaded[handle], self._names[handle] = child, library
        peak = answer["process_peak_bytes"]
        delta = peak - empty if peak is not None and empty is not None else None
        return dict(answer, handle=handle, process_delta_bytes=delta, dropped=self._make_room())

    def unload(self, handle: int) -> None:
        """End the process of ``handle``."""
        self.loaded.pop(handle).end()
        del self._names[handle]

    def _path(self, library: str) -> str:
        return os.path.join(self._folder, library + SUFFIX)

    def _check_file(self, library: str) -> str:
        path = self._path(library)
        try:
            changed = os.stat(path).st_mtime
            if self._checked.get(library) != changed:
                if file_digest(path) != library:
                    os.unlink(path)
                    raise LibraryRefused("its file was torn and is removed: put it again")
                self._checked[library] = changed
        except OSError as error:
            raise LibraryRefused(f"its file is not on the device ({error.strerror}): put it first") from error
        return path

    def _empty_peak_bytes(self, timeout_s: float) -> int | None:
        """Peak memory of a process without any library, asked once."""
        if self._empty_peak is None:
            child = Child(self._bundle)
            try:
                self._empty_peak = child.ask({"do": "peak"}, timeout_s)[0]["peak_bytes"]
            except ChildFailed as failure:
                raise LibraryRefused(f"even without a library, {failure}") from failure
            finally:
                child.end()
        return self._empty_peak

    def _make_room(self) -> list[str]:
        """Drop files until the rest fits, but none that is loaded; the digests of those dropped."""
        sizes = {name: os.stat(self._path(name)) for name in self.held()}
        surplus = sum(status.st_size for status in sizes.values()) - self._kept_bytes
        dropped = []
        for name in sorted(sizes, key=lambda name: sizes[name].st_atime):
            if surplus <= 0:
                break
            if name not in self._names.values():
                os.unlink(self._path(name))
                surplus -= sizes[name].st_size
                dropped.append(name)
        return dropped


def open_and_test(
    child: Child, path: str, cores: Sequence[int], self_test: dict[str, Any] | None, timeout_s: float
) -> dict[str, Any]:
    """Open a library in ``child`` and run it; what :meth:`Libraries.load` tells, as far as the child knows it.

    Raises:
        ChildFailed: any of it fails, or the output is not the expected one.
    """
    opened = child.open(path, cores, timeout_s)
    load_ms, peak = opened["open_ms"], opened["peak_bytes"]
    description = opened["description"]
    if description["kind"] != "kernels":
        given = self_test["input"] if self_test else b""
        ran, output = child.ask({"do": "run", "calls": SETTLING_CALLS}, timeout_s, given)
        load_ms, peak = load_ms + ran["first_ms"], ran["peak_bytes"]
        if self_test:
            compare(output, self_test["expected"], self_test["rtol"])
    elif self_test:
        raise ChildFailed("self-test: a pack of kernels has no network to test")
    return {"description": description, "load_ms": load_ms, "process_peak_bytes": peak}


def compare(output: bytes, expected: bytes, rtol: float) -> None:
    """Check that two float32 arrays are equal within ``rtol`` of the largest expected value.

    Raises:
        ChildFailed: they are not.
    """
    if len(output) != len(expected):
        raise ChildFailed(f"self-test: the output has {len(output)} bytes, expected {len(expected)}")
    found, wanted = array.array("f", output), array.array("f", expected)
    scale = max((abs(value) for value in wanted), default=0.0)
    for one, other in zip(found, wanted):
        if not abs(one - other) <= rtol * scale:  # put so that it holds for NaN too
            text = "self-test: the output is wrong, {:g} where {:g} was expected (largest {:g}, tolerance {:g})"
            raise ChildFailed(text.format(one, other, scale, rtol))


def file_digest(path: str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()
