"""Does a library compute what torch computes?"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from hwprune.errors import CompileError
from hwprune.records import Artifact

#: Largest difference from torch that is taken for rounding, relative to the largest output.
TOLERANCE = 1e-4

# A process of its own: a library that crashes takes nothing with it, and none stays loaded.
_RUN = """\
import ctypes, sys
data = sys.stdin.buffer.read()
output = ctypes.create_string_buffer(int(sys.argv[2]))
status = ctypes.CDLL(sys.argv[1]).network_run(data, output)
sys.stdout.buffer.write(output.raw)
sys.exit(status)
"""


def run(artifact: Artifact, inputs: Sequence[Tensor]) -> np.ndarray:
    """Outputs of a network's library on this computer, one behind the other.

    Raises:
        CompileError: the inputs are not those that it was compiled for, or it crashes.
    """
    wanted = [tuple(shape) for shape in artifact.description["inputs"]]
    shapes = [tuple(tensor.shape) for tensor in inputs]
    if shapes != wanted:
        raise CompileError(f"inputs of shape {shapes} for a library that takes {wanted}: trace it for these inputs")
    data = b"".join(tensor.detach().cpu().contiguous().float().numpy().tobytes() for tensor in inputs)
    command = [sys.executable, "-I", "-c", _RUN, str(artifact.path), str(artifact.description["output_bytes"])]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    if done.returncode:
        raise CompileError(f"{artifact.path.name} ends with status {done.returncode}: compile it for this computer")
    return np.frombuffer(done.stdout, np.float32)


def verify(artifact: Artifact, module: nn.Module, example_input: Tensor | Sequence[Tensor]) -> float:
    """Largest difference between the library's outputs and torch's, relative to the largest output.

    Args:
        artifact: a network compiled for this computer.
        module: the same network in torch, in inference mode.
        example_input: one input or several.

    Raises:
        CompileError: the difference is more than rounding, or the library cannot be run.
    """
    inputs = (example_input,) if isinstance(example_input, Tensor) else tuple(example_input)
    got = run(artifact, inputs)
    with torch.no_grad():
        wanted = np.concatenate([tensor.flatten().numpy() for tensor in tree_leaves(module(*inputs))])
    difference = float(np.abs(got - wanted).max() / max(float(np.abs(wanted).max()), 1e-30))
    if not difference <= TOLERANCE:
        raise CompileError(
            f"library and torch differ by {difference:.1e} of the largest output: put the module in eval mode, "
            "or report this network"
        )
    return difference
