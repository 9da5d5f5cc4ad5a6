"""Models in files measured on devices: a matrix, with a number or a reason in every cell.

All models are compiled before anything is measured, so that compiling disturbs no measurement on this computer. Then
the devices work side by side, each on one model at a time. A cell that the store knows under the present conditions is
served from there, whatever failed is tried again: a run that was broken off goes on by being started again.
"""

from __future__ import annotations

import datetime
import functools
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from device_agents.errors import DeviceError
from device_agents.registry import Device
from hwprune.compilation.compiler import Compiler
from hwprune.compilation.planner import Planner
from hwprune.compilation.targets import CpuTarget
from hwprune.errors import HwpruneError
from hwprune.executors import Forked
from hwprune.experiments.devices import find
from hwprune.experiments.home import Home
from hwprune.experiments.matrix import Cell, Matrix, with_ratio
from hwprune.experiments.model_jobs import Engine, ModelJobs, Prepared
from hwprune.experiments.progress import Console
from hwprune.experiments.session import DeviceSession, open_session
from hwprune.experiments.turns import turn_on
from hwprune.measurement.jobs import NetworkJob
from hwprune.measurement.measure import FINAL_PROCESSES
from hwprune.models.inputs import Shape
from hwprune.records import Measurement
from hwprune.scenario import BURST, Scenario
from latency_models.shapes import LayerShape

#: Engines that are measured in turns where one is asked for: ours stands beside ONNX Runtime's for their ratio.
TOGETHER: dict[Engine, tuple[Engine, ...]] = {"tvm": ("tvm",), "onnxruntime": ("onnxruntime", "tvm")}


#: How often what stays untrusted is measured before its cell is given up.
ATTEMPTS = 2

#: What libraries are made for: a target, and whether a device is there that shall run them.
Kind = tuple[CpuTarget, bool]

#: Every model for every kind of device.
Models = Mapping[Path, Mapping[Kind, Prepared]]


@dataclass(frozen=True)
class Request:
    """What is wanted.

    Attributes:
        models: files.
        devices: names in the inventory.
        engine: what runs the models.
        shapes: of inputs that have free sizes in the files, by name.
        max_age_s: measurements of the store that are older are made again; 0 for all, None for none.
        scenario: what the devices are put through meanwhile.
    """

    models: tuple[Path, ...]
    devices: tuple[str, ...]
    engine: Engine = "tvm"
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    max_age_s: float | None = None
    scenario: Scenario = BURST

    @property
    def engines(self) -> tuple[Engine, ...]:
        """All that is measured, what was asked for first."""
        return TOGETHER[self.engine]


def measure(home: Home, request: Request, console: Console) -> Matrix:
    """Measure every model on every device.

    Args:
        home: where devices, store and artifacts are.
        request: what is wanted.
        console: who is told how it goes.

    Raises:
        UnknownDeviceError: a device is not in the inventory.
        CompileError: a device's target cannot be compiled for at all.
    """
    devices = [find(home, name) for name in dict.fromkeys(request.devices)]
    models = _prepared(home, request, devices, console)
    cells: list[Cell] = []
    names, files = [device.name for device in devices], list(map(str, models))
    with console.side_by_side(names) as consoles:
        # This computer comes last: until then it is busy with the work of the others.
        for together in (
            [device for device in devices if device.transport != "local"],
            *([device] for device in devices if device.transport == "local"),
        ):
            for found in _side_by_side(home, together, models, request, consoles):
                cells += found
    cells.sort(key=lambda cell: (files.index(cell.model), names.index(cell.device)))
    return Matrix(tuple(files), tuple(names), request.engines, tuple(cells))


def _side_by_side(
    home: Home, devices: Sequence[Device], models: Models, request: Request, consoles: Mapping[str, Console]
) -> Iterator[list[Cell]]:
    """Cells of each model on each device, as they are done.

    Threads do here, where searches have processes: they wait for agents, and share what was compiled.
    """
    done: queue.SimpleQueue[list[Cell] | BaseException | None] = queue.SimpleQueue()

    def work(device: Device) -> None:
        console = consoles[device.name]
        try:
            with console.progress(len(models), "measuring models") as steps:
                for found in device_cells(home, device, models, request, console):
                    done.put(found)
                    steps.advance(1, Path(found[0].model).name)
        except BaseException as error:  # a fault of ours: the one who waits shall know
            done.put(error)
        done.put(None)

    for device in devices:
        # An interrupted command does not wait for its threads; what they have measured is in the store.
        threading.Thread(target=work, args=(device,), name=device.name, daemon=True).start()
    working = len(devices)
    while working:
        found = done.get()
        if isinstance(found, BaseException):
            raise found
        if found is None:
            working -= 1
        else:
            yield found


def device_cells(
    home: Home, device: Device, models: Models, request: Request, console: Console
) -> Iterator[list[Cell]]:
    """Cells of every model on one device, model by model; whatever fails is the reason in the cells that it leaves.

    Args:
        home: where store and artifacts are.
        device: the device.
        models: for every kind of device.
        request: what is wanted.
        console: who is told how it goes.
    """
    waiting = {path: by_kind[kind_of(device)] for path, by_kind in models.items()}
    try:
        with open_session(home, device, console, max_age_s=request.max_age_s) as session:
            row = _Row(session, request)
            for path in models:
                with turn_on(home, row.machine):
                    cells = row.cells(path, waiting[path])
                del waiting[path]
                yield cells
    except (DeviceError, HwpruneError) as error:
        for path, prepared in waiting.items():
            reasons = [prepared.reasons.get(engine, str(error)) for engine in request.engines]
            pairs = zip(request.engines, reasons, strict=True)
            yield [Cell.failed(str(path), device.name, engine, reason) for engine, reason in pairs]


