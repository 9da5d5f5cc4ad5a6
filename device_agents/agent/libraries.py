"""The libraries that are loaded, each in a process of its own."""

from __future__ import annotations

import array
from typing import Any, Sequence

from device_agents.agent.children import Child, ChildFailed
from device_agents.agent.folder import Folder, LibraryRefused

#: Calls of a network before its peak memory is read.
SETTLING_CALLS = 3


class Libraries:
    """Processes by the handles that stand for them.

    Args:
        folder: where the files lie.
        modules: where the shipped modules lie.

    Attributes:
        loaded: the process of every handle.
    """

    def __init__(self, folder: Folder, modules: str) -> None:
        self._folder = folder
        self._modules = modules
        self._empty_peak: int | None = None
        self._next_handle = 1
        self._names: dict[int, str] = {}
        self.loaded: dict[int, Child] = {}

    @property
    def used(self) -> set[str]:
        """Digests of the libraries that are loaded."""
        return set(self._names.values())

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
        path = self._folder.open_path(library)
        empty = self._empty_peak_bytes(timeout_s)
        child = Child(self._modules)
        try:
            answer = open_and_test(child, path, cores, self_test, timeout_s)
        except ChildFailed as failure:
            child.end()
            raise LibraryRefused(str(failure)) from failure
        handle, self._next_handle = self._next_handle, self._next_handle + 1
        self.loaded[handle], self._names[handle] = child, library
        peak = answer["process_peak_bytes"]
        delta = peak - empty if peak is not None and empty is not None else None
        return dict(answer, handle=handle, process_delta_bytes=delta, dropped=self._folder.make_room(self.used))

    def unload(self, handle: int) -> None:
        """End the process of ``handle``."""
        self.loaded.pop(handle).end()
        del self._names[handle]

    def _empty_peak_bytes(self, timeout_s: float) -> int | None:
        """Peak memory of a process without any library, asked once."""
        if self._empty_peak is None:
            child = Child(self._modules)
            try:
                self._empty_peak = child.ask({"do": "peak"}, timeout_s)[0]["peak_bytes"]
            except ChildFailed as failure:
                raise LibraryRefused(f"even without a library, {failure}") from failure
            finally:
                child.end()
        return self._empty_peak


def open_and_test(
    child: Child, path: str, cores: Sequence[int], self_test: dict[str, Any] | None, timeout_s: float
) -> dict[str, Any]:
    """Open a library in ``child`` and run it; what :meth:`Libraries.load` tells, as far as the child knows it.

    Raises:
        ChildFailed: any of it fails, or the output is not the expected one.
    """
    opened = child.open(path, cores, timeout_s)
    load_ms, peak, device = opened["open_ms"], opened["peak_bytes"], opened["device_bytes"]
    description = opened["description"]
    if description["kind"] != "kernels":
        given = self_test["input"] if self_test else b""
        ran, output = child.ask({"do": "run", "calls": SETTLING_CALLS}, timeout_s, given)
        load_ms, peak, device = load_ms + ran["first_ms"], ran["peak_bytes"], ran["device_bytes"]
        if self_test:
            compare(output, self_test["expected"], self_test["rtol"])
    elif self_test:
        raise ChildFailed("self-test: a pack of kernels has no network to test")
    return {
        "description": description,
        "load_ms": load_ms,
        "process_peak_bytes": peak,
        "device_bytes": device,
    }


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
