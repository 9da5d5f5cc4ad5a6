"""One compiler for all tests of compilation, so that kernels are compiled once."""

import pytest
import torch

from hwprune.compilation.compiler import Compiler
from hwprune.compilation.targets import host_target


@pytest.fixture(scope="session")
def compiler(tmp_path_factory):
    return Compiler(host_target(), tmp_path_factory.mktemp("compiled"))


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)
