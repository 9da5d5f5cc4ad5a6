"""``latency``: time of one inference on the device, by its calibrated latency model."""

from __future__ import annotations

from hwprune.objectives.base import Candidates, FloatArray, need


class Latency:
    """Predicted time of one inference at the problem's batch size, inputs resident."""

    name = "latency"
    unit = "ms"
    column = "latency_ms"
    description = "time of one inference on the device (10th percentile)"
    needs_metric = False

    def evaluate(self, candidates: Candidates) -> FloatArray:
        """``(n,)`` mean predictions in ms.

        Raises:
            ConfigError: there is no latency model.
        """
        predict = need(candidates.sources.latency_ms, "'latency'", "run 'hwprune device profile NAME' first")
        return predict(candidates.shapes)[0]


OBJECTIVE = Latency()
