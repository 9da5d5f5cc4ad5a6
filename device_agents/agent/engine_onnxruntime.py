"""ONNX Runtime as the device has it installed: the second opinion beside our own libraries.

The library is a plain one of kind ``onnx``: it holds a model as bytes and the reference kernel, so that both are
measured by the same protocol. Packages of the device's Python are looked for here alone: agents start without them.

    const char *onnx_model(void);    /* and library_description, reference_run */
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import math
import site
from typing import Any, Callable, Sequence

from device_agents.agent.engine_library import Buffer, Library, LibraryError
from device_agents.agent.timing import Call, CallFailed, time_calls

#: Types of numbers by their names in descriptions, and their bytes.
SIZES = {"float32": 4, "float64": 8, "float16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1}


class OnnxRuntimeLibrary(Library):
    """An opened model; see :class:`Library`.

    Inputs and outputs are bound to memory once, so that an inference copies and allocates nothing.

    Raises:
        LibraryError: ONNX Runtime is not installed, or does not take the model.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        runtime, self._numpy = installed("onnxruntime"), installed("numpy")
        try:
            self._session = self._started(runtime)
            self._binding = self._session.io_binding()
            self._parts = self._bind_inputs()
            self.upload()
            self._bind_outputs()
        except LibraryError:
            raise
        except Exception as error:  # it has an error of its own for every kind of failure
            raise LibraryError(f"ONNX Runtime {runtime.__version__} does not take the model: {error}") from error
        self.description["onnxruntime"] = runtime.__version__
        self.time_calls = self._time_calls

    def network(self, numbers: Sequence[int] = ()) -> Callable[[], Any]:
        """One inference, ready to be called; see :meth:`Library.network`."""
        if numbers:
            raise LibraryError(f"the network takes 0 numbers, got {len(numbers)}")
        return functools.partial(self._session.run_with_iobinding, self._binding)

    def upload(self) -> None:
        """Give every input its part of :attr:`input`."""
        start = 0
        for part in self._parts:
            part.view[:] = self.input.view[start : start + len(part.view)]
            start += len(part.view)

    def download(self) -> None:
        """Bring the outputs to :attr:`output`, as float32."""
        start = 0
        for part, dtype in self._outputs:
            values = self._numpy.frombuffer(part.view, dtype).astype("float32").tobytes()
            self.output.view[start : start + len(values)] = values
            start += len(values)

    def _started(self, runtime: Any) -> Any:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.description["threads"]
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        pointer = self._function("onnx_model", ctypes.c_void_p)()
        model = ctypes.string_at(pointer, self.description["model_bytes"])
        return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def _bind_inputs(self) -> list[Buffer]:
        """Memory of every input; whole numbers are zeros at first, for they may be places in a table."""
        parts, start = [], 0
        for given in self.description["inputs_of_model"]:
            dtype, shape = given["dtype"], given["shape"]
            part = Buffer(SIZES[dtype] * math.prod(shape))
            kind = self._numpy.dtype(dtype).type
            self._binding.bind_input(given["name"], "cpu", 0, kind, shape, part.pointer.value)
            end = start + len(part.view)
            if not dtype.startswith("float"):
                self.input.view[start:end] = bytes(end - start)
            parts.append(part)
            start = end
        return parts

    def _bind_outputs(self) -> None:
        """Run once to see what comes out, and bind memory of that size."""
        names = [output.name for output in self._session.get_outputs()]
        for name in names:
            self._binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(self._binding)
        found = self._binding.copy_outputs_to_cpu()
        self._binding.clear_binding_outputs()
        self._outputs = []
        for name, array in zip(names, found):
            part = Buffer(array.nbytes)
            self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, part.pointer.value)
            self._outputs.append((part, array.dtype))
        self.output = Buffer(sum(4 * array.size for array in found))

    def _time_calls(self, call: Call, count: int, batch: int = 1) -> list[int]:
        """Time ``count`` values of ``batch`` calls each; see :func:`timing.time_calls`."""
        try:
            return time_calls(call, count, batch)
        except CallFailed:
            raise
        except Exception as error:  # it has an error of its own for every kind of failure
            raise CallFailed(f"ONNX Runtime failed: {error}") from error


def installed(name: str) -> Any:
    """A package of the device's Python.

    Raises:
        LibraryError: it is not installed, or cannot be imported.
    """
    find_packages()
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LibraryError(f"{name} cannot be imported on the device ({error}): install it for its Python") from error


@functools.lru_cache(maxsize=None)
def find_packages() -> None:
    """Let Python find what is installed, for the system and for the user; agents start without either."""
    site.main()
    site.addsitedir(site.getusersitepackages())
