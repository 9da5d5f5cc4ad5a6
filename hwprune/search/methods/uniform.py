"""Uniform-width sweep: the same pruning ratio for every group; a plain control.

--method uniform
"""

from __future__ import annotations

import numpy as np

from hwprune.search.archive import Archive
from hwprune.search.breeding import distinct
from hwprune.search.evaluation import SearchContext
from hwprune.search.methods.base import MethodSettings


class Settings(MethodSettings):
    """The sweep has no settings: its ratios are spread evenly over the budget."""


class UniformSweep:
    """Evaluates networks whose groups are all pruned by the same share, from dense to smallest."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def run(self, context: SearchContext) -> Archive:
        """Evaluate as many distinct uniform widths as the budget holds, or as there are."""
        space = context.problem.space
        with context.until_spent():
            # Many more ratios than evaluations: rounding makes most of them the same network.
            ratios = np.linspace(0, space.pruning_ratio_max, 4096)
            widths = distinct(space.encoded("group_ratio").decode(np.repeat(ratios[:, None], space.n_var, axis=1)))
            n = min(context.affordable, len(widths))
            spread = np.unique(np.linspace(0, len(widths) - 1, n).round().astype(int))
            context.evaluate(widths[spread], "sweep", 0)
            context.end_generation(0)
        return context.archive


METHOD = UniformSweep
