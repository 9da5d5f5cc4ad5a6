"""Picks of runs on one device: rebuilt from the run folders, compiled, found in the store or measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from torch import nn

from device_agents.registry import Device
from hwprune import training
from hwprune.compilation.compiler import Compiler
from hwprune.compilation.targets import CpuTarget
from hwprune.config import RunConfig
from hwprune.errors import HwpruneError, RunError
from hwprune.experiments.home import Home
from hwprune.experiments.points import PointFiles
from hwprune.experiments.progress import Console
from hwprune.experiments.provenance import RunFolder
from hwprune.experiments.session import open_session
from hwprune.experiments.workbench import Workbench
from hwprune.fronts import FrontRow
from hwprune.measurement.measure import FINAL_PROCESSES
from hwprune.records import PROTOCOL_VERSION, Conditions, Measurement, same_clock
from hwprune.scenario import Scenario
from latency_models.network_model import LatencyModel


@dataclass(frozen=True)
class Pick:
    """The network that a run would deploy.

    Attributes:
        run: the run, by its label.
        folder: the run's folder.
        row: the network, as the run measured it on its own device; None where the run has no pick.
        conditions: what that latency depends on.
        reference_ms: time of the reference kernel at the clock that it is given at; None if not known.
    """

    run: str
    folder: Path
    row: FrontRow | None
    conditions: Conditions
    reference_ms: float | None

    @property
    def point(self) -> str:
        """Id of the network in its run.

        Raises:
            RunError: the run has no pick.
        """
        if self.row is None:
            raise RunError(f"{self.run} has no pick: its dense network could not be measured with trust")
        return self.row.id


@dataclass(frozen=True)
class Cost:
    """A pick on a device; without a latency where there is none to be trusted.

    Attributes:
        latency_ms: the estimate, with its 95 % interval ``latency_ms_low`` to ``latency_ms_high``.
        trust: its grade.
        planned_memory_bytes: packed weights plus arena of the library for this device.
        measured_at: ISO 8601 time, UTC.
        source: the ``run`` whose pick it is, the ``store``, or ``measured`` for this comparison.
        own: whether the run was made on this device.
        regret: how much slower than the fastest pick of a run on this device, 0.2 for 20 %; negative where it is
            faster; None where that one's latency is not known.
        simulated: whether a model answered in place of a replayed device.
        reason: why there is no latency; "" where there is one.
    """

    latency_ms: float | None = None
    latency_ms_low: float | None = None
    latency_ms_high: float | None = None
    trust: str | None = None
    planned_memory_bytes: int | None = None
    measured_at: str | None = None
    source: Literal["run", "store", "measured"] | None = None
    own: bool = False
    regret: float | None = None
    simulated: bool = False
    reason: str = ""


@dataclass
class Networks:
    """Picks as torch modules, rebuilt from their runs: plan and weights as they are handed out."""

    _benches: dict[str, Workbench] = field(default_factory=dict)
    _modules: dict[str, nn.Module] = field(default_factory=dict)

    def bench(self, pick: Pick) -> Workbench:
        """The problem of a pick's run; its dense weights are not needed."""
        if pick.run not in self._benches:
            problem = RunConfig.load(pick.folder / "config.yaml").problem
            self._benches[pick.run] = Workbench.open(problem, with_weights=False)
        return self._benches[pick.run]

    def module(self, pick: Pick) -> nn.Module:
        """The picked network.

        Raises:
            HwpruneError: there is none, or its data or files are missing or do not fit.
        """
        if pick.run not in self._modules:
            files, point = PointFiles(RunFolder.open(pick.folder)), pick.point
            module = self.bench(pick).slicer.cut(files.plan(point))
            training.load_weights(module, files.weights(point))
            self._modules[pick.run] = module.eval()
        return self._modules[pick.run]


