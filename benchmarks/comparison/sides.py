"""The two sides of a comparison, each a network ready to be called: a library of hwprune, a session of ONNX Runtime."""

from __future__ import annotations

import _ctypes
import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from device_agents.agent.engine_library import Library
from hwprune.records import Artifact

Array = npt.NDArray[np.float32]


class OurSide:
    """A compiled network in this process.

    Args:
        artifact: its library; the file is removed as soon as it is loaded, for a benchmark makes thousands.
        x: its input.

    Attributes:
        call: one inference.
    """

    def __init__(self, artifact: Artifact, x: Array) -> None:
        self._library = Library(str(artifact.path))
        artifact.path.unlink()
        self._library.input.view[:] = x.tobytes()
        self.call = self._library.network()
        self._shape = artifact.description["outputs"][0]

    def output(self) -> Array:
        """Output of one inference."""
        if status := self.call():
            raise RuntimeError(f"network_run ends with status {status}")
        return np.frombuffer(self._library.output.view, np.float32).reshape(self._shape).copy()

    def close(self) -> None:
        """Unload the library: its weights would stay in memory until the process ends."""
        _ctypes.dlclose(self._library._library._handle)


class OnnxRuntimeSide:
    """A session with its input and output bound to memory once, so that a call copies nothing.

    Args:
        model: an ONNX file or its content.
        x: its input.
        output_shape: shape of its output.
        threads: of one operator; operators run one after the other.

    Attributes:
        call: one inference.
    """

    def __init__(self, model: bytes | Path, x: Array, output_shape: tuple[int, ...], threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        source = model if isinstance(model, bytes) else str(model)
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        self._output = onnxruntime.OrtValue.ortvalue_from_shape_and_type(output_shape, np.float32)
        binding = session.io_binding()
        binding.bind_ortvalue_input(session.get_inputs()[0].name, onnxruntime.OrtValue.ortvalue_from_numpy(x))
        binding.bind_ortvalue_output(session.get_outputs()[0].name, self._output)
        self.call = functools.partial(session.run_with_iobinding, binding)

    def output(self) -> Array:
        """Output of one inference."""
        self.call()
        result: Array = self._output.numpy()
        return result


def difference(found: Array, wanted: Array) -> float:
    """Largest difference, relative to the largest wanted value."""
    return float(np.abs(found - wanted).max() / max(float(np.abs(wanted).max()), 1e-30))
