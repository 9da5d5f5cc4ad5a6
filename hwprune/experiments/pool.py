"""Identical boards that share a queue: one search or profile, its measuring spread over all of them.

Numbers are given at the speed of the first board. Each member is calibrated against it on shared reference networks
(:mod:`hwprune.measurement.boards`); what is returned to the user is measured on two members.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from torch import nn

from device_agents.errors import AgentLost, DeviceError
from hwprune.compilation.timeline import Timeline
from hwprune.experiments.home import Home
from hwprune.experiments.members import members_of
from hwprune.experiments.progress import Console
from hwprune.experiments.session import DeviceSession, KernelTimer, open_session
from hwprune.experiments.workbench import Workbench
from hwprune.measurement.boards import board_ratios, together
from hwprune.measurement.jobs import KernelCompiler, KernelPack, NetworkJob
from hwprune.measurement.session import Progress
from hwprune.pruning.plan import PruningPlan
from hwprune.records import Artifact, Measurement
from hwprune.scenario import BURST, Scenario
from latency_models.kernel_table import KernelTime
from latency_models.network_model import LatencyModel
from latency_models.shapes import LayerShape

#: Shares of the dense widths that the reference networks keep.
REFERENCE_SHARES = (1.0, 0.8, 0.6, 0.4, 0.2)

#: Boards that a returned network is measured on.
BOARDS_EACH = 2

#: Kernels and networks that a member takes from the queue at a time.
KERNELS_AT_A_TIME, NETWORKS_AT_A_TIME = 32, 8

#: What is measured, and what is found of it.
Item = TypeVar("Item")
Found = TypeVar("Found")


@contextlib.contextmanager
def open_devices(
    home: Home, name: str, bench: Workbench, console: Console, *, max_age_s: float | None = None
) -> Iterator[DeviceSession]:
    """A session on a device, or on all boards of a pool that is called ``A+B+C``.

    Args:
        home: where devices and the store are.
        name: of the device or the pool.
        bench: the network, for a pool's calibration.
        console: who is told how it goes.
        max_age_s: measurements of the store that are older are made again; 0 for all.

    Raises:
        ConfigError: the boards are not identical.
        DeviceError: one is unknown, busy all the time, or cannot be reached.
        UntrustedError: boards differ by more than calibration explains.
    """
    boards = members_of(home, name)
    with contextlib.ExitStack() as opened:
        members = [opened.enter_context(open_session(home, board, console, max_age_s=max_age_s)) for board in boards]
        if len(members) == 1:
            yield members[0]
            return
        first = members[0]
        compiler = OneAtATime(first.compiler)
        for member in members:
            member.board.compiler = compiler
        pool = PoolSession(home, first.device, first.compiler, first.measurer, max_age_s, name, members, console)
        pool.calibrate(bench)
        yield pool


@dataclass
class PoolSession(DeviceSession):
    """Identical boards that are ours alone; what is asked of one device is done by whoever of them is free.

    Attributes:
        name: what the pool is called.
        members: the boards at work; the first one gives device, compiler and speed.
        console: who is told how it goes.
        ratios: how much longer each board takes than the first.
    """

    name: str = ""
    members: list[DeviceSession] = field(default_factory=list)
    console: Console | None = None
    ratios: dict[str, float] = field(init=False, default_factory=dict)
    _turn: int = field(init=False, default=0)

    def calibrate(self, bench: Workbench) -> None:
        """Measure the reference networks on every board, and take the ratios from that.

        Raises:
            UntrustedError: boards differ by more than that explains.
        """
        sizes = np.asarray(bench.groups.sizes)
        widths = [np.maximum(1, np.round(sizes * share)).astype(np.int64) for share in REFERENCE_SHARES]
        jobs = [self.candidates(bench).job(bench.plan(row)) for row in widths]

        def measure(member: DeviceSession) -> list[Measurement]:
            return member.measurer.networks(jobs, max_age_s=self.max_age_s)

        with ThreadPoolExecutor(len(self.members)) as threads:
            found = dict(
                zip((each.device.name for each in self.members), threads.map(measure, self.members), strict=True)
            )
        self.ratios = board_ratios(found)
        told = ", ".join(f"{board} {ratio:.3f}" for board, ratio in self.ratios.items())
        self._say(f"boards take, times {self.members[0].device.name}: {told}")

    def measure_candidates(
        self, bench: Workbench, plans: Sequence[PruningPlan], *, max_age_s: float | None = None
    ) -> list[Measurement]:
        """Measure candidates whole, each on one board; see :meth:`DeviceSession.measure_candidates`."""
        limit_s = self.max_age_s if max_age_s is None else max_age_s
        self.measured_networks.update(plan.key for plan in plans)
        preparing = threading.Lock()

        def measure(member: DeviceSession, part: Sequence[PruningPlan]) -> list[Measurement]:
            with preparing:  # while the other boards measure
                jobs = [self.candidates(bench).job(plan) for plan in part]
            return [self._at_first(member, row) for row in member.measurer.networks(jobs, max_age_s=limit_s)]

        return self.shared(plans, NETWORKS_AT_A_TIME, measure)

    def measure_kernels(
        self, shapes: Sequence[LayerShape], *, max_age_s: float | None = None, progress: Progress | None = None
    ) -> dict[LayerShape, Measurement]:
        """Measure kernels alone, each on one board; see :meth:`DeviceSession.measure_kernels`."""
        wanted = list(dict.fromkeys(shapes))
        done: list[LayerShape] = []

        def measure(member: DeviceSession, part: Sequence[LayerShape]) -> list[Measurement]:
            found = member.measure_kernels(part, max_age_s=max_age_s)
            done.extend(part)
            if progress is not None:
                progress(len(done), len(wanted))
            return [self._at_first(member, found[shape]) for shape in part]

        return dict(zip(wanted, self.shared(wanted, KERNELS_AT_A_TIME, measure), strict=True))

    @contextlib.contextmanager
    def open_timer(self, timeline: Timeline) -> Iterator[KernelTimer | None]:
        """What times kernels inside networks on all boards; see :meth:`DeviceSession.open_timer`."""
        stacks = {member.device.name: contextlib.ExitStack() for member in self.members}
        timers: dict[str, KernelTimer] = {}
        for member in self.members:
            timer = stacks[member.device.name].enter_context(member.open_timer(timeline))
            if timer is not None:
                timers[member.device.name] = timer
        yield _PoolTimer(self, timers) if len(timers) == len(self.members) else None
        for member in self.members:  # of a board that was lost meanwhile, nothing is left to be closed
            stacks[member.device.name].close()

    def measure_final(
        self,
        bench: Workbench,
        modules: Sequence[nn.Module],
        model: LatencyModel,
        console: Console,
        scenario: Scenario = BURST,
    ) -> list[Measurement]:
        """Measure networks for the user, each on two boards; see :meth:`DeviceSession.measure_final`.

        Raises:
            AgentLost: a board stays away, or one alone is left.
        """
        if len(self.members) < BOARDS_EACH:
            raise AgentLost(
                f"only {self.members[0].device.name} is left of {self.name}, and every point is measured on "
                f"{BOARDS_EACH} boards: see what is wrong with the others with 'hwprune device check', then go on"
            )
        return self.measured_twice(self.final_jobs(bench, modules, model), console, scenario)

    def measured_twice(
        self, jobs: Sequence[NetworkJob], console: Console, scenario: Scenario = BURST
    ) -> list[Measurement]:
        """Measurements of networks for the user, each on two boards; both of a pair, and neighbours share one."""
        count = len(self.members)
        shares = [
            [index for index in range(len(jobs)) if (place - index) % count < BOARDS_EACH] for place in range(count)
        ]
        total = sum(map(len, shares))
        with console.progress(total, "measuring the front") as steps, ThreadPoolExecutor(count) as threads:

            def measure(member: DeviceSession, share: Sequence[int]) -> dict[int, Measurement]:
                rows = member.measurer.networks([jobs[index] for index in share], final=True, scenario=scenario)
                steps.advance(len(share), member.device.name)
                return {index: self._at_first(member, row) for index, row in zip(share, rows, strict=True)}

            found = list(threads.map(measure, self.members, shares))
        return [together([rows[index] for rows in found if index in rows], self.name) for index in range(len(jobs))]

    def shared(
        self,
        items: Sequence[Item],
        size: int,
        measure: Callable[[DeviceSession, Sequence[Item]], Sequence[Found]],
    ) -> list[Found]:
        """What is found of all items, taken from one queue by the boards; what a lost board had goes to the others.

        Args:
            items: what is measured.
            size: how many a board takes at a time.
            measure: measures some of them on a board; one result an item, at the speed of the first board.

        Raises:
            DeviceError: all boards are lost; the last one's error.
        """
        size = max(1, min(size, -(-len(items) // len(self.members))))
        queue = deque((start, items[start : start + size]) for start in range(0, len(items), size))
        found: dict[int, Sequence[Found]] = {}
        lock = threading.Lock()

        def serve(member: DeviceSession) -> DeviceError | None:
            while True:
                with lock:
                    if not queue:
                        return None
                    start, part = queue.popleft()
                try:
                    found[start] = measure(member, part)
                except DeviceError as error:
                    with lock:
                        queue.appendleft((start, part))
                    return error

        while queue:
            self._turn += 1  # who is first changes: single candidates would all come to the same board
            order = [self.members[(place + self._turn) % len(self.members)] for place in range(len(self.members))]
            with ThreadPoolExecutor(len(order)) as threads:
                ended = list(threads.map(serve, order[: len(queue)]))
            for member, error in zip(order, ended, strict=False):  # fewer were asked than there are
                if error is not None:
                    self._leave(member, error)
        return [row for start in sorted(found) for row in found[start]]

    def _leave(self, member: DeviceSession, error: DeviceError) -> None:
        """Go on without a board.

        Raises:
            DeviceError: it was the last one.
        """
        if len(self.members) == 1:
            raise error
        self.members.remove(member)
        line = str(error).partition("\n")[0]
        self._say(f"the pool goes on without {member.device.name}: {line}")

    def _at_first(self, member: DeviceSession, row: Measurement) -> Measurement:
        return replace(row, board_ratio=self.ratios[member.device.name])

    def _say(self, message: str) -> None:
        if self.console is not None:
            self.console.info(message)


@dataclass(frozen=True)
class _PoolTimer:
    """Times kernels inside networks on all boards of a pool, at the speed of the first.

    Attributes:
        pool: the boards.
        timers: what times them on each.
    """

    pool: PoolSession
    timers: Mapping[str, KernelTimer]

    def times(self, networks: Sequence[tuple[int, ...]]) -> list[list[KernelTime] | None]:
        """Times of the calls of each network, each on one board.

        Raises:
            DeviceError: all boards are lost; the last one's error.
        """

        def measure(member: DeviceSession, part: Sequence[tuple[int, ...]]) -> list[list[KernelTime] | None]:
            name = member.device.name
            ratio = self.pool.ratios[name]
            return [
                times and [KernelTime(time.latency_ms / ratio, time.spread_ms / ratio) for time in times]
                for times in self.timers[name].times(part)
            ]

        return self.pool.shared(networks, NETWORKS_AT_A_TIME, measure)


@dataclass
class OneAtATime:
    """A compiler for several threads.

    Attributes:
        compiler: the compiler.
        schedule_version: version of its kernels' schedules.
    """

    compiler: KernelCompiler
    schedule_version: str = field(init=False)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.schedule_version = self.compiler.schedule_version

    def kernels(self, shapes: Sequence[LayerShape]) -> KernelPack:
        """One library with the kernels of these layers."""
        with self._lock:
            return self.compiler.kernels(shapes)

    def memory_probe(self) -> Artifact:
        """Library that reads memory."""
        with self._lock:
            return self.compiler.memory_probe()
