import shutil
import subprocess

import compiled_toys
import pytest
import torch
import tvm
from torch import nn
from tvm import relax

from hwprune.compilation import cuda
from hwprune.compilation.cuda import CudaTarget, compile_cuda, fold_batch_norms
from hwprune.errors import CompileError

needs_nvcc = pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc, of the CUDA toolkit")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    module = nn.Sequential(
        *(nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
        *(nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.BatchNorm2d(12), nn.ReLU6(), nn.MaxPool2d(2)),
        *(nn.Conv2d(12, 7, 1), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 5)),
    )
    return compiled_toys.settled(module), torch.randn(1, 3, 12, 12)


def test_batch_norms_are_folded_without_changing_the_output(network):
    module, x = network
    folded = fold_batch_norms(module, (x,))
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())
    torch.testing.assert_close(folded(x), module(x))


def test_a_convolution_before_two_batch_norms_keeps_both():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.one, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.other(self.conv(self.one(self.conv(x))))

    module, x = compiled_toys.settled(Shared()), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(fold_batch_norms(module, (x,))(x), module(x))


@needs_nvcc
def test_the_generated_text_is_compiled_by_nvcc(network, tmp_path):
    library = compile_cuda(*network, tmp_path, CudaTarget("sm_90"))
    assert "__global__" in library.source.read_text()
    assert library.cubin.read_bytes()[:4] == b"\x7fELF"
    assert library.path.stem == library.source.stem == library.cubin.stem
    assert sorted(tmp_path.iterdir()) == sorted([library.path, library.source, library.cubin])


@needs_nvcc
def test_the_library_holds_the_network(network, tmp_path):
    library = compile_cuda(*network, tmp_path)
    symbols = subprocess.run(["nm", "-D", library.path], capture_output=True, text=True, check=True).stdout
    assert "__tvm_ffi__library_bin" in symbols


@needs_nvcc
def test_an_unknown_architecture_is_named(network, tmp_path):
    with pytest.raises(CompileError, match="sm_1"):
        compile_cuda(*network, tmp_path, CudaTarget("sm_1"))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_nvcc_is_named(network, tmp_path, monkeypatch):
    monkeypatch.setattr(cuda.shutil, "which", lambda name: None)
    with pytest.raises(CompileError, match="nvcc not found: install the CUDA toolkit"):
        compile_cuda(*network, tmp_path)


@pytest.mark.gpu
@needs_nvcc
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_the_library_computes_what_torch_computes(network, tmp_path):
    module, x = network
    library = compile_cuda(module, x, tmp_path, CudaTarget("sm_{}{}".format(*torch.cuda.get_device_capability())))
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(library.path)), tvm.cuda())
    output = machine["main"](tvm.runtime.tensor(x.numpy(), tvm.cuda()))
    outputs = [output] if isinstance(output, tvm.runtime.Tensor) else list(output)
    torch.testing.assert_close(torch.from_numpy(outputs[0].numpy()), module(x).detach(), rtol=1e-4, atol=1e-4)