@dataclass(frozen=True)
class Sitting:
    """Picks compiled for one device.

    Attributes:
        host: pick of the newest run on the device.
        device: its entry in the inventory.
        bench: the host's problem, planned for the device.
        conditions: what is measured there now depends on.
        modules: the networks, by run.
        keys: what their measurements are kept under, by run.
        reasons: why the others cannot be compiled, by run.
    """

    host: Pick
    device: Device
    bench: Workbench
    conditions: Conditions
    modules: dict[str, nn.Module]
    keys: dict[str, str]
    reasons: dict[str, Cost]

    @classmethod
    def prepare(cls, picks: Sequence[Pick], host: Pick, device: Device, networks: Networks, home: Home) -> Sitting:
        """Rebuild and compile the picks for a device.

        Raises:
            HwpruneError: the host's problem cannot be opened here.
        """
        target = CpuTarget.from_dict(device.target, device.threads)
        bench = replace(networks.bench(host), target=target)
        compiler = Compiler(target, home.path)
        modules, keys, reasons = {}, {}, {}
        for pick in picks:
            try:
                _check_input(pick, host)
                module = networks.module(pick)
                keys[pick.run] = compiler.network(bench.graph, module).sha256
                modules[pick.run] = module
            except HwpruneError as error:
                reasons[pick.run] = Cost(reason=str(error))
        conditions = replace(
            host.conditions, schedule_version=compiler.schedule_version, protocol_version=PROTOCOL_VERSION
        )
        return cls(host, device, bench, conditions, modules, keys, reasons)

    def stored(self, home: Home) -> dict[str, Cost]:
        """What the store knows of the picks, measured as a front's networks are and given at the runs' clock."""
        with home.open_store() as store:
            rows = {run: store.find_measurement(key, self.conditions) for run, key in self.keys.items()}
        return {
            run: _cost(row, "store")
            for run, row in rows.items()
            if row is not None
            and len(row.values_ms) >= FINAL_PROCESSES
            and same_clock(row.device_reference_ms, self.host.reference_ms)
        }

    def measured(self, home: Home, console: Console, known: Mapping[str, Cost]) -> dict[str, Cost]:
        """The picks measured now.

        Args:
            home: where the device's store and agents are.
            console: who is told how it goes.
            known: stands in for those that cannot be measured with trust, if it is given at the same clock.

        Raises:
            DeviceError: the device cannot be reached, or is lost.
        """
        with open_session(home, self.device, console) as session:
            model = LatencyModel.from_json((self.host.folder / "latency_model.json").read_text())
            scenario = Scenario.parse(self.conditions.scenario)
            rows = session.measure_final(self.bench, list(self.modules.values()), model, console, scenario)
        found = {run: _cost(row, "measured") for run, row in zip(self.modules, rows, strict=True)}
        levels = {row.device_reference_ms for row in rows if row.error is None}
        is_same = all(same_clock(level_ms, self.host.reference_ms) for level_ms in levels)
        rest = dict(known) if is_same else self.reasons
        return rest | {run: cost for run, cost in found.items() if cost.latency_ms is not None or run not in rest}


def _check_input(pick: Pick, host: Pick) -> None:
    """Make sure that a pick takes the images that the host's networks are measured with.

    Raises:
        HwpruneError: it takes others.
    """
    theirs, ours = pick.conditions.input_shape[1:], host.conditions.input_shape[1:]
    if theirs != ours:
        raise HwpruneError(
            f"it takes images of {'x'.join(map(str, theirs))}, {host.run} takes {'x'.join(map(str, ours))}: "
            "search again with the same data"
        )


def _cost(row: Measurement, source: Literal["store", "measured"]) -> Cost:
    if row.error is not None:
        return Cost(reason=row.error)
    if row.trust == "C":
        return Cost(reason=f"measured, but untrusted: {row.trust_reason}")
    low_ms, high_ms = row.interval_ms
    return Cost(row.latency_ms, low_ms, high_ms, row.trust, row.planned_memory_bytes, row.measured_at, source)
