"""How a search stands, for people: its best trade-offs, hypervolume over time, speed, and what its model is worth."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from hwprune import objectives
from hwprune.experiments.progress import Steps
from hwprune.records import Evaluation
from hwprune.search.evaluation import SearchContext
from hwprune.search.events import Progress
from hwprune.units import format_bytes, format_count, format_duration, format_ms

#: Trade-offs that are shown, evenly spread over the front by error.
TRADE_OFFS = 4
#: Bars of the hypervolume's course.
_BARS = "▁▂▃▄▅▆▇█"
_COURSE = 24


class SearchView:
    """Tells one search's progress.

    Args:
        context: the search.
        steps: where it is told.
        minutes: when the search ends at the latest; None for no limit.
        deviations: relative differences of measured latencies from the model's, as many as there are so far.
    """

    def __init__(
        self, context: SearchContext, steps: Steps, minutes: float | None, deviations: Callable[[], Sequence[float]]
    ) -> None:
        self._context = context
        self._steps = steps
        self._minutes = minutes
        self._deviations = deviations
        self._started = time.perf_counter()
        self._fresh = 0
        self._course: list[float] = []

    def evaluated(self, progress: Progress) -> None:
        """One more true evaluation has ended."""
        self._fresh += not progress.replayed
        self._steps.advance(1, self._note())

    def generation(self) -> None:
        """One more generation has ended."""
        self._course.append(self._context.hypervolume)
        self._steps.show(self.lines())

    def lines(self) -> list[str]:
        """What is shown live."""
        front = self._context.archive.front()
        picks = [front[round(index)] for index in _spread(len(front), TRADE_OFFS)]
        lines = [f"hypervolume {self._context.hypervolume:.4f}  {_course(self._course)}"]
        lines += [", ".join(_values(found)) for found in picks]
        deviations = self._deviations()
        if deviations:
            mean = sum(deviations) / len(deviations)
            lines.append(f"{len(deviations)} measured latencies are {mean:.1%} off the model on average")
        left = self._time_left_s()
        if left is not None:
            lines.append(f"at most {format_duration(left)} left")
        return lines

    def _note(self) -> str:
        """The same in a few words."""
        front = self._context.archive.front()
        words = [f"{len(front)} on the front"]
        if self._course:
            words.append(f"hypervolume {self._course[-1]:.4f}")
        elapsed_s = time.perf_counter() - self._started
        if self._fresh and elapsed_s > 1:
            words.append(f"{60 * self._fresh / elapsed_s:.0f} a minute")
        if any("latency" in found.objectives for found in front):
            words.append(f"fastest {format_ms(min(found.objectives['latency'] for found in front))}")
        return ", ".join(words)

    def _time_left_s(self) -> float | None:
        elapsed_s = time.perf_counter() - self._started
        limits = [] if self._minutes is None else [60 * self._minutes - elapsed_s]
        if self._fresh and self._context.bounded:
            limits.append(self._context.remaining * elapsed_s / self._fresh)
        return max(min(limits), 0.0) if limits else None


def summary(context: SearchContext, search_s: float) -> str:
    """Where the time of a search went, and why it ended."""
    paid_s = context.evaluating_s + context.measuring_s
    own = max(search_s - paid_s, 0.0) / max(search_s, 1e-9)
    words = f"{context.spent} evaluations in {format_duration(search_s)}, {own:.1%} of it the search's own work"
    if context.settled:
        words += "; stopped early: the hypervolume has settled (--set budget.stop_when_settled=false goes on)"
    return words


def _values(found: Evaluation) -> list[str]:
    """Objectives of an evaluation, as people read them."""
    show: Mapping[str, Callable[[float], str]] = {
        "ms": format_ms,
        "bytes": format_bytes,
        "mJ": lambda value: f"{value:.3g} mJ",
    }
    words = []
    for name, value in found.objectives.items():
        unit = objectives.load(name).unit
        text = show[unit](value) if unit in show else f"{value:.4f}" if value <= 1 else format_count(value)
        words.append(f"{name} {text}")
    return words


def _spread(n: int, wanted: int) -> list[float]:
    """Up to ``wanted`` indices of ``n``, first and last among them."""
    count = min(n, wanted)
    return [index * (n - 1) / max(count - 1, 1) for index in range(count)]


def _course(values: list[float]) -> str:
    """Values over time as a row of bars."""
    picked = [values[round(index)] for index in _spread(len(values), _COURSE)]
    low, high = min(picked, default=0.0), max(picked, default=0.0)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in picked)
