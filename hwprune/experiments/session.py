"""A device at work: lease, agent, compiler, store and measurer, opened and closed together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from torch import nn

from device_agents.client import AgentClient
from device_agents.registry import Device
from device_agents.replay import Recording
from hwprune.compilation.compiler import Compiler
from hwprune.compilation.planner import Planner
from hwprune.compilation.targets import CpuTarget
from hwprune.compilation.timeline import Timeline
from hwprune.errors import ConfigError
from hwprune.executors import Forked
from hwprune.experiments.candidates import CandidateJobs, linked_job
from hwprune.experiments.devices import same_agent_of
from hwprune.experiments.home import Home
from hwprune.experiments.progress import Console
from hwprune.experiments.workbench import Workbench
from hwprune.measurement.jobs import NetworkJob
from hwprune.measurement.lease import lease
from hwprune.measurement.link import Link
from hwprune.measurement.measure import Measurer
from hwprune.measurement.replay import MeasurementSource, Replay
from hwprune.measurement.session import Progress
from hwprune.measurement.timelines import open_timer
from hwprune.pruning.plan import PruningPlan
from hwprune.records import Measurement
from hwprune.scenario import BURST, Scenario
from latency_models.footprint import footprint_bytes
from latency_models.kernel_table import KernelTime
from latency_models.network_model import LatencyModel
from latency_models.shapes import LayerShape

#: How long a command waits for another one that measures on the same device.
LEASE_WAIT_S = 600.0
#: Pauses before each attempt to reach a lost device again; a board that starts anew is back before their sum is over.
RECONNECT_WAITS_S = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0)


class KernelTimer(Protocol):
    """Times the calls of networks, one by one; see :class:`hwprune.measurement.timelines.Timer`."""

    def times(self, networks: Sequence[tuple[int, ...]]) -> list[list[KernelTime] | None]:
        """Times of the calls of each network, in their order; None where it could not be timed with trust."""


@dataclass
class DeviceSession:
    """A device that is ours alone while the session lasts.

    Attributes:
        home: where its entry is.
        device: the entry.
        compiler: compiles for it.
        measurer: measures on it, or answers from a recording.
        max_age_s: measurements of the store that are older are made again; 0 for all, None for none.
        measured_networks: keys of the candidates that were measured whole or found in the store.
    """

    home: Home
    device: Device
    compiler: Compiler
    measurer: MeasurementSource
    max_age_s: float | None = None
    measured_networks: set[str] = field(init=False, default_factory=set)
    _candidates: CandidateJobs | None = field(init=False, default=None)

    @property
    def board(self) -> Measurer:
        """What measures on the device itself.

        Raises:
            ConfigError: the device is a recording.
        """
        if not isinstance(self.measurer, Measurer):
            raise ConfigError(f"{self.device.name} is a recording, on which nothing new can be measured")
        return self.measurer

    def measure_candidate(self, bench: Workbench, plan: PruningPlan) -> Measurement:
        """Measure a candidate whole, in one process."""
        return self.measure_candidates(bench, [plan])[0]

    def measure_candidates(
        self, bench: Workbench, plans: Sequence[PruningPlan], *, max_age_s: float | None = None
    ) -> list[Measurement]:
        """Measure candidates whole, in turns, each in one process: a resident library's where that runs it.

        Args:
            bench: the candidates' problem.
            plans: the candidates.
            max_age_s: measurements of the store that are older are made again; None for the session's own limit.

        Raises:
            CompileError: one cannot be compiled.
            DeviceError: the device is lost.
        """
        self.measured_networks.update(plan.key for plan in plans)
        jobs = [self.candidates(bench).job(plan) for plan in plans]
        return self.measurer.networks(jobs, max_age_s=self.max_age_s if max_age_s is None else max_age_s)

    def measure_kernels(
        self, shapes: Sequence[LayerShape], *, max_age_s: float | None = None, progress: Progress | None = None
    ) -> dict[LayerShape, Measurement]:
        """Measure kernels alone, in turns.

        Args:
            shapes: the kernels' layers.
            max_age_s: measurements of the store that are older are made again.
            progress: told the kernels that are done and their total.

        Raises:
            CompileError: one cannot be compiled.
            DeviceError: the device is lost.
        """
        return self.measurer.kernels(shapes, max_age_s=max_age_s, progress=progress)

    @contextlib.contextmanager
    def open_timer(self, timeline: Timeline) -> Iterator[KernelTimer | None]:
        """What times kernels inside networks, for as long as the context lasts; None where the device cannot load it.

        Raises:
            DeviceError: the device is lost.
        """
        with open_timer(self.board, timeline) as timer:
            yield timer

    def measure_final(
        self,
        bench: Workbench,
        modules: Sequence[nn.Module],
        model: LatencyModel,
        console: Console,
        scenario: Scenario = BURST,
    ) -> list[Measurement]:
        """Measure networks for the user: afresh, in turns, in several processes each.

        Args:
            bench: the networks' problem.
            modules: the networks.
            model: tells how much of their time is in kernels with a schedule of ours, where some have none.
            console: who is told how it goes.
            scenario: what the device is put through meanwhile.
        """
        with console.progress(len(modules), "measuring the front") as steps:
            jobs = self.final_jobs(bench, modules, model)
            return self.measurer.networks(jobs, final=True, scenario=scenario, progress=_advancing(steps.advance))

    def final_jobs(self, bench: Workbench, modules: Sequence[nn.Module], model: LatencyModel) -> list[NetworkJob]:
        """Jobs of networks for the user: each linked alone, with the predicted time of its kernels that are ours."""
        return [
            replace(
                linked_job(self.compiler, bench, module),
                own_kernels_ms=own_kernels_ms(bench.graph.shapes(module), model),
            )
            for module in modules
        ]

    def candidates(self, bench: Workbench) -> CandidateJobs:
        """What makes jobs of a network's candidates; the resident library of the last network is kept."""
        if self._candidates is None or self._candidates.bench is not bench:
            self._candidates = CandidateJobs(self.compiler, bench, self.measurer.say)
        return self._candidates


