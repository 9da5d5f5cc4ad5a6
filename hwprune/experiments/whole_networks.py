"""Networks measured whole, for a model of their latency, in sittings apart.

In every sitting they run in processes of their own, whose memory lies elsewhere. Most networks take the same in each.
One whose weights come near the size of a core's own cache may take 5 to 20 % longer for seconds or minutes, as others
use the caches and memory behind it, and all such networks at once: one sitting then tells little of the next. Where
that is seen, the same networks are measured in more sittings, and what averaging takes away is remembered: a single
measurement has it again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from hwprune.errors import UntrustedError
from hwprune.records import Measurement
from latency_models.evaluation import MeasuredNetwork

if TYPE_CHECKING:
    from hwprune.experiments.progress import Steps
    from hwprune.experiments.session import DeviceSession
    from hwprune.experiments.workbench import Workbench

IntArray = npt.NDArray[np.int64]

#: Fewest networks that a model is calibrated on.
NETWORKS_MIN = 8
#: Sittings that the networks are shared out to.
SITTINGS = 3
#: Sittings of those that differ from one to the next, at most.
SITTINGS_MAX = 16
#: Relative standard deviation of the average over the sittings below which no more are asked for.
SETTLED = 0.005


@dataclass
class WholeNetworks:
    """What whole networks take on a device.

    Attributes:
        session: the device.
        bench: the networks' problem.
        widths: ``(n, G)`` networks to choose from.
        count: networks wanted.
        reasons: why some could not be trusted.
        averaged_std: relative standard deviation of one measurement that averaging over sittings took away; 0 where
            the networks take the same in every sitting.
    """

    session: DeviceSession
    bench: Workbench
    widths: IntArray
    count: int
    reasons: set[str] = field(init=False, default_factory=set)
    averaged_std: float = field(init=False, default=0.0)
    _found_ms: dict[int, list[float]] = field(init=False, default_factory=dict)

    def __len__(self) -> int:
        return len(self._found_ms)

    @property
    def sittings(self) -> int:
        """Sittings of the network that was measured in most."""
        return max(map(len, self._found_ms.values()), default=0)

    @property
    def measured(self) -> list[MeasuredNetwork]:
        """Layers and latency in ms of all that could be measured with trust; the median of its sittings."""
        rows = list(self._found_ms)
        if not rows:
            return []
        shapes = self.bench.arithmetic(self.widths[rows])
        return [(shapes.row(index), float(np.median(self._found_ms[row]))) for index, row in enumerate(rows)]

    def sit(self, number: int, max_age_s: float, steps: Steps) -> None:
        """Measure one sitting's share; in the last, others take the place of those that could not be trusted.

        Args:
            number: the sitting's, from 0 to ``SITTINGS`` - 1; each has networks from the widest to the narrowest.
            max_age_s: measurements of the store that are older are made again.
            steps: told of those that could be trusted.

        Raises:
            UntrustedError: there are too few after the last sitting.
            DeviceError: the device is lost.
        """
        order = np.argsort(-self.widths.sum(axis=1), kind="stable")
        even = order[_evenly(len(order), self.count)]
        self.session.board.end_residents()
        steps.advance(self._measure(even[number::SITTINGS], max_age_s))
        if number == SITTINGS - 1:
            others = np.setdiff1d(order, even)
            steps.advance(self._measure(others[_evenly(len(others), self.count - len(self))], max_age_s))
            if len(self) < min(NETWORKS_MIN, self.count):
                raise UntrustedError(
                    f"only {len(self)} of {self.count} networks could be measured with trust on "
                    f"{self.session.device.name} ({'; '.join(sorted(self.reasons)[:2])}): close other programs and "
                    "profile again"
                )

    def settle(self, end: float, steps: Steps) -> None:
        """See whether a sitting tells of the next; where not, measure the same networks in more of them.

        Args:
            end: no sitting is begun that would end later, by ``time.perf_counter``.
            steps: told how it stands.

        Raises:
            DeviceError: the device is lost.
        """
        rows = np.array(list(self._found_ms))
        # Of the last sitting's share nothing would be learned: it has only just been measured.
        again, longest_s = rows[: len(rows) * (SITTINGS - 1) // SITTINGS], 0.0
        while len(again) and self.sittings < SITTINGS_MAX:
            started = time.perf_counter()
            if started + longest_s > end:
                break
            self.session.board.end_residents()
            self._measure(again, 0.0)
            longest_s = max(longest_s, (time.perf_counter() - started) * len(rows) / len(again))
            std = between_sittings_std(list(self._found_ms.values()))
            if std < SETTLED * np.sqrt(self.sittings):
                break
            self.averaged_std = std * np.sqrt(1 - 1 / self.sittings)
            steps.advance(0, f"networks differ by {100 * std:.0f} % between sittings: sitting {self.sittings + 1}")
            again = rows

    def _measure(self, rows: IntArray, max_age_s: float) -> int:
        """Measure networks; how many of them with trust."""
        if not len(rows):
            return 0
        plans = [self.bench.plan(row) for row in self.widths[rows]]
        found = self.session.measure_candidates(self.bench, plans, max_age_s=max_age_s)
        for row, each in zip(rows.tolist(), found, strict=True):
            if is_trusted(each):
                self._found_ms.setdefault(row, []).append(each.latency_ms)
            else:
                self.reasons.add(each.error or each.trust_reason)
        return sum(map(is_trusted, found))


def between_sittings_std(found_ms: Sequence[Sequence[float]]) -> float:
    """Relative standard deviation of one network's latency from one sitting to the next; 0 where none has two.

    It is told from what nine of ten measurements differ by, so that one disturbed sitting does not count for many.

    Args:
        found_ms: latencies of each network, one a sitting.
    """
    logs = [np.log(each) for each in found_ms if len(each) > 1]
    off = [np.abs(each - np.median(each)) * np.sqrt(len(each) / (len(each) - 1)) for each in logs]
    return float(np.quantile(np.concatenate(off), 0.9) / norm.ppf(0.95)) if off else 0.0


def is_trusted(measurement: Measurement) -> bool:
    """Whether a model may learn from it."""
    return measurement.error is None and measurement.trust != "C"


def _evenly(n: int, count: int) -> IntArray:
    """``count`` of ``n`` places, evenly from the first to the last."""
    return np.unique(np.linspace(0, n - 1, min(n, count)).round().astype(np.int64))
