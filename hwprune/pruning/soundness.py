"""The last word on a group: cutting its channels must give what zeroing them gives.

Tracing sees operations, not what they mean: a softmax over channels, a shuffle, a fixed number in the user's forward.
So every set of groups is tried on a copy with shaken weights, and the groups whose cut fails or answers otherwise are
told apart by bisection.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hwprune.pruning.graph import tensors
from hwprune.pruning.layers import is_producer
from hwprune.pruning.plan import Group, Groups, PruningPlan
from hwprune.pruning.structured import Slicer

#: Largest difference of a cut and a masked network, relative to a layer's largest output; float32 rounds near 1e-6.
TOLERANCE = 1e-4
TRIALS = 2


def unsound_groups(module: nn.Module, example_input: Tensor, groups: Sequence[Group]) -> dict[str, str]:
    """Why groups cannot be pruned, by name; all other groups can, together."""
    trial = _Trial(module, example_input)
    reasons: dict[str, str] = {}

    def sound(candidates: Sequence[Group], accepted: Sequence[Group]) -> list[Group]:
        if not candidates or not (reason := trial.failure([*accepted, *candidates])):
            return list(candidates)
        if len(candidates) == 1:
            reasons[candidates[0].name] = reason
            return []
        half = len(candidates) // 2
        first = sound(candidates[:half], accepted)
        return first + sound(candidates[half:], [*accepted, *first])

    sound(groups, [])
    return reasons


class _Trial:
    """A copy of a network, and an input, on which groups are tried."""

    def __init__(self, module: nn.Module, example_input: Tensor) -> None:
        self.module = _shaken(module)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(example_input.shape, generator=generator)
        self.input = noise.to(device=example_input.device, dtype=example_input.dtype)

    def failure(self, groups: Sequence[Group]) -> str:
        """Why a network that loses random units of all these groups is wrong, or ""."""
        slicer = Slicer(self.module, Groups(tuple(groups)))
        for seed in range(TRIALS):
            plan = _random_plan(slicer.groups, np.random.default_rng(seed))
            expected = _answers(slicer.masked(plan), self.input)
            try:
                found = _answers(slicer.cut(plan), self.input)
            except Exception as error:  # the user's forward may raise anything on other channel counts
                return f"the network fails without some of its channels ({str(error).splitlines()[0]})"
            kept = {name: index for (name, side), index in slicer.kept_channels(plan).items() if side == "out"}
            if not _agree(found, expected, kept):
                return "without some of its channels the network answers otherwise than with zeros in them"
        return ""


def _answers(module: nn.Module, x: Tensor) -> list[tuple[str, Tensor]]:
    """Outputs, channels last, of every layer with weights in the order of their calls, and of the network (named "").

    A wrong slice shows in the next layer; further down, a rectifier may hide it.
    """
    answers: list[tuple[str, Tensor]] = []

    def noting(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def note(layer: nn.Module, _: Any, output: Tensor) -> None:
            answers.append((name, output if isinstance(layer, nn.Linear) else output.movedim(1, -1)))

        return note

    for name, layer in module.named_modules():
        if is_producer(layer):
            layer.register_forward_hook(noting(name))
    with torch.no_grad():
        outputs = module(x)
    return answers + [("", output.float()) for output in tensors(outputs)]  # masks and indices cannot be subtracted


def _shaken(module: nn.Module) -> nn.Module:
    """Copy in evaluation mode whose tensors have no special values (zeros, ones) that would hide a wrong slice."""
    shaken = copy.deepcopy(module).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*shaken.parameters(), *shaken.buffers()]:
            if not tensor.is_floating_point():
                continue
            noise = torch.rand(tensor.shape, generator=generator).to(tensor)
            if tensor.dim() <= 1:
                tensor.mul_(0.5 + noise).add_(0.1 * noise)
            elif tensor.any():
                tensor.mul_(0.5 + noise)
            else:
                tensor.copy_((noise - 0.5) / tensor[0].numel() ** 0.5)
    return shaken


def _random_plan(groups: Groups, generator: np.random.Generator) -> PruningPlan:
    """A plan that removes up to half of every group, and something of each."""
    kept = []
    for group in groups:
        count = int(generator.integers(-(-group.size // 2), group.size))
        kept.append(tuple(sorted(generator.choice(group.size, count, replace=False).tolist())))
    return PruningPlan(tuple(kept))


def _agree(
    found: Sequence[tuple[str, Tensor]], expected: Sequence[tuple[str, Tensor]], kept: Mapping[str, NDArray[np.int64]]
) -> bool:
    """Whether a cut network answers as the masked one, in the channels that are kept."""
    if [name for name, _ in found] != [name for name, _ in expected]:
        return False
    for (name, cut), (_, masked) in zip(found, expected, strict=True):
        if name in kept:
            masked = masked[..., torch.from_numpy(kept[name]).to(masked.device)]
        if cut.shape != masked.shape:
            return False
        if masked.numel() and not (cut - masked).abs().max() <= TOLERANCE * masked.abs().max():
            return False
    return True
