"""TVM's own code for one convolution: Relax's zero pipeline at fixed shapes, without a schedule of ours."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relax

from comparison.chains import Case
from hwprune.compilation.targets import CpuTarget


def untuned_layer(case: Case, target: CpuTarget) -> Callable[[], Any]:
    """A convolution with its bias and ReLU, ready to be called."""
    generator = np.random.default_rng(0)

    def constant(*shape: int) -> Any:
        return relax.const(generator.random(shape, np.float32))

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(case.input_shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            weight = constant(case.out_channels, case.in_channels, case.kernel, case.kernel)
            value = relax.op.nn.conv2d(x, weight, strides=case.stride, padding=case.kernel // 2)
            value = relax.op.add(builder.emit(value), constant(1, case.out_channels, 1, 1))
            value = builder.emit_output(relax.op.nn.relu(builder.emit(value)))
        builder.emit_func_output(value)
    tvm_target = target.as_tvm()
    with tvm_target:
        module = relax.get_pipeline("zero")(builder.get())
        machine = relax.VirtualMachine(tvm.compile(module, target=tvm_target), tvm.cpu())
    return functools.partial(machine["main"], tvm.runtime.tensor(generator.random(case.input_shape, np.float32)))
