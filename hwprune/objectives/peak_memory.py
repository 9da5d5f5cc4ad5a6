"""``peak_memory``: bytes that the compiled network plans for, packed weights and arena."""

from __future__ import annotations

import numpy as np

from hwprune.objectives.base import Candidates, FloatArray, need


class PeakMemory:
    """Planned memory: what pruning changes of the memory that a network needs."""

    name = "peak_memory"
    unit = "bytes"
    column = "planned_memory_bytes"
    description = "packed weights plus the arena of activations"
    needs_metric = False

    def evaluate(self, candidates: Candidates) -> FloatArray:
        """``(n,)`` bytes.

        Raises:
            ConfigError: the compiler's memory plan is not known.
        """
        planned = need(
            candidates.sources.planned_memory_bytes, "'peak_memory'", "use a network that hwprune can compile"
        )
        return np.asarray(planned(candidates.widths), dtype=np.float64)


OBJECTIVE = PeakMemory()
