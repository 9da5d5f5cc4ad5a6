"""Torch-Pruning's own pruner, swept over its pruning ratio; a control.

Fang, Ma, Song, Mi, Wang. DepGraph: towards any structural pruning. CVPR 2023. https://arxiv.org/abs/2301.12900

    --method torch_pruning --set importance=group_l2

Choices of this implementation: the library chooses the channels (global pruning, one step), over the same groups as all
methods; weights are inherited and BatchNorm is re-estimated, as for every method that is compared here.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from hwprune.pruning.library_pruner import Importance, library_plan
from hwprune.pruning.plan import PruningPlan
from hwprune.search.archive import Archive
from hwprune.search.evaluation import SearchContext
from hwprune.search.methods.base import MethodSettings, network_of


class Settings(MethodSettings):
    """Settings of the sweep.

    Attributes:
        importance: the library's ranking: ``group_l2``, ``group_l1`` (norms over whole groups), ``lamp``, ``bn_scale``.
        batch_size: ratios of a generation, for reports and corrections of the latency model.
    """

    importance: Importance = "group_l2"
    batch_size: Annotated[int, Field(ge=1)] = 20


class TorchPruning:
    """Evaluates what the library keeps at evenly spread pruning ratios, from dense to smallest."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def run(self, context: SearchContext) -> Archive:
        """Sweep as many ratios as the budget holds.

        Raises:
            ConfigError: the problem has no network to look into.
        """
        network, space = network_of(context.problem, "torch_pruning"), context.problem.space
        example_input = network.task.example_input(1)
        with context.until_spent():
            context.evaluate_plans([PruningPlan.dense(network.groups)], "initial", 0)
            ratios = np.linspace(0, space.pruning_ratio_max, context.affordable + 2)[1:-1]
            for generation, start in enumerate(range(0, len(ratios), self.settings.batch_size)):
                plans = [
                    library_plan(
                        network.dense,
                        network.groups,
                        example_input,
                        float(ratio),
                        importance=self.settings.importance,
                        pruning_ratio_max=space.pruning_ratio_max,
                        round_to=int(space.round_to.min()),
                    )
                    for ratio in ratios[start : start + self.settings.batch_size]
                ]
                context.evaluate_plans(plans, "sweep", generation)
                context.end_generation(generation)
        return context.archive


METHOD = TorchPruning
