"""Torch-Pruning's own pruner, as a control: which channels it would remove, as a plan of ours.

Fang, Ma, Song, Mi, Wang. DepGraph: towards any structural pruning. CVPR 2023. https://arxiv.org/abs/2301.12900
"""

from __future__ import annotations

import copy
from typing import Literal

import torch_pruning as tp
from torch import Tensor, nn

from hwprune.pruning.layers import is_producer
from hwprune.pruning.plan import Groups, PruningPlan

#: Importances of the library, by our names.
Importance = Literal["group_l2", "group_l1", "lamp", "bn_scale"]


def library_plan(
    module: nn.Module,
    groups: Groups,
    example_input: Tensor,
    pruning_ratio: float,
    *,
    importance: Importance = "group_l2",
    pruning_ratio_max: float = 0.9,
    round_to: int | None = None,
) -> PruningPlan:
    """The plan of Torch-Pruning's global pruner: the least important channels of all groups go, wherever they are.

    Args:
        module: the dense network; it is left as it is.
        groups: what may be pruned; everything else is ignored by the pruner, too.
        example_input: one input of the task, batch first.
        pruning_ratio: share of all these channels that is removed.
        importance: how the library ranks channels.
        pruning_ratio_max: largest share of a group that is removed.
        round_to: kept channels are multiples of this; None for any number.
    """
    twin = copy.deepcopy(module).eval()
    names = {id(layer): name for name, layer in twin.named_modules()}
    prunable = {member.module for group in groups for member in group.members if member.side == "out"}
    ignored = [layer for layer in twin.modules() if is_producer(layer) and names[id(layer)] not in prunable]
    pruner = tp.pruner.BasePruner(
        twin,
        example_input,
        importance=_importance(importance),
        global_pruning=True,
        pruning_ratio=pruning_ratio,
        max_pruning_ratio=pruning_ratio_max,
        ignored_layers=ignored,
        round_to=round_to,
    )
    pruner.step()
    removed: dict[str, set[int]] = {}
    for name, is_output, channels in pruner.pruning_history():
        if is_output:
            removed.setdefault(name, set()).update(int(channel) for channel in channels)
    kept = []
    for group in groups:
        gone = {
            unit
            for member in group.members
            if member.side == "out" and member.module in removed
            for unit, channels in enumerate(member.indices)
            if removed[member.module] & set(channels.tolist())
        }
        kept.append(tuple(unit for unit in range(group.size) if unit not in gone))
    return PruningPlan(tuple(kept))


def _importance(name: Importance) -> tp.importance.Importance:
    if name == "lamp":
        return tp.importance.LAMPImportance()
    if name == "bn_scale":
        return tp.importance.BNScaleImportance()
    return tp.importance.GroupMagnitudeImportance(p=2 if name == "group_l2" else 1)
