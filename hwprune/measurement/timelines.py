"""Kernels timed inside whole networks: every run gives a time for each call, under the conditions of a network."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from device_agents.agent.timing import GATED_NS_MAX
from device_agents.client import AgentClient, Block
from device_agents.errors import LoadFailed, RunFailed
from hwprune.compilation.timeline import RUNS_MAX, Timeline
from hwprune.measurement.link import LostByWork
from hwprune.measurement.loading import load
from hwprune.measurement.measure import Measurer
from hwprune.measurement.readiness import busy_cores, quiet_cores
from hwprune.measurement.trust import DOUBT_LIMITS, KEPT_BLOCKS_MIN, LIMITS, is_doubtful, movement, reference_level_ms
from hwprune.records import clock_doubt
from latency_models.kernel_table import KernelTime

FloatArray = npt.NDArray[np.float64]

#: Requests for each network that are made at a time, and the length of one's runs together.
REQUESTS, REQUEST_MS = 8, 10.0
#: How long a request waits for undisturbed moments at most, and how long requests are made until enough runs had one.
WAIT_MS, PATIENCE_S = 40.0, 10.0
#: A sitting lasts so long at least: others read from the caches and memory that cores share for a second or two, which
#: slows networks with many weights and not the reference kernel.
SITTING_S = 2.0
#: Networks whose blocks take turns.
NETWORKS_A_SITTING = 8
#: Share of the kept runs, the fastest by their total, whose calls are averaged: sums of kernels are then networks.
FASTEST = 0.2
#: A time is known no better than this share of it: the next load of the library may fall on other cache lines.
_LEAST_SPREAD = 0.003


@dataclass
class _Runs:
    """Runs of one network: ``(calls,)`` times of each, and a block of it alone between two readings of the reference.

    Attributes:
        numbers: what stands for the network's widths.
        runs: of one request.
        times_ms: of each run.
        frames: of each run.
        error: why it cannot run.
    """

    numbers: tuple[int, ...]
    runs: int
    times_ms: list[FloatArray] = field(default_factory=list)
    frames: list[Block] = field(default_factory=list)
    error: str | None = None

    def kept(self, level_ms: float) -> list[int]:
        """Runs during which the reference stood at its level."""
        for limit in LIMITS.values():
            near = [n for n, frame in enumerate(self.frames) if movement(frame, level_ms) <= limit]
            if len(near) >= KEPT_BLOCKS_MIN:
                return near
        return []


class Timer:
    """A timeline on a device, loaded once for any number of networks; made by :func:`open_timer`.

    Args:
        measurer: knows the device.
        timeline: the library.
    """

    def __init__(self, measurer: Measurer, timeline: Timeline) -> None:
        self._measurer = measurer
        self._timeline = timeline
        self._client: AgentClient | None = None
        self._handles: list[int] = []

    def load(self, client: AgentClient) -> None:
        """Load the library over a connection, on each spare core; what was loaded over a former one ended with it.

        Raises:
            LoadFailed: the device cannot load it on any of them.
        """
        measurer, failures = self._measurer, list[str]()
        self._client, self._handles = client, []
        alone: list[tuple[int, ...]] = [(core,) for core in measurer.device.spare_cores]
        for cores in alone or [measurer.device.pinned_cores]:
            library = load(
                client,
                self._timeline.artifact,
                processes=1,
                cores=cores,
                self_test=None,
                timeout_s=measurer.settings.timeout_s,
            )
            self._handles += [process.handle for process in library.processes]
            failures += [] if library.error is None else [library.error]
        if not self._handles:
            raise LoadFailed(failures[0])

    def unload(self, client: AgentClient) -> None:
        """End the library's processes, if they are on this connection."""
        if client is self._client:
            for handle in self._handles:
                client.unload(handle)
            self._handles = []

    def times(self, networks: Sequence[tuple[int, ...]]) -> list[list[KernelTime] | None]:
        """Times of the calls of each network, in their order; None where a network could not be timed with trust.

        Args:
            networks: what stands for the widths of each (``Family.numbers``).

        Raises:
            AgentError: the device is lost and stays away.
        """
        found: list[list[KernelTime] | None] = []
        for start in range(0, len(networks), NETWORKS_A_SITTING):
            sitting = networks[start : start + NETWORKS_A_SITTING]
            try:
                found += self._measurer.do(functools.partial(self._sit, networks=sitting))
            except LostByWork as error:
                self._measurer.say(f"{len(sitting)} networks are left out: the device was {error}")
                found += [None] * len(sitting)
        return found

    def _sit(self, client: AgentClient, networks: Sequence[tuple[int, ...]]) -> list[list[KernelTime] | None]:
        if client is not self._client:
            self.load(client)
        jobs = [_Runs(numbers, runs=3) for numbers in networks]
        for job in jobs:
            self._size(client, job)
        known_ms = self._measurer.reference_ms(self._timeline.artifact.schedule_version)
        level_ms = float("nan")
        started = time.monotonic()
        while (elapsed_s := time.monotonic() - started) < PATIENCE_S:
            running = [job for job in jobs if job.error is None]
            is_far = known_ms is not None and clock_doubt(known_ms / level_ms) > DOUBT_LIMITS["A"]
            all_need = is_far or elapsed_s < SITTING_S
            pending = running if all_need else [job for job in running if not job.kept(level_ms)]
            if not pending:
                break
            self._measurer.wait_until_ready()
            self._add_runs(client, pending, known_ms)
            level_ms = reference_level_ms([frame for job in jobs for frame in job.frames], known_ms)
        slower_ms = reference_level_ms([frame for job in jobs for frame in job.frames])
        return [_times(job, level_ms, known_ms) or _times(job, slower_ms, known_ms) for job in jobs]

    def _size(self, client: AgentClient, job: _Runs) -> None:
        """Make a request long enough, or note why the network cannot run."""
        try:
            times_ms, _ = self._request(client, job)
        except RunFailed as failure:
            self._give_up(client, job, failure)
            return
        run_ms = max(float(times_ms.sum(axis=1).min()), 1e-3)
        job.runs = int(np.clip(np.ceil(REQUEST_MS / run_ms), 1, RUNS_MAX))

    def _add_runs(self, client: AgentClient, jobs: Sequence[_Runs], known_ms: float | None) -> None:
        """A sitting's runs, in turns; those that other programs may have slowed are not kept."""
        started, before = time.monotonic(), client.state()
        added: list[tuple[_Runs, FloatArray, Block]] = []
        for _ in range(REQUESTS):
            for job in jobs:
                if job.error is not None:
                    continue
                try:
                    times_ms, readings_ms = self._request(client, job, known_ms)
                except RunFailed as failure:
                    self._give_up(client, job, failure)
                    continue
                for calls_ms, (before_ms, after_ms) in zip(times_ms, readings_ms, strict=True):
                    added.append((job, calls_ms, Block((float(calls_ms.sum()),), float(before_ms), float(after_ms))))
        elapsed_s, after = time.monotonic() - started, client.state()
        busy = busy_cores(before, after, elapsed_s) - self._measurer.device.threads
        is_quiet = busy <= quiet_cores(before, after, elapsed_s)
        for job, calls_ms, frame in added:
            if not is_doubtful(frame, is_quiet, known_ms):
                job.times_ms.append(calls_ms)
                job.frames.append(frame)

    def _give_up(self, client: AgentClient, job: _Runs, failure: RunFailed) -> None:
        """Leave a network out; a process that crashed by it runs no other one."""
        job.error = str(failure)
        self.unload(client)
        self.load(client)

    def _request(self, client: AgentClient, job: _Runs, known_ms: float | None = None) -> tuple[FloatArray, FloatArray]:
        """Times of some runs' calls, and of the reference around each run."""
        slowest_ms = known_ms * (1 + LIMITS["B"]) if known_ms is not None else float("inf")
        wait_ms = WAIT_MS if slowest_ms <= GATED_NS_MAX / 1e6 else 0.0
        request = self._timeline.request(job.numbers, job.runs, slowest_ms if wait_ms else 0.0, wait_ms)
        times_ms, readings_ms = self._timeline.times_ms(client.run(self._handles[0], request), job.runs)
        if readings_ms[-1, 1] > slowest_ms:
            self._handles.append(self._handles.pop(0))  # this core is slowed: the next request on another one
        return times_ms, readings_ms