def kind_of(device: Device) -> Kind:
    """What is compiled for a device."""
    return CpuTarget.from_dict(device.target, device.threads), device.recording is None


def _prepared(home: Home, request: Request, devices: Sequence[Device], console: Console) -> Models:
    """Every model for every kind of device; a model that cannot be read has its reason for each."""
    compilers = {kind: _compiler(home, kind) for kind in map(kind_of, devices)}
    paths = dict.fromkeys(request.models)
    unused = set(request.shapes)
    found: dict[Path, dict[Kind, Prepared]] = {}
    with console.progress(len(paths) * len(compilers), "compiling models") as steps:
        for path in paths:
            try:
                jobs = ModelJobs(path, request.shapes)
            except HwpruneError as error:
                reasons = Prepared(reasons=dict.fromkeys(request.engines, str(error)))
                found[path] = dict.fromkeys(compilers, reasons)
                steps.advance(len(compilers), path.name)
                continue
            unused -= {each.name for each in jobs.model.inputs}
            found[path] = {}
            for kind, compiler in compilers.items():
                found[path][kind] = jobs.prepare(compiler, request.engines)
                steps.advance(1, path.name)
    for name in sorted(unused):
        console.warn(f"--shape {name}: no model has an input of this name")
    return found


def _compiler(home: Home, kind: Kind) -> Compiler:
    """What makes libraries for a kind of device, or only plans them.

    Raises:
        CompileError: there is no C compiler for the target.
    """
    target, is_there = kind
    if not is_there:
        return Planner(target, home.path)
    target.compiler_command()  # a missing C compiler is said before anything is waited for
    return Compiler(target, home.path, Forked(2))


class _Row:
    """A device at work on model after model.

    Args:
        session: the device.
        request: what is wanted.
    """

    def __init__(self, session: DeviceSession, request: Request) -> None:
        self._session = session
        self._request = request
        self._started = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")

    @functools.cached_property
    def _facts(self) -> dict[str, Any]:
        return self._session.measurer.facts()

    @property
    def machine(self) -> str:
        """The computer that the device is, or is part of; "" where it does not tell."""
        return str(self._facts.get("boot_id") or "") if self._session.device.recording is None else ""

    @property
    def _onnxruntime(self) -> tuple[str, str]:
        """Version of the device's ONNX Runtime, or why it has none."""
        version, missing = self._facts.get("onnxruntime"), self._facts.get("missing", {})
        return (str(version), "") if version else ("", str(missing.get("onnxruntime", "unknown")))

    def cells(self, path: Path, prepared: Prepared) -> list[Cell]:
        """One model's cells, one an engine, all of them timed in turns.

        Raises:
            DeviceError: the device is lost.
        """
        name, reasons, jobs = self._session.device.name, dict(prepared.reasons), dict(prepared.jobs)
        if "onnxruntime" in jobs:
            version, why = self._onnxruntime
            engine = f"onnxruntime {version}"
            jobs["onnxruntime"] = replace(jobs["onnxruntime"], engine=engine, shapes=prepared.shapes)
            if why:
                reasons["onnxruntime"] = f"the device has no ONNX Runtime ({why}): install it there with pip"
                del jobs["onnxruntime"]
        cells: dict[Engine, Cell] = {}
        try:
            for engine, measurement in self._measured(jobs, prepared.own_kernels).items():
                is_stored = measurement.measured_at < self._started
                cells[engine] = Cell.of(str(path), engine, measurement, jobs[engine].artifact, is_stored=is_stored)
        except HwpruneError as error:
            reasons |= dict.fromkeys(jobs, str(error))
        cells |= {engine: Cell.failed(str(path), name, engine, why) for engine, why in reasons.items()}
        scenario = str(self._request.scenario)
        return with_ratio([replace(cells[engine], scenario=scenario) for engine in self._request.engines])

    def _measured(self, jobs: dict[Engine, NetworkJob], own_kernels: Sequence[LayerShape]) -> dict[Engine, Measurement]:
        """Measurements by engine, from the store where it has them."""
        measurer, scenario, max_age_s = self._session.measurer, self._request.scenario, self._request.max_age_s
        if own_kernels and "tvm" in jobs and measurer.stored(jobs["tvm"], scenario, max_age_s=max_age_s) is None:
            own_ms = self._own_kernels_ms(own_kernels)
            jobs["tvm"] = replace(jobs["tvm"], own_kernels_ms=own_ms)
        found: dict[Engine, Measurement] = {}
        for _ in range(ATTEMPTS):
            waiting = [engine for engine in jobs if engine not in found or found[engine].trust == "C"]
            if waiting:
                wanted = [jobs[engine] for engine in waiting]
                told = measurer.networks(wanted, processes=FINAL_PROCESSES, max_age_s=max_age_s, scenario=scenario)
                found |= zip(waiting, told, strict=True)
        return found

    def _own_kernels_ms(self, shapes: Sequence[LayerShape]) -> float | None:
        """What kernels with a schedule of ours take together; None where one of them cannot be measured by itself."""
        single = [shape for shape in dict.fromkeys(shapes) if shape.op != "conv2d_sparse"]
        if len(single) < len(set(shapes)):
            return None
        found = self._session.measurer.kernels(single, max_age_s=self._request.max_age_s)
        if any(each.error is not None or each.trust == "C" for each in found.values()):
            return None
        return sum(found[shape].latency_ms for shape in shapes)
