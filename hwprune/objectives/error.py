"""``error``: what pruning costs in the task's own metric; 1 - top-1 for classification."""

from __future__ import annotations

from hwprune.objectives.base import Candidates, FloatArray, need


class Error:
    """The task's error on the validation split, minimized."""

    name = "error"
    unit = ""
    column = "error"
    description = "the task's error on the validation split (1 - top-1 for classification)"
    needs_metric = True

    def evaluate(self, candidates: Candidates) -> FloatArray:
        """``(n,)`` errors.

        Raises:
            ConfigError: the candidates were not truly evaluated.
        """
        metrics = need(candidates.metrics, "'error'", "evaluate the candidates on the validation split first")
        return candidates.sources.error(metrics)


OBJECTIVE = Error()
