"""``density``: share of the dense network's parameters that is left."""

from __future__ import annotations

from hwprune.objectives.base import Candidates, FloatArray
from hwprune.objectives.params import Params


class Density:
    """Parameters of the pruned network over those of the dense one, in (0, 1]."""

    name = "density"
    unit = ""
    column = "density"
    description = "share of the dense network's parameters that is left"
    needs_metric = False

    def evaluate(self, candidates: Candidates) -> FloatArray:
        """``(n,)`` shares.

        Raises:
            ConfigError: the problem does not count parameters.
        """
        sources = candidates.sources
        dense = Params().evaluate(Candidates(sources.dense_widths[None], sources))
        return Params().evaluate(candidates) / dense


OBJECTIVE = Density()
