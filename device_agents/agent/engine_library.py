"""A plain library (C ABI version 1) called by ctypes; nothing but libc is needed beside it.

    int         network_run(const float *input, float *output);
    int         kernel_run(int32_t index, const int32_t *numbers);
    int         resident_run(const int32_t *numbers, const float *input, float *output);
    const char *library_description(void);
    void        reference_run(void);

A library of kind ``network`` has the first, one of kind ``kernels`` the second; one of kind ``resident`` has the first
and the third, which runs the network at the widths that the numbers stand for; one of kind ``onnx`` has none of them,
but a model for ONNX Runtime (see ``engine_onnxruntime.py``). All have the others.
"""

from __future__ import annotations

import ctypes
import functools
import json
from typing import Any, Callable, Sequence

from device_agents.agent import energy, timing

ABI = 1

#: What a library of each kind has to say of itself.
REQUIRED = {
    "network": ("input_bytes", "output_bytes"),
    "kernels": ("kernels",),
    "resident": ("input_bytes", "output_bytes", "numbers"),
    "onnx": ("input_bytes", "output_bytes", "inputs_of_model", "model_bytes", "threads"),
}

#: The function that a library of each kind is called by.
ENTRY = {"network": "network_run", "kernels": "kernel_run", "resident": "network_run", "onnx": "onnx_model"}

#: Cache lines and vector registers are at most this wide, so every process sees the same alignment.
ALIGNMENT_BYTES = 64

#: Small numbers without a pattern that a kernel could profit from; zeros or denormals could be faster or slower.
FILL = (ctypes.c_float * 7)(-0.75, 0.5, 0.125, -0.25, 1.0, -0.5, 0.375)


class LibraryError(Exception):
    """A library that cannot be opened, or is not what it should be."""


class Buffer:
    """Aligned memory for one side of a network.

    Attributes:
        view: its bytes, writable.
        pointer: its address, as an argument of a C function.
    """

    def __init__(self, size_bytes: int) -> None:
        self._memory = (ctypes.c_char * (size_bytes + ALIGNMENT_BYTES))()
        offset = -ctypes.addressof(self._memory) % ALIGNMENT_BYTES
        self.view = memoryview(self._memory).cast("B")[offset : offset + size_bytes]
        self.pointer = ctypes.c_void_p(ctypes.addressof(self._memory) + offset)

    def fill(self) -> None:
        """Write the pattern that stands for an input that was not given."""
        pattern = bytes(FILL) * 256
        for start in range(0, len(self.view), len(pattern)):
            part = self.view[start : start + len(pattern)]
            part[:] = pattern[: len(part)]


class Library:
    """An opened library.

    Args:
        path: the file; it needs a separator, else the system's folders are searched.

    Attributes:
        description: what the library says of itself.
        input: a network's input, filled with a fixed pattern.
        output: a network's output.

    Raises:
        LibraryError: it cannot be opened, lacks a function, or its description is of another ABI.
    """

    def __init__(self, path: str) -> None:
        try:
            self._library = ctypes.CDLL(path)
        except OSError as error:
            raise LibraryError(f"cannot be opened: {error}") from error
        self.description = self._described()
        self._run = self._function(ENTRY[self.description["kind"]], ctypes.c_int)
        self.reference: Callable[[], Any] = self._function("reference_run", None)
        self.input = Buffer(self.description["input_bytes"] if self.is_network else 0)
        self.output = Buffer(self.description["output_bytes"] if self.is_network else 0)
        self.input.fill()

    #: Times calls of it, in ns.
    time_calls: timing.Timer = staticmethod(timing.time_calls)

    def upload(self) -> None:
        """Bring :attr:`input` to where the network reads it."""

    def download(self) -> None:
        """Bring what the network wrote to :attr:`output`."""

    def device_bytes(self) -> int | None:
        """Memory that it takes on a device of its own; None where it runs in the processor's."""
        return None

    def meter(self, root: str) -> energy.Meter:
        """What tells the energy of its calls."""
        return energy.Meter(root)

    @property
    def is_network(self) -> bool:
        """Whether it holds a network, not a pack of kernels."""
        return bool(self.description["kind"] != "kernels")

    def network(self, numbers: Sequence[int] = ()) -> Callable[[], int]:
        """One inference from :attr:`input` to :attr:`output`, ready to be called; 0 is success.

        Args:
            numbers: what a resident network is run with; none for its own widths.

        Raises:
            LibraryError: the network takes another count of numbers.
        """
        if not numbers:
            return functools.partial(self._run, self.input.pointer, self.output.pointer)
        expected = self.description.get("numbers", 0)
        if len(numbers) != expected:
            raise LibraryError(f"the network takes {expected} numbers, got {len(numbers)}")
        array = (ctypes.c_int32 * len(numbers))(*numbers)
        run = self._function("resident_run", ctypes.c_int)
        return functools.partial(run, array, self.input.pointer, self.output.pointer)

    def kernel(self, index: int, numbers: Sequence[int]) -> Callable[[], int]:
        """Kernel ``index`` with its integer arguments, ready to be called; 0 is success.

        Raises:
            LibraryError: there is no such kernel, or it takes another count of numbers.
        """
        kernels = self.description["kernels"]
        if not 0 <= index < len(kernels):
            raise LibraryError(f"there is no kernel {index}: the library has {len(kernels)}")
        if len(numbers) != kernels[index]["numbers"]:
            expected = kernels[index]["numbers"]
            raise LibraryError(f"kernel {index} takes {expected} numbers, got {len(numbers)}")
        array = (ctypes.c_int32 * max(1, len(numbers)))(*numbers)
        return functools.partial(self._run, ctypes.c_int32(index), array)

    def nothing(self) -> Callable[[], Any]:
        """A foreign function that does no work: what calling costs by itself."""
        function: Callable[[], Any] = self._function("library_description", None)
        return function

    def _described(self) -> dict[str, Any]:
        try:
            description: dict[str, Any] = json.loads(self._function("library_description", ctypes.c_char_p)().decode())
            kind, abi = description["kind"], description["abi"]
            required = REQUIRED[kind]
            lacking = [name for name in required if name not in description]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise LibraryError(f"its description cannot be read: {error!r}") from error
        if abi != ABI or lacking:
            raise LibraryError(f"expected ABI {ABI} with {required}, found ABI {abi} without {lacking}")
        return description

    def _function(self, name: str, result: Any) -> Any:
        try:
            # Indexing gives a new object each time, so that one function can have two result types.
            function = self._library[name]
        except AttributeError as error:
            raise LibraryError(f"it does not export {name}") from error
        function.restype = result
        return function


def open_library(path: str) -> Library:
    """The library at ``path``, by the engine that its description asks for.

    Raises:
        LibraryError: it cannot be opened, or is not what it should be.
    """
    library = Library(path)
    device = library.description.get("device", "cpu")
    if device == "cuda":
        from device_agents.agent.engine_cuda import CudaLibrary  # imports are part of every load

        return CudaLibrary(path)
    if device != "cpu":
        raise LibraryError(f"it is for a device of type {device!r}: known are cpu and cuda")
    if library.description["kind"] == "onnx":
        from device_agents.agent.engine_onnxruntime import OnnxRuntimeLibrary

        return OnnxRuntimeLibrary(path)
    return library
