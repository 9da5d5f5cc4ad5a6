"""What a search minimizes: one file an objective, found by its file name.

An objective module holds ``OBJECTIVE``, which follows :class:`hwprune.objectives.base.Objective`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hwprune import plugins
from hwprune.errors import ConfigError
from hwprune.objectives.base import Candidates, FloatArray, IntArray, Objective, Sources

__all__ = ["Candidates", "Objective", "Sources", "costs", "find", "load"]

NOT_PLUGINS = frozenset({"base"})


def load(name: str) -> Objective:
    """The objective of this name.

    Raises:
        UnknownNameError: there is none.
    """
    objective: Objective = plugins.load(__name__, name).OBJECTIVE
    return objective


def find(name: str) -> Objective:
    """The objective of this name or of this column, as constraints are written (``latency_ms``).

    Raises:
        UnknownNameError: there is none.
    """
    by_column = {load(known).column: known for known in plugins.names(__name__)}
    return load(by_column.get(name, name))


def costs(names: Iterable[str], sources: Sources) -> Callable[[IntArray], dict[str, FloatArray]]:
    """Function from ``(n, G)`` widths to the named objectives of all of them, each an ``(n,)`` array.

    Raises:
        ConfigError: one of them needs a true evaluation and cannot be computed for many candidates at once.
    """
    chosen = [load(name) for name in names]
    for objective in chosen:
        if objective.needs_metric:
            raise ConfigError(f"objective {objective.name!r} takes a true evaluation: leave it out of the cheap ones")

    def evaluate(widths: IntArray) -> dict[str, FloatArray]:
        candidates = Candidates(widths, sources)
        return {objective.name: objective.evaluate(candidates) for objective in chosen}

    return evaluate
