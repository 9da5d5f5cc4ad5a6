"""Bytes of activations as TVM's own static planner lays them out."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
import tvm
from torch import Tensor, nn
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program

from hwprune.compilation.targets import CpuTarget


def tvm_planned_bytes(module: nn.Module, x: Tensor, target: CpuTarget) -> int:
    """Sum of the storages that Relax allocates for one inference."""
    transform = relax.transform
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torch's own internals
        program = torch.export.export(module, (x,))
        relaxed = from_exported_program(program, keep_params_as_input=False, unwrap_unit_return_tuple=True)
    passes = [
        transform.DecomposeOpsForInference(),
        transform.CanonicalizeBindings(),
        relax.get_pipeline("zero"),
        transform.RewriteDataflowReshape(),
        transform.ToNonDataflow(),
        transform.RemovePurityChecking(),
        transform.CallTIRRewrite(),
        transform.StaticPlanBlockMemory(),
    ]
    with target.as_tvm():
        planned = tvm.transform.Sequential(passes)(relaxed)
    sizes: list[int] = []

    def visit(expression: object) -> None:
        if isinstance(expression, relax.Call) and expression.op.same_as(tvm.ir.Op.get("relax.memory.alloc_storage")):
            sizes.append(math.prod(int(size) for size in expression.args[0].values))

    relax.analysis.post_order_visit(planned["main"], visit)
    return int(np.sum(sizes))
