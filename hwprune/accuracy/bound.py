"""A candidate run by the program of its dense network: folded, fused, in the fastest number format."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hwprune.accuracy.program import Call, Convolution, Program, returned

Values = dict[str, Any]

#: Reductions: computed in float32, since their results decide the class and are small.
_REDUCING_MODULES = (nn.AdaptiveAvgPool2d, nn.AvgPool2d)
_REDUCING_FUNCTIONS = {torch.mean, F.adaptive_avg_pool2d, F.avg_pool2d}


class Bound(nn.Module):
    """A network as others call it, that runs a program with the tensors of one candidate.

    Args:
        program: of the dense network.
        module: the candidate, cut from it.
        dtype: number format of the convolutions; everything between them stays in it, sums and classes are float32.
        folded: BatchNorm becomes part of the convolutions; otherwise the candidate's own layers are called, so that
            they can take statistics.
        after: a cut of the program: inputs are the activations behind it.
        keep: cuts whose activations are kept.

    Attributes:
        kept: activations behind each of these cuts, one a batch.
    """

    def __init__(
        self,
        program: Program,
        module: nn.Module,
        dtype: torch.dtype,
        *,
        folded: bool,
        after: int = -1,
        keep: Collection[int] = (),
    ) -> None:
        super().__init__()
        self.kept: dict[int, list[Tensor]] = {cut: [] for cut in keep}
        self._program = program
        self._after = after
        modules = dict(module.named_modules())
        self._steps = [
            _call(step, module, modules)
            if isinstance(step, Call)
            else _fused(step, modules, dtype)
            if folded
            else _unfused(step, modules, dtype)
            for step in program.steps[after + 1 :]
        ]

    def forward(self, x: Tensor) -> Any:
        """Outputs of the candidate for a batch of images, or of activations behind the cut."""
        program, first = self._program, self._after + 1
        source = program.input if first == 0 else program.steps[self._after].output
        values = {source: x.clone() if first else x}  # a step may overwrite what others start from, too
        for number, run in enumerate(self._steps, first):
            output = program.steps[number].output
            values[output] = run(values)
            for name in program.last_reads[number]:
                values.pop(name, None)
            if number in self.kept:
                self.kept[number].append(values[output].clone())
        return returned(program.output, values)


def _fused(step: Convolution, modules: Mapping[str, nn.Module], dtype: torch.dtype) -> Callable[[Values], Tensor]:
    """The convolution with everything that follows it, in one pass where oneDNN is there."""
    conv = modules[step.conv]
    assert isinstance(conv, nn.Conv2d)
    weight, bias = _folded(conv, modules[step.norm] if step.norm else None)
    weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
    bias = bias.to(dtype)
    if not _has_fusion(dtype):
        return functools.partial(_in_turn, step, weight=weight, bias=bias, conv=conv, norm=None)
    ops = torch.ops.mkldnn
    places = (list(_pair(conv.padding)), list(conv.stride), list(conv.dilation), conv.groups)
    weight = ops._reorder_convolution_weight(weight, *places)
    activation = "relu" if step.relu else "none"

    def run(values: Values) -> Tensor:
        x = values[step.input].to(dtype)
        if not step.other:
            result: Tensor = ops._convolution_pointwise(x, weight, bias, *places, activation, [], "")
            return result
        other = values[step.other].to(dtype).contiguous(memory_format=torch.channels_last)
        after: tuple[Any, ...] = ("add", 1.0, activation if step.relu else None, [], "")
        if step.overwrites:
            result = ops._convolution_pointwise_.binary(other, x, weight, bias, *places, *after)
        else:
            result = ops._convolution_pointwise.binary(x, other, weight, bias, *places, *after)
        return result

    return run


def _unfused(step: Convolution, modules: Mapping[str, nn.Module], dtype: torch.dtype) -> Callable[[Values], Tensor]:
    conv = modules[step.conv]
    assert isinstance(conv, nn.Conv2d)
    weight = conv.weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)
    bias = None if conv.bias is None else conv.bias.detach().to(dtype)
    norm = modules[step.norm] if step.norm else None
    return functools.partial(_in_turn, step, weight=weight, bias=bias, conv=conv, norm=norm)


def _in_turn(
    step: Convolution, values: Values, *, weight: Tensor, bias: Tensor | None, conv: nn.Conv2d, norm: nn.Module | None
) -> Tensor:
    """The convolution and what follows it, one after the other."""
    x = values[step.input].to(weight.dtype)
    y = F.conv2d(x, weight, bias, conv.stride, _pair(conv.padding), conv.dilation, conv.groups)
    if norm is not None:
        y = norm(y)
    if step.other:
        y = y.add_(values[step.other])
    return y.relu_() if step.relu else y


def _call(step: Call, network: nn.Module, modules: Mapping[str, nn.Module]) -> Callable[[Values], Any]:
    node = step.node
    target = str(node.target)
    if node.op == "get_attr":
        owner, _, name = target.rpartition(".")
        found = getattr(modules[owner], name)
        return lambda values: found
    wide = node.target in _REDUCING_FUNCTIONS or (node.op == "call_method" and target == "mean")
    function: Callable[..., Any]
    if node.op == "call_module":
        function = modules[target]
        weighted = any(True for _ in function.parameters()) and not isinstance(function, _BatchNorm)
        wide = weighted or isinstance(function, _REDUCING_MODULES)
    elif node.op == "call_method":
        function = functools.partial(_method, target)
    else:
        assert callable(node.target)
        function = node.target

    def run(values: Values) -> Any:
        known = {name: _wide(values[name]) if wide else values[name] for name in step.reads}
        return function(*returned(node.args, known), **returned(node.kwargs, known))

    return run


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _method(name: str, of: Any, *args: Any, **kwargs: Any) -> Any:
    return getattr(of, name)(*args, **kwargs)


def _folded(conv: nn.Conv2d, norm: nn.Module | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that does what the two did, in float64."""
    weight = conv.weight.detach().double()
    bias = torch.zeros(conv.out_channels).double() if conv.bias is None else conv.bias.detach().double()
    if norm is None:
        return weight, bias
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.affine:
        scale = scale * norm.weight.detach()
    shift = (bias - norm.running_mean) * scale
    return weight * scale.view(-1, 1, 1, 1), shift + norm.bias.detach() if norm.affine else shift


@functools.cache
def _has_fusion(dtype: torch.dtype) -> bool:
    """Whether oneDNN is there and computes in this format."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _pair(padding: Any) -> tuple[int, int]:
    rows, columns = padding
    return rows, columns
