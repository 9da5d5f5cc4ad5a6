"""One magnitude threshold for all weights of the network, swept: the plain control of weight-wise pruning.

--method global_magnitude

Minimizes error and density, unless ``minimize=problem``; a latency is one that was measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from hwprune.search.archive import Archive
from hwprune.search.evaluation import SearchContext
from hwprune.search.masks import MaskSpace, check_latency
from hwprune.search.methods.base import MethodSettings, network_of


class Settings(MethodSettings):
    """Settings of the sweep.

    Attributes:
        minimize: ``published`` for error and density, ``problem`` for the problem's objectives.
        density_min: smallest share of weights that is left.
    """

    minimize: Literal["published", "problem"] = "published"
    density_min: Annotated[float, Field(gt=0, lt=1)] = 0.05

    @property
    def objectives(self) -> tuple[str, ...] | None:
        """Error and density, unless the problem's are wanted."""
        return ("error", "density") if self.minimize == "published" else None

    def check(self, wanted: Iterable[str], *, is_measured: bool) -> None:
        """Refuse a latency that nobody measures."""
        check_latency(wanted, is_measured=is_measured)


class GlobalMagnitude:
    """Evaluates networks that keep their largest weights, from dense to sparsest."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def run(self, context: SearchContext) -> Archive:
        """Evaluate as many densities as the budget holds, evenly spaced.

        Raises:
            ConfigError: the problem has no network, or wants a latency that nobody measures.
        """
        problem = context.problem
        network = network_of(problem, "global_magnitude")
        self.settings.check((*problem.objectives, *problem.bounds), is_measured=problem.measure is not None)
        space = MaskSpace(network)
        order = np.argsort(-space.magnitudes, kind="stable")
        with context.until_spent():
            kept = np.linspace(1, self.settings.density_min, max(context.affordable, 1)) * space.size
            for count in np.unique(kept.round().astype(np.int64))[::-1]:
                bits = np.zeros(space.size, bool)
                bits[order[:count]] = True
                context.evaluate_plans([space.plan(bits)], "sweep", 0)
                context.archive.drop_dominated_plans()
            context.end_generation(0)
        return context.archive


METHOD = GlobalMagnitude
