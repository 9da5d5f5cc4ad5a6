"""``energy``: energy of one inference, where the device has a meter that tells it."""

from __future__ import annotations

import numpy as np

from hwprune.objectives.base import Candidates, FloatArray, need


class Energy:
    """Energy of one inference; never estimated from anything else."""

    name = "energy"
    unit = "mJ"
    column = "energy_mj"
    description = "energy of one inference, read from the device's own meter"
    needs_metric = False

    def evaluate(self, candidates: Candidates) -> FloatArray:
        """``(n,)`` millijoules.

        Raises:
            ConfigError: the device has no meter.
        """
        remedy = (
            "this device tells no energy; remove it from 'objectives' and 'constraints', or name a device with a meter"
        )
        meter = need(candidates.sources.energy_mj, "'energy'", remedy)
        return np.asarray(meter(candidates.widths), dtype=np.float64)


OBJECTIVE = Energy()