@contextlib.contextmanager
def open_timer(measurer: Measurer, timeline: Timeline) -> Iterator[Timer | None]:
    """A timeline on the device as long as the context lasts; None where the device cannot load it.

    Raises:
        AgentError: the device is lost and stays away, or the library cannot be written there.
    """
    timer = Timer(measurer, timeline)
    try:
        measurer.do(timer.load)
    except LoadFailed as error:
        measurer.say(f"kernels cannot be timed inside networks: {error}")
        yield None
        return
    yield timer
    measurer.do(timer.unload)  # an exception ends the agent, which ends its processes


def _times(job: _Runs, level_ms: float, known_ms: float | None) -> list[KernelTime] | None:
    """Mean of each call over the fastest runs of the kept blocks, given at the device's own level of the reference.

    Args:
        job: what was timed.
        level_ms: the level that blocks are kept at.
        known_ms: the device's own; None where that is not known.

    Returns:
        None without blocks to keep, and where the level is too far from the device's own.
    """
    ratio = known_ms / level_ms if known_ms else 1.0
    doubt, kept = clock_doubt(ratio), job.kept(level_ms)
    if job.error is not None or not kept or doubt > DOUBT_LIMITS["B"]:
        return None
    runs = np.vstack([job.times_ms[run] for run in kept])
    count = max(5, round(FASTEST * len(runs)))
    fastest = runs[np.argsort(runs.sum(axis=1), kind="stable")[:count]]
    mean_ms = np.maximum(fastest.mean(axis=0), 1e-6)
    # The clock has whole nanoseconds, and a call may be shorter than what reading it varies by.
    spread = np.hypot(fastest.std(axis=0) / mean_ms / np.sqrt(len(fastest)), _LEAST_SPREAD) + doubt
    return [
        KernelTime(float(ratio * mean), float(ratio * mean * share))
        for mean, share in zip(mean_ms, spread, strict=True)
    ]
