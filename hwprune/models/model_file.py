"""A network in a file, whichever kind of file: what it takes, how it is computed, and the same as ONNX.

``.onnx`` is ONNX, ``.pt2`` an exported program (``torch.export.save``). Nothing in either is run as code.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from hwprune.errors import ConfigError, TraceError
from hwprune.models.inputs import ModelInput, Shape, fixed_shape

if TYPE_CHECKING:
    import onnx

#: How files end, by their kind.
SUFFIXES = (".onnx", ".pt2")


@dataclass(frozen=True)
class ModelFile:
    """A network that was read from a file.

    Attributes:
        path: of the file.
        inputs: what it takes, at fixed shapes.
        source: the ONNX model, or the exported program.
    """

    path: Path
    inputs: tuple[ModelInput, ...]
    source: onnx.ModelProto | ExportedProgram

    @functools.cached_property
    def examples(self) -> tuple[Tensor, ...]:
        """A value for every input, the same each time."""
        generator = torch.Generator().manual_seed(0)
        return tuple(each.example(generator) for each in self.inputs)

    @functools.cached_property
    def module(self) -> nn.Module:
        """The network in inference mode, ready to be traced.

        Raises:
            TraceError: it has an operator that cannot be read, or cannot be run at these shapes.
        """
        if isinstance(self.source, ExportedProgram):
            return self.program.module()
        from hwprune.models.onnx_network import OnnxNetwork

        module = OnnxNetwork(self.source).eval()
        _run(module, self.examples)  # its parameters appear in the first run
        return module

    @functools.cached_property
    def program(self) -> ExportedProgram:
        """The network as operators of torch at fixed shapes.

        Raises:
            TraceError: it cannot be traced.
        """
        if isinstance(self.source, ExportedProgram) and not self.source.range_constraints:
            return self.source
        module = self.source.module() if isinstance(self.source, ExportedProgram) else self.module
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about torch's own internals
                return torch.export.export(module, self.examples)
        except TraceError:
            raise
        except Exception as error:  # torch.export raises whatever the module or its tracer raised
            line = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise TraceError(
                f"{self.path.name} cannot be traced ({line}): remove data-dependent control flow"
            ) from error

    @functools.cached_property
    def outputs(self) -> list[Tensor]:
        """What the network computes for the examples.

        Raises:
            TraceError: it has an operator that cannot be read.
        """
        return _run(self.module, self.examples)

    def onnx_bytes(self) -> bytes:
        """The network as ONNX, its inputs at these shapes.

        Raises:
            TraceError: it cannot be exported.
        """
        if not isinstance(self.source, ExportedProgram):
            from hwprune.models.onnx_file import fix_inputs

            return fix_inputs(self.source, self.inputs)
        return export_onnx(self.program, self.examples)


def open_model(path: Path, shapes: Mapping[str, Shape]) -> ModelFile:
    """Read a file.

    Args:
        path: of the file; its ending says what it is.
        shapes: of inputs that have free sizes in the file, by name.

    Raises:
        ConfigError: it is none of the known kinds, cannot be read, or leaves sizes free.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is no file: name an ONNX file or an exported program")
    if path.suffix.lower() == ".onnx":
        from hwprune.models import onnx_file

        model = onnx_file.load(path)
        return ModelFile(path, onnx_file.inputs_of(model, shapes), model)
    if path.suffix.lower() == ".pt2":
        program = _load_program(path)
        return ModelFile(path, _program_inputs(program, shapes), program)
    raise ConfigError(f"{path} is of no known kind: give an ONNX file (.onnx) or an exported program (.pt2)")


def export_onnx(module: nn.Module | ExportedProgram, examples: Sequence[Tensor]) -> bytes:
    """A torch network as ONNX, by torch's own exporter.

    Raises:
        TraceError: the exporter refuses.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")  # about torch's own internals
            exported = torch.onnx.export(module, tuple(examples), dynamo=True, verbose=False)
    except Exception as error:  # whatever one of its passes raises
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise TraceError(f"torch cannot export the network as ONNX ({line}): give an ONNX file") from error
    assert exported is not None
    content: bytes = exported.model_proto.SerializeToString()
    return content


def _run(module: nn.Module, examples: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return list(tree_leaves(module(*examples)))


def _load_program(path: Path) -> ExportedProgram:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files of other versions
            return torch.export.load(path)
    except (OSError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(f"{path} is no exported program ({line}): write one with torch.export.save") from error


def _program_inputs(program: ExportedProgram, shapes: Mapping[str, Shape]) -> tuple[ModelInput, ...]:
    names = program.graph_signature.user_inputs
    values: dict[str, Any] = {node.name: node.meta.get("val") for node in program.graph.nodes}
    found = []
    for name in map(str, names):
        value = values.get(name)
        if not isinstance(value, Tensor):
            raise ConfigError(f"input {name!r} is no tensor: export the network with tensors alone")
        sizes = [size if isinstance(size, int) else None for size in value.shape]
        dtype = str(value.dtype).removeprefix("torch.")
        found.append(ModelInput(name, dtype, fixed_shape(name, sizes, shapes.get(name))))
    return tuple(found)