def own_kernels_ms(shapes: Sequence[LayerShape], model: LatencyModel) -> float | None:
    """Predicted time of a network's kernels with a schedule of ours; None where all have one and nobody asks."""
    own = [shape for shape in shapes if not shape.op.startswith("fallback:")]
    if not own or len(own) == len(shapes):
        return None
    return float(model.predict_kernels(own, footprint_bytes(own))[0].sum())


@contextlib.contextmanager
def open_session(
    home: Home, device: Device, console: Console, *, max_age_s: float | None = None
) -> Iterator[DeviceSession]:
    """Open the store, take the device and start its agent, for as long as the context lasts.

    Of a recorded device there is nothing to take, and nothing of it enters the store.

    Raises:
        DeviceError: another job holds the device all the time, its agent cannot be started, or it has changed.
        StoreError: the store cannot be opened.
    """
    target = CpuTarget.from_dict(device.target, device.threads)
    if device.recording is not None:
        yield DeviceSession(home.of(device), device, Planner(target, home.path), replay_of(device), max_age_s)
        return
    target.compiler_command()  # a missing C compiler is said before anything is waited for
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(home.open_store())
        held = stack.enter_context(lease(store.leases, device.name, wait_s=LEASE_WAIT_S, say=console.warn))

        def connect() -> AgentClient:
            held.check()
            return same_agent_of(home, device)

        link = stack.enter_context(Link(connect, waits_s=RECONNECT_WAITS_S, say=console.warn))
        for warning in link.client(busy_wait_s=LEASE_WAIT_S).warnings:
            console.warn(warning)
        compiler = Compiler(target, home.path, Forked(2))
        measurer = Measurer(link, compiler, store, device, say=console.warn)
        yield DeviceSession(home, device, compiler, measurer, max_age_s)


def replay_of(device: Device) -> Replay:
    """What answers for a recorded device.

    Raises:
        RecordingError: its file cannot be read.
    """
    assert device.recording is not None
    lanes = CpuTarget.from_dict(device.target, device.threads).lanes
    return Replay(device, Recording.read(Path(device.recording)), lanes)


def _advancing(advance: Callable[[float], None]) -> Callable[[int, int], None]:
    """Progress that is told as a count, passed on as steps."""
    told = 0

    def progress(done: int, _total: int) -> None:
        nonlocal told
        if done > told:  # what a lost device interrupted begins anew
            advance(done - told)
            told = done

    return progress
