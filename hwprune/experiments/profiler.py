"""Chooses what to measure of a network on a device, and stops when its networks are predicted well enough.

Kernels are timed inside whole networks where a resident library runs these: with the caches as a network leaves them,
and some dozens at a time. Elsewhere they are timed alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hwprune.compilation.compiler import Compiler
from hwprune.errors import UntrustedError
from hwprune.experiments.unfinished import UnfinishedProfile
from hwprune.experiments.whole_networks import SITTINGS, WholeNetworks, is_trusted
from hwprune.measurement.timelines import NETWORKS_A_SITTING
from latency_models.evaluation import held_out_error
from latency_models.footprint import footprint_bytes
from latency_models.kernel_table import KernelTable, KernelTime
from latency_models.network_model import LatencyModel
from latency_models.sampling import next_networks, next_shapes, plan_profile, ranges_of
from latency_models.shapes import LayerShape
from latency_models.transfer import transfer

if TYPE_CHECKING:
    from hwprune.experiments.progress import Console, Steps
    from hwprune.experiments.session import DeviceSession, KernelTimer
    from hwprune.experiments.workbench import Workbench

IntArray = npt.NDArray[np.int64]

#: Kernels of each layer template measured alone before a model chooses the others, and kernels it chooses at a time.
FIRST_OF_TEMPLATE, ROUND = 8, 48
#: Share of the kernels that is timed inside networks before a model chooses the others.
FIRST_SHARE = 0.5
#: Kernels of a layer template that are enough where all of them together take less than a share of the networks' time.
ENOUGH_OF_TEMPLATE, LITTLE_SHARE = 8, 0.002
#: Rounds in a row below the error target that end a profile: one alone may be luck.
GOOD_ROUNDS = 2
#: A round is expected to take no longer than this share more than the last one.
_MARGIN = 1.2


@dataclass(frozen=True)
class Effort:
    """When a profile is good enough: whichever comes first.

    Attributes:
        kernels: most kernels timed.
        networks: networks measured whole.
        minutes: no round is begun that would end later; the first one ends there.
        error: mean absolute error on networks left out of the calibration, in percent.
    """

    kernels: int = 350
    networks: int = 10
    minutes: float = 3.0
    error: float = 0.75


@dataclass
class Profiler:
    """One profile: the corners of the search space, whole networks, then the kernels that the model knows least.

    Attributes:
        session: the device.
        bench: the network.
        widths: ``(n, G)`` networks whose layers are the search space, the dense and the smallest first.
        effort: when to stop.
        part: keeps what was timed; one that was interrupted is not timed again.
        rows: kernels that could be timed with trust; one that was timed in several networks has several rows.
        networks: networks measured whole.
        kernels: kernels that were timed: those of networks with trust, those alone with trust or not. Not counted are
            those of which nothing is taken.
    """

    session: DeviceSession
    bench: Workbench
    widths: IntArray
    effort: Effort = field(default_factory=Effort)
    part: UnfinishedProfile = field(default_factory=UnfinishedProfile)
    rows: list[tuple[LayerShape, KernelTime]] = field(init=False, default_factory=list)
    networks: WholeNetworks = field(init=False)
    kernels: int = field(init=False, default=0)
    _end: float = field(init=False, default=np.inf)
    _reasons: set[str] = field(init=False, default_factory=set)
    _fitted: tuple[tuple[int, int], LatencyModel] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.networks = WholeNetworks(self.session, self.bench, self.widths, self.effort.networks)

    def run(self, console: Console) -> LatencyModel:
        """Measure until it is good enough.

        Raises:
            UntrustedError: no kernel, or too few networks could be measured with trust.
            DeviceError: the device is lost.
        """
        self._end = time.perf_counter() + 60 * self.effort.minutes
        timeline = self.session.candidates(self.bench).timeline()
        with console.progress(self.effort.kernels + self.effort.networks, "profiling") as steps:
            # All but the last before the kernels: what differs from one to the next has to be among the residuals.
            for number in range(SITTINGS - 1):
                self.networks.sit(number, self.part.age_s, steps)
            if timeline is not None:
                with self.session.open_timer(timeline) as timer:
                    if timer is not None:
                        self._until_good(self._rounds_inside(timer, timeline.calls, steps), steps)
            if not self.rows:
                self._until_good(self._rounds_alone(steps), steps)
            self.networks.sit(SITTINGS - 1, self.part.age_s, steps)
            self.networks.settle(self._end, steps)
        return self._fit("auto")

    def borrow(self, lenders: Mapping[str, LatencyModel], console: Console) -> LatencyModel:
        """Measure whole networks alone, and take the kernels of the known device that explains them best.

        Args:
            lenders: models of other devices by their names.
            console: who is told how it goes.

        Raises:
            UntrustedError: too few networks could be measured with trust.
            DeviceError: the device is lost.
        """
        with console.progress(self.effort.networks, "measuring networks") as steps:
            for number in range(SITTINGS):
                self.networks.sit(number, self.part.age_s, steps)
        return transfer(lenders, self.networks.measured, self.bench.graph.target.lanes)

    def _until_good(self, rounds: Iterator[None], steps: Steps) -> None:
        """Go through rounds of measuring until the held-out error, the count or the time says that it is enough."""
        good, started = 0, time.perf_counter()
        for _ in rounds:
            now = time.perf_counter()
            model = self._model() if self.rows else None
            held_out = held_out_error(model.recalibrate, model.networks) if model is not None else {}
            if held_out:
                steps.advance(0, f"held-out error {held_out['mape']:.1f} %")
            good = good + 1 if held_out.get("mape", np.inf) <= self.effort.error else 0
            if good >= GOOD_ROUNDS or now + _MARGIN * (now - started) > self._end:
                break
            started = time.perf_counter()

    def _model(self) -> LatencyModel:
        """The model of what has been measured so far, fitted once for it."""
        measured = len(self.rows), len(self.networks)
        if self._fitted is None or self._fitted[0] != measured:
            self._fitted = measured, self._fit("forest")
        return self._fitted[1]

    def _fit(self, regressor: str) -> LatencyModel:
        if not self.rows:
            raise UntrustedError(
                f"no kernel could be measured with trust on {self.session.device.name} "
                f"({'; '.join(sorted(self._reasons)[:2])}): close other programs and profile again"
            )
        lanes = self.bench.graph.target.lanes
        table, whole = KernelTable.averaged(self.rows), self.networks
        return LatencyModel.fit(table, whole.measured, regressor, lanes, averaged_std=whole.averaged_std)

    def _rounds_inside(self, timer: KernelTimer, calls: int, steps: Steps) -> Iterator[None]:
        """Time the kernels of networks: the corners, some at random, then those whose kernels the model knows least."""
        total = max(4, self.effort.kernels // calls)
        first, each = max(4, round(FIRST_SHARE * total)), max(1, total // 6)
        candidates, goes = self._corners(), 2 * total
        chosen = list(range(min(first, len(candidates))))
        while chosen:
            self._time_inside(timer, candidates[chosen], steps)
            candidates, goes = np.delete(candidates, chosen, axis=0), goes - len(chosen)
            yield
            known = known_enough(self.rows)
            new = [template for template in self.bench.arithmetic.templates if template.template not in known]
            left = (self.effort.kernels - self.kernels) // max(1, len(new))
            count = min(left, goes, len(candidates))
            if self.rows and count > 0:
                shapes = self.bench.arithmetic(candidates)
                chosen = next_networks(self._model().kernel_doubt(shapes), shapes, min(count, each))
            else:
                chosen = list(range(count))

    def _time_inside(self, timer: KernelTimer, widths: IntArray, steps: Steps) -> None:
        """Time all calls of networks, a sitting after the other, as far as they are not known yet."""
        candidates, shapes = self.session.candidates(self.bench), self.bench.arithmetic(widths)
        reference_ms = self.session.board.reference_ms(Compiler.schedule_version)
        found = {row: self.part.find(each, reference_ms) for row, each in enumerate(widths.tolist())}
        known = known_enough(self.rows)
        missing = [row for row, times in found.items() if times is None]
        for start in range(0, len(missing), NETWORKS_A_SITTING):
            sitting = missing[start : start + NETWORKS_A_SITTING]
            if start and time.perf_counter() > self._end:  # a slow device: what it has timed must do
                found = {row: times for row, times in found.items() if row not in missing[start:]}
                break
            timed = timer.times([candidates.numbers(self.bench.plan(widths[row])) for row in sitting])
            for row, times in zip(sitting, timed, strict=True):
                found[row] = times
                if times is not None:
                    self.part.add(widths[row], reference_ms, times)
            steps.advance(len(sitting) * len(shapes.templates))
        steps.advance((len(widths) - len(missing)) * len(shapes.templates))
        for row, times in found.items():
            if times is None:
                self._reasons.add("the reference kernel did not hold still")
            else:
                layers = shapes.row(row)
                read = footprint_bytes(layers)
                new = [
                    (layer, replace(time, footprint_bytes=read))
                    for layer, time in zip(layers, times, strict=True)
                    if layer.template not in known
                ]
                self.kernels += len(new)
                self.rows += new

    def _corners(self) -> IntArray:
        """The dense network, the smallest, every other group narrow, the others narrow, then some between."""
        dense, smallest = self.widths[0], self.widths[1]
        is_even = np.arange(len(dense)) % 2 == 0
        alternating = [np.where(is_even, dense, smallest), np.where(is_even, smallest, dense)]
        return np.vstack([dense, smallest, *alternating, self.widths[2:]])

    def _rounds_alone(self, steps: Steps) -> Iterator[None]:
        """Time kernels alone: the staircase's corners, then those that the model knows least."""
        shapes = self.bench.arithmetic(self.widths)
        ranges = [each for each in ranges_of(shapes) if not each.template.op.startswith("fallback")]
        first = min(FIRST_OF_TEMPLATE * len(ranges), self.effort.kernels)
        chosen = plan_profile(ranges, first, self.bench.graph.target.lanes)
        asked: list[LayerShape] = []
        while chosen:
            self._time_alone(chosen, steps)
            asked += chosen
            yield
            left = self.effort.kernels - len(asked)
            chosen = next_shapes(self._model(), asked, ranges, min(ROUND, left)) if left > 0 else []

    def _time_alone(self, shapes: Sequence[LayerShape], steps: Steps) -> None:
        told = 0

        def progress(done: int, _total: int) -> None:
            nonlocal told
            steps.advance(done - told)
            told = done

        found = self.session.measure_kernels(shapes, max_age_s=self.part.age_s, progress=progress)
        steps.advance(len(shapes) - told)
        self.kernels += len(shapes)
        for shape, each in found.items():
            if is_trusted(each) and each.latency_ms > 0:
                spread_ms = (each.interval_ms[1] - each.interval_ms[0]) / 4
                self.rows.append((shape, KernelTime(each.latency_ms, spread_ms)))
            else:
                self._reasons.add(each.error or each.trust_reason)


def known_enough(rows: Sequence[tuple[LayerShape, KernelTime]]) -> set[LayerShape]:
    """Templates of which no more kernels are taken: they hardly take any time, and some of each are known."""
    found: dict[LayerShape, list[float]] = {}
    for shape, timed in rows:
        found.setdefault(shape.template, []).append(timed.latency_ms)
    total_ms = sum(map(sum, found.values()))
    return {
        template
        for template, times in found.items()
        if len(times) >= ENOUGH_OF_TEMPLATE and sum(times) < LITTLE_SHARE * total_ms
    }
