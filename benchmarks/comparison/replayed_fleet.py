"""Thirty boards that are not there: recordings that take as long for a network as a board does, in one pool."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device_agents.registry import Device
from device_agents.replay import Recording
from hwprune.compilation.planner import Planner
from hwprune.experiments.home import Home
from hwprune.experiments.pool import PoolSession
from hwprune.experiments.session import DeviceSession
from hwprune.experiments.workbench import Workbench
from hwprune.measurement.jobs import NetworkJob
from hwprune.measurement.replay import Replay
from hwprune.pruning.plan import PruningPlan
from hwprune.records import Measurement
from latency_models.network_model import LatencyModel


@dataclass
class Patient(Replay):
    """A recording that answers when a board would have.

    Attributes:
        item_s: what a board takes for a network.
        busy_s: time that it worked.
    """

    item_s: float = 0.0
    busy_s: float = field(init=False, default=0.0)

    def networks(self, jobs: Sequence[NetworkJob], **options: Any) -> list[Measurement]:
        """What was recorded, or what the model says, after the time that measuring takes."""
        started = time.perf_counter()
        found = super().networks(jobs, **options)
        time.sleep(max(0.0, self.item_s * len(jobs) - (time.perf_counter() - started)))
        self.busy_s += time.perf_counter() - started
        return found


def busy_share(
    bench: Workbench, plans: Sequence[PruningPlan], model: LatencyModel, *, boards: int, item_s: float, folder: Path
) -> float:
    """Share of the time that boards of a pool measure, from the first candidate to the last, in [0, 1].

    What the host does for every candidate (cutting, planning, handing out, taking back) is what the product does; only
    the boards are recordings.

    Args:
        bench: the network.
        plans: candidates.
        model: tells latencies.
        boards: how many.
        item_s: seconds that a board takes for a candidate.
        folder: where state goes.
    """
    target = bench.graph.target
    recording = Recording({}, ({"kind": "model", "name": "model", "content": model.to_json()},))
    home, members = Home(folder), []
    for number in range(boards):
        entry = {"kind": "llvm", "mcpu": target.mcpu}
        told = {"machine_id": f"board{number:02}", "arch": "x86_64"}
        device = Device(
            name=told["machine_id"],
            transport="replay",
            platform="cpu",
            target=entry,
            recording="model",
            description=told,
        )
        measurer = Patient(device, recording, target.lanes, item_s)
        members.append(DeviceSession(home, device, Planner(target, folder), measurer))
    first = members[0]
    pool = PoolSession(home, first.device, first.compiler, first.measurer, None, "fleet", members)
    pool.ratios = {member.device.name: 1.0 for member in members}
    pool.measure_candidates(bench, plans[:boards])  # what is built once
    for member in members:
        member.measurer.busy_s = 0.0
    started = time.perf_counter()
    pool.measure_candidates(bench, plans)
    whole_s = time.perf_counter() - started
    return sum(member.measurer.busy_s for member in members) / (boards * whole_s)
