"""Importance of units: which channels of a group to keep when only their number is given.

Every criterion scores the output channels of the layers that a group prunes. A layer's scores are divided by their mean
over the group, so that every layer counts alike, and a unit's score is the mean over the group's layers.

* ``l1_norm``, ``l2_norm``: norm of the weights that make a channel (Li et al., Pruning filters for efficient ConvNets,
  ICLR 2017).
* ``fpgm``: sum of a filter's distances to all filters of its layer; those near the geometric median are replaceable
  (He et al., Filter pruning via geometric median, CVPR 2019).
* ``bn_scale``: absolute scale of the BatchNorm behind a channel (Liu et al., Network slimming, ICCV 2017); groups
  without a BatchNorm fall back on ``l2_norm``.
* ``taylor``: squared first-order change of the loss when a channel's weights vanish, mean over batches (Molchanov et
  al., Importance estimation for neural network pruning, CVPR 2019, equation 8).
* ``random``: the control.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from hwprune.errors import ConfigError, UnknownNameError
from hwprune.pruning.layers import is_producer
from hwprune.pruning.plan import Group, Groups, PruningPlan

#: Names of the criteria.
CRITERIA = ("bn_scale", "fpgm", "l1_norm", "l2_norm", "random", "taylor")

#: Loss of a module on one batch, a scalar tensor.
Loss = Callable[[nn.Module, Any], Tensor]
Scores = NDArray[np.float64]


def scores(
    name: str,
    module: nn.Module,
    groups: Groups,
    batches: Iterable[Any] | None = None,
    *,
    loss: Loss | None = None,
    seed: int = 0,
) -> list[Scores]:
    """``(size,)`` scores of every group's units, higher for those to keep.

    Args:
        name: one of :data:`CRITERIA`.
        module: the network the groups belong to; it is left as it is.
        groups: what to score.
        batches: training batches, for ``taylor`` alone.
        loss: loss of a module on one batch, for ``taylor`` alone.
        seed: of ``random``.

    Raises:
        UnknownNameError: no criterion has this name.
        ConfigError: ``taylor`` is asked for without batches or without a loss.
    """
    if name not in CRITERIA:
        raise UnknownNameError("criterion", name, CRITERIA)
    if name == "random":
        generator = np.random.default_rng(seed)
        return [generator.random(group.size) for group in groups]
    if name == "taylor":
        if batches is None or loss is None:
            raise ConfigError("the taylor criterion needs training batches and a loss: give both or take l2_norm")
        by_layer = _taylor(module, groups, batches, loss)
        return [_aggregate(group, {name: by_layer[name] for name in _producers(group, module)}) for group in groups]
    with torch.no_grad():
        return [_aggregate(group, _channel_scores(name, module, group)) for group in groups]


class Ranking:
    """Units of every group, the most important first; turns widths into plans in microseconds.

    Units of equal score rank by their index.
    """

    def __init__(self, scores: Sequence[Scores]) -> None:
        self.order = tuple(np.argsort(-np.asarray(group), kind="stable") for group in scores)
        self._kept: dict[tuple[int, int], tuple[int, ...]] = {}

    def plan(self, widths: Iterable[int]) -> PruningPlan:
        """The plan that keeps the ``widths[g]`` most important units of every group.

        Raises:
            ConfigError: the number of widths is not that of the groups, or a width lies outside its group.
        """
        widths = [int(width) for width in widths]
        if len(widths) != len(self.order):
            raise ConfigError(f"{len(widths)} widths for {len(self.order)} groups: give one width a group")
        return PruningPlan(tuple(self._best(group, width) for group, width in enumerate(widths)))

    def _best(self, group: int, width: int) -> tuple[int, ...]:
        kept = self._kept.get((group, width))
        if kept is None:
            order = self.order[group]
            if not 1 <= width <= len(order):
                raise ConfigError(f"width {width} of group {group} is out of range: give 1 to {len(order)}")
            kept = self._kept[group, width] = tuple(np.sort(order[:width]).tolist())
        return kept


def ranked_plan(groups: Groups, scores: Sequence[Scores], widths: Iterable[int]) -> PruningPlan:
    """The plan that keeps the units of largest score; for many plans of one network, hold a :class:`Ranking`.

    Raises:
        ConfigError: scores or widths do not fit the groups.
    """
    if [len(group) for group in scores] != groups.sizes.tolist():
        raise ConfigError("the scores do not fit the groups: score the groups that the plan is for")
    return Ranking(scores).plan(widths)


def _aggregate(group: Group, by_layer: dict[str, Tensor]) -> Scores:
    """``(size,)`` mean over layers of the scores of a unit's channels, each layer divided by its mean."""
    total = np.zeros(group.size)
    for member in group.members:
        if member.side == "out" and member.module in by_layer:
            channels = by_layer[member.module].double().cpu().numpy()
            units = channels[member.indices].mean(axis=1)
            total += units / units.mean() if units.any() else units
    return total / len(by_layer)


def _producers(group: Group, module: nn.Module) -> list[str]:
    """Layers whose output channels a group prunes and that have weights for them."""
    return [
        member.module
        for member in group.members
        if member.side == "out" and is_producer(module.get_submodule(member.module))
    ]


def _channel_scores(name: str, module: nn.Module, group: Group) -> dict[str, Tensor]:
    """Scores of all output channels of the group's layers."""
    if name == "bn_scale":
        scales = {}
        for member in group.members:
            layer = module.get_submodule(member.module)
            if isinstance(layer, _BatchNorm) and layer.affine:
                scales[member.module] = layer.weight.abs()
        if scales:
            return scales
        name = "l2_norm"
    return {layer: _weight_scores(name, module.get_submodule(layer)) for layer in _producers(group, module)}


def _weight_scores(name: str, layer: nn.Module) -> Tensor:
    filters = _filters(layer, layer.get_parameter("weight")).double()
    if name == "l1_norm":
        return filters.abs().sum(1)
    if name == "l2_norm":
        norms: Tensor = torch.linalg.vector_norm(filters, dim=1)
        return norms
    return torch.cdist(filters, filters).sum(1)


def _filters(layer: nn.Module, weight: Tensor) -> Tensor:
    """``(channels out, weights of one)`` view of a layer's weights."""
    if isinstance(layer, _ConvNd) and layer.transposed:  # (groups * in, out, ...) with in and out of one group
        weight = weight.reshape(layer.groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
    return weight.flatten(1)


def _taylor(module: nn.Module, groups: Groups, batches: Iterable[Any], loss: Loss) -> dict[str, Tensor]:
    """Scores of all output channels of the layers that groups prune, on a copy in evaluation mode.

    Raises:
        ConfigError: there is no batch.
    """
    twin = copy.deepcopy(module).eval().requires_grad_()
    names = sorted({name for group in groups for name in _producers(group, module)})
    layers = [twin.get_submodule(name) for name in names]
    weights = [layer.get_parameter("weight") for layer in layers]
    totals: list[Tensor] = []
    for batch in batches:
        gradients = torch.autograd.grad(loss(twin, batch), weights)
        changes = [
            _filters(layer, weight * gradient).sum(1).square().detach()
            for layer, weight, gradient in zip(layers, weights, gradients, strict=True)
        ]
        totals = [total + change for total, change in zip(totals, changes, strict=True)] if totals else changes
    if not totals:
        raise ConfigError("the taylor criterion got no training batch: give at least one")
    return dict(zip(names, totals, strict=True))
