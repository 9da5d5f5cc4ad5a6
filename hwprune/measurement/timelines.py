"""Kernels timed inside whole networks: every run gives a time for each call, under the conditions of a network."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_agents.client import AgentClient, Block
from device_agents.errors import RunFailed
from hwprune.compilation.timeline import RUNS_MAX, Timeline
from hwprune.measurement.loading import load, unloading
from hwprune.measurement.measure import Measurer
from hwprune.measurement.readiness import busy_cores, quiet_cores
from hwprune.measurement.trust import KEPT_BLOCKS_MIN, LIMITS, is_doubtful, reference_level_ms
from hwprune.records import clock_doubt
from latency_models.kernel_table import KernelTime

FloatArray = npt.NDArray[np.float64]

#: Blocks of each network that are added at a time, and their length; and how long to add until enough are undisturbed.
BLOCKS, BLOCK_MS, PATIENCE_S = 12, 3.0, 30.0
#: Networks whose blocks take turns.
NETWORKS_A_SITTING = 8
#: Share of the kept runs, the fastest by their total, whose calls are averaged: sums of kernels are then networks.
FASTEST = 0.2
#: A time is known no better than this share of it: the next load of the library may fall on other cache lines.
_LEAST_SPREAD = 0.003


@dataclass
class _Runs:
    """Blocks of one network: ``(runs, calls)`` times of each, with the reference around them."""

    numbers: tuple[int, ...]
    runs: int
    times_ms: list[FloatArray]
    frames: list[Block]
    error: str | None = None

    def kept(self, level_ms: float) -> list[int]:
        """Blocks during which the reference stood at its level."""
        for limit in LIMITS.values():
            near = [n for n, frame in enumerate(self.frames) if _movement(frame, level_ms) <= limit]
            if len(near) >= KEPT_BLOCKS_MIN:
                return near
        return []


class Timer:
    """A timeline on a device, loaded once for any number of networks; made by :func:`open_timer`.

    Args:
        measurer: knows the device.
        timeline: the library.
        handle: its process on the device.
    """

    def __init__(self, measurer: Measurer, timeline: Timeline, handle: int) -> None:
        self._measurer = measurer
        self._client: AgentClient = measurer.client
        self._timeline = timeline
        self._handle = handle

    def times(self, networks: Sequence[tuple[int, ...]]) -> list[list[KernelTime] | None]:
        """Times of the calls of each network, in their order; None where a network could not be timed with trust.

        Args:
            networks: what stands for the widths of each (``Family.numbers``).

        Raises:
            AgentError: the device does not answer.
        """
        found: list[list[KernelTime] | None] = []
        for start in range(0, len(networks), NETWORKS_A_SITTING):
            found += self._sitting(networks[start : start + NETWORKS_A_SITTING])
        return found

    def _sitting(self, networks: Sequence[tuple[int, ...]]) -> list[list[KernelTime] | None]:
        jobs = [_Runs(numbers, 3, [], []) for numbers in networks]
        for job in jobs:
            self._size(job)
        known = self._measurer.store.reference_ms(
            self._measurer.device.fingerprint, self._timeline.artifact.schedule_version
        )
        level_ms = float("nan")
        deadline = time.monotonic() + PATIENCE_S
        while True:
            pending = [job for job in jobs if job.error is None and not job.kept(level_ms)]
            if not pending or time.monotonic() > deadline:
                break
            self._measurer.wait_until_ready()
            self._add_blocks(pending, known)
            level_ms = reference_level_ms([frame for job in jobs for frame in job.frames])
        doubt = clock_doubt(known / level_ms) if known and math.isfinite(level_ms) else 0.0
        if doubt > LIMITS["B"]:
            return [None] * len(jobs)
        ratio = known / level_ms if known else 1.0
        return [None if job.error else _times(job, job.kept(level_ms), ratio, doubt) for job in jobs]

    def _size(self, job: _Runs) -> None:
        """Make a block long enough, or note why the network cannot run."""
        try:
            times_ms, _, _ = self._block(job)
        except RunFailed as failure:
            job.error = str(failure)
            return
        run_ms = max(float(times_ms.sum(axis=1).min()), 1e-3)
        job.runs = int(np.clip(np.ceil(BLOCK_MS / run_ms), 1, RUNS_MAX))

    def _add_blocks(self, jobs: Sequence[_Runs], known_ms: float | None) -> None:
        """A sitting's blocks, in turns; those that other programs may have slowed are not kept."""
        started, before = time.monotonic(), self._client.state()
        added: list[tuple[_Runs, FloatArray, Block]] = []
        for _ in range(BLOCKS):
            for job in jobs:
                if job.error is not None:
                    continue
                try:
                    times_ms, before_ms, after_ms = self._block(job)
                except RunFailed as failure:
                    job.error = str(failure)
                    continue
                added.append((job, times_ms, Block((float(times_ms.sum(axis=1).min()),), before_ms, after_ms)))
        elapsed_s, after = time.monotonic() - started, self._client.state()
        busy = busy_cores(before, after, elapsed_s) - self._measurer.device.threads
        is_quiet = busy <= quiet_cores(before, after, elapsed_s)
        for job, times_ms, frame in added:
            if not is_doubtful(frame, is_quiet, known_ms):
                job.times_ms.append(times_ms)
                job.frames.append(frame)

    def _block(self, job: _Runs) -> tuple[FloatArray, float, float]:
        output = self._client.run(self._handle, self._timeline.request(job.numbers, job.runs))
        return self._timeline.times_ms(output, job.runs)


@contextlib.contextmanager
def open_timer(measurer: Measurer, timeline: Timeline) -> Iterator[Timer | None]:
    """A timeline on the device as long as the context lasts; None where the device cannot load it.

    Raises:
        AgentError: the device does not answer, or the library cannot be written there.
    """
    library = load(
        measurer.client,
        timeline.artifact,
        processes=1,
        cores=measurer.device.cores,
        self_test=None,
        timeout_s=measurer.settings.timeout_s,
    )
    with unloading(measurer.client, library):
        if library.error is None:
            yield Timer(measurer, timeline, library.processes[0].handle)
        else:
            measurer.say(f"kernels cannot be timed inside networks: {library.error}")
            yield None


def _times(job: _Runs, kept: Sequence[int], ratio: float, doubt: float) -> list[KernelTime] | None:
    """Mean of each call over the fastest runs of the kept blocks; None without these."""
    if not kept:
        return None
    runs = np.vstack([job.times_ms[block] for block in kept])
    count = max(5, round(FASTEST * len(runs)))
    fastest = runs[np.argsort(runs.sum(axis=1), kind="stable")[:count]]
    mean_ms = np.maximum(fastest.mean(axis=0), 1e-6)
    # The clock has whole nanoseconds, and a call may be shorter than what reading it varies by.
    spread = np.hypot(fastest.std(axis=0) / mean_ms / np.sqrt(len(fastest)), _LEAST_SPREAD) + doubt
    return [
        KernelTime(float(ratio * mean), float(ratio * mean * share))
        for mean, share in zip(mean_ms, spread, strict=True)
    ]


def _movement(frame: Block, level_ms: float) -> float:
    readings = (frame.reference_before_ms, frame.reference_after_ms)
    return max(abs(reading - level_ms) for reading in readings) / level_ms
