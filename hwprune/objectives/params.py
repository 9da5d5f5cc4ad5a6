"""``params``: parameters of the pruned network, exactly counted."""

from __future__ import annotations

import numpy as np

from hwprune.objectives.base import Candidates, FloatArray, need


class Params:
    """Number of parameters that are left."""

    name = "params"
    unit = ""
    column = "params"
    description = "parameters of the pruned network"
    needs_metric = False

    def evaluate(self, candidates: Candidates) -> FloatArray:
        """``(n,)`` counts.

        Raises:
            ConfigError: the problem does not count parameters.
        """
        count = need(candidates.sources.parameters, "'params' or 'density'", "use a network that hwprune can cut")
        return np.asarray(count(candidates.widths), dtype=np.float64)


OBJECTIVE = Params()
