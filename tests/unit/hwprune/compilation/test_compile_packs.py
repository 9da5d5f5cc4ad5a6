"""Kernel packs, and the cache of kernels."""

import ctypes
import json
from dataclasses import replace

import pytest
import torch
from compiled_toys import ResNet, Segmenter

from hwprune.compilation import link
from hwprune.compilation.compiler import Compiler
from hwprune.compilation.graph import trace
from hwprune.errors import CompileError
from hwprune.executors import Forked
from latency_models.shapes import LayerShape


def conv(target, in_channels, out_channels, **fields):
    shape = LayerShape("conv2d", in_channels, out_channels, 8, 8, (3, 3), (1, 1), (1, 1), layout=target.layout)
    return replace(shape, **fields)


def test_one_pack_runs_every_layer_of_a_network(compiler):
    shapes = trace(ResNet(), torch.zeros(1, 3, 32, 32)).shapes(ResNet(inner=(7, 30, 50)))
    pack = compiler.kernels(shapes)
    assert set(pack.index) == set(shapes)
    library = ctypes.CDLL(str(pack.artifact.path))
    for index, numbers in pack.index.values():
        assert library.kernel_run(index, (ctypes.c_int32 * len(numbers))(*numbers)) == 0
    library.reference_run()
    library.library_description.restype = ctypes.c_char_p
    assert json.loads(library.library_description()) == pack.artifact.description


def test_widths_of_one_layer_share_a_kernel(compiler):
    shapes = [conv(compiler.target, width, width) for width in (16, 12, 15, 9)]
    pack = compiler.kernels(shapes)
    assert {index for index, _ in pack.index.values()} == {0}
    assert len({numbers for _, numbers in pack.index.values()}) == 4
    assert pack.artifact.kind == "kernels"
    (kernel,) = pack.artifact.description["kernels"]
    assert kernel["numbers"] == len(pack.index[shapes[0]][1])


def test_batches_have_entries_of_their_own(compiler):
    shapes = [conv(compiler.target, 8, 8, batch=batch) for batch in (1, 4)]
    assert [index for index, _ in compiler.kernels(shapes).index.values()] == [0, 1]


def test_an_unknown_kernel_number_is_refused_by_the_library(compiler):
    library = ctypes.CDLL(str(compiler.kernels([conv(compiler.target, 4, 4)]).artifact.path))
    assert library.kernel_run(1, None) == 1


def test_fallbacks_have_no_kernel_of_their_own(compiler):
    shapes = trace(Segmenter(), torch.zeros(1, 3, 8, 8)).shapes(Segmenter())
    with pytest.raises(CompileError, match="no kernel for 'fallback:cos'"):
        compiler.kernels(shapes)


def test_an_empty_pack_is_refused(compiler):
    with pytest.raises(CompileError, match="at least one"):
        compiler.kernels([])


def test_shapes_of_another_cpu_are_refused(compiler):
    with pytest.raises(CompileError, match="trace it for this target"):
        compiler.kernels([conv(compiler.target, 4, 4, layout="nchw2c")])


def test_kernels_are_compiled_once(compiler, tmp_path):
    shapes = [conv(compiler.target, 4, 4)]
    Compiler(compiler.target, tmp_path).kernels(shapes)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "kernels").iterdir()}
    Compiler(compiler.target, tmp_path).kernels(shapes)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kernels").iterdir()} == files
    assert len(files) == 5  # a tile, the two tiles of the reference kernel, and the glue of both


def test_processes_compile_side_by_side(compiler, tmp_path):
    shapes = [conv(compiler.target, 4, 4, height=size) for size in (4, 6)]
    pack = Compiler(compiler.target, tmp_path, Forked(2)).kernels(shapes)
    assert pack.artifact.sha256 == compiler.kernels(shapes).artifact.sha256


def test_a_folder_that_cannot_be_written_is_named(compiler, tmp_path):
    (tmp_path / "kernels").write_text("in the way")
    with pytest.raises(CompileError, match="cannot write"):
        Compiler(compiler.target, tmp_path).kernels([conv(compiler.target, 4, 4)])


def test_what_the_c_compiler_refuses_is_told(compiler, tmp_path):
    with pytest.raises(CompileError, match=r"failed .*error"):
        link.link("int main( {", [], tmp_path / "library.so", compiler.target)
