"""A plain library whose network runs on an NVIDIA GPU: the same functions, called with pointers to the GPU's memory.

Its description says ``"device": "cuda"``. ``network_run`` and ``reference_run`` put their work on the default stream
and need not wait for it. Times are those between two events on that stream. Only the CUDA runtime's own library is
needed, and NVML where energy is to be told.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any, Callable, Sequence

from device_agents.agent import energy
from device_agents.agent.engine_library import Library, LibraryError
from device_agents.agent.timing import Call, CallFailed

RUNTIMES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so.10.2")
TO_DEVICE, TO_HOST = 1, 2


class Runtime:
    """The functions of CUDA's runtime that are needed, on the first GPU that this process sees.

    Raises:
        LibraryError: the runtime is not installed, or finds no GPU.
    """

    def __init__(self) -> None:
        self._functions = load_first(RUNTIMES)
        self.call("cudaSetDevice", 0)
        self.call("cudaFree", None)  # creates the context

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function that returns a status.

        Raises:
            CallFailed: the status is not 0; the text is CUDA's own.
        """
        status = getattr(self._functions, name)(*arguments)
        if status:
            describe = self._functions.cudaGetErrorString
            describe.restype = ctypes.c_char_p
            raise CallFailed("{}: {}".format(name, (describe(status) or b"unknown").decode(errors="replace")))

    def allocate(self, size_bytes: int) -> ctypes.c_void_p:
        """Memory of the GPU."""
        pointer = ctypes.c_void_p()
        self.call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(max(1, size_bytes)))
        return pointer

    def event(self) -> ctypes.c_void_p:
        """A point in time on a stream."""
        event = ctypes.c_void_p()
        self.call("cudaEventCreate", ctypes.byref(event))
        return event

    def free_bytes(self) -> int:
        """Memory that is left on the GPU."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def bus_id(self) -> bytes:
        """Where the GPU is plugged in: its name in NVML."""
        name = ctypes.create_string_buffer(32)
        self.call("cudaDeviceGetPCIBusId", name, len(name), 0)
        return name.value


class CudaLibrary(Library):
    """An opened library for the GPU; see :class:`Library`.

    Raises:
        LibraryError: it cannot be opened, there is no GPU, or its memory does not suffice.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        if self.description["kind"] != "network":
            raise LibraryError("a library for a GPU holds one network, no kernels and no resident network")
        try:
            self._runtime = Runtime()
            self._free_bytes = self._runtime.free_bytes()
            self._input = self._runtime.allocate(len(self.input.view))
            self._output = self._runtime.allocate(len(self.output.view))
            self._events = self._runtime.event(), self._runtime.event()
            self.upload()
        except CallFailed as error:
            raise LibraryError(str(error)) from error
        self.time_calls = self._time_calls

    def network(self, numbers: Sequence[int] = ()) -> Callable[[], int]:
        """One inference in the GPU's memory, ready to be called; see :meth:`Library.network`."""
        if numbers:
            raise LibraryError(f"the network takes 0 numbers, got {len(numbers)}")
        return functools.partial(self._run, self._input, self._output)

    def upload(self) -> None:
        """Copy the input to the GPU."""
        size = ctypes.c_size_t(len(self.input.view))
        self._runtime.call("cudaMemcpy", self._input, self.input.pointer, size, TO_DEVICE)

    def download(self) -> None:
        """Copy the output from the GPU, once it is there."""
        size = ctypes.c_size_t(len(self.output.view))
        self._runtime.call("cudaMemcpy", self.output.pointer, self._output, size, TO_HOST)

    def device_bytes(self) -> int | None:
        """Memory of the GPU that was taken since it was opened, by whomever."""
        return max(0, self._free_bytes - self._runtime.free_bytes())

    def meter(self, root: str) -> energy.Meter:
        """The GPU's own meter."""
        return GpuMeter(self._runtime.bus_id())

    def _time_calls(self, call: Call, count: int, batch: int = 1) -> list[int]:
        """Time ``count`` values of ``batch`` calls each by events; see :func:`timing.time_calls`."""
        start, stop = self._events
        milliseconds = ctypes.c_float()
        elapsed = []
        for _ in range(count):
            self._runtime.call("cudaEventRecord", start, None)
            for _ in range(batch):
                status = call()
                if status:
                    raise CallFailed(f"returned status {status}")
            self._runtime.call("cudaEventRecord", stop, None)
            self._runtime.call("cudaEventSynchronize", stop)
            self._runtime.call("cudaEventElapsedTime", ctypes.byref(milliseconds), start, stop)
            elapsed.append(max(1, int(milliseconds.value * 1e6)))
        return elapsed


class GpuMeter(energy.Meter):
    """The energy counter of one GPU (NVML, since Volta).

    Args:
        bus_id: where the GPU is plugged in.
    """

    def __init__(self, bus_id: bytes) -> None:
        self._device = ctypes.c_void_p()
        self.missing = ""
        try:
            self._functions = load_first(("libnvidia-ml.so.1",))
            self._call("nvmlInit_v2")
            self._call("nvmlDeviceGetHandleByPciBusId_v2", bus_id, ctypes.byref(self._device))
        except LibraryError as error:
            self.missing = str(error)
        self.read()

    def read(self) -> Any:
        """Microjoules since the driver was loaded; None where the GPU does not tell."""
        millijoules = ctypes.c_ulonglong()
        try:
            if not self.missing:
                self._call("nvmlDeviceGetTotalEnergyConsumption", self._device, ctypes.byref(millijoules))
        except LibraryError as error:
            self.missing = str(error)
        return None if self.missing else millijoules.value * 1000

    def spent_uj(self, before: Any, after: Any) -> int | None:
        """Microjoules between two readings."""
        return None if before is None or after is None else int(after - before)

    def _call(self, name: str, *arguments: Any) -> None:
        try:
            status = getattr(self._functions, name)(*arguments)
        except AttributeError as error:
            raise LibraryError(f"the driver is too old for {name}") from error
        if status:
            raise LibraryError(f"{name}: status {status}")


def load_first(names: Sequence[str]) -> ctypes.CDLL:
    """The first library that is installed.

    Raises:
        LibraryError: none is.
    """
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise LibraryError("none of {} is installed on the device".format(", ".join(names)))
