"""Measurements of a device that is not there: what was recorded on it, and where nothing was, what a model says.

Networks and kernels are known by their layers, not by their libraries, so that nothing has to be compiled and a
recording outlives compilers. What a model says is marked as simulated in every record, and kept in no store.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from device_agents.registry import Device
from device_agents.replay import Recording
from hwprune.errors import ConfigError
from hwprune.measurement.jobs import NetworkJob
from hwprune.measurement.measure import FINAL_PROCESSES
from hwprune.measurement.session import Progress
from hwprune.records import PROTOCOL_VERSION, Conditions, Measurement
from hwprune.scenario import BURST, Scenario
from hwprune.store import shape_key
from latency_models.kernel_table import KernelTable, KernelTime
from latency_models.network_model import LatencyModel
from latency_models.shapes import LayerShape

#: Why a simulated latency is no better than B, in every record.
SIMULATED = "simulated: the recording has no such network, a model of it answered"

#: What networks are known by: their layers, what ran them, under which load, and whether measured as a front's are.
Key = tuple[str, str, str, bool]


class MeasurementSource(Protocol):
    """What a command needs of a device: a ``Measurer`` on one that is there, a :class:`Replay` of one that is not."""

    def say(self, message: str) -> None:
        """Tell the user what is waited for."""
        ...

    def facts(self) -> dict[str, Any]:
        """What the device tells of itself."""
        ...

    def networks(
        self,
        jobs: Sequence[NetworkJob],
        *,
        final: bool = False,
        processes: int | None = None,
        remeasure: bool = False,
        max_age_s: float | None = None,
        scenario: Scenario = BURST,
        progress: Progress | None = None,
    ) -> list[Measurement]:
        """Measurements of networks, in the order of the jobs."""
        ...

    def kernels(
        self,
        shapes: Sequence[LayerShape],
        *,
        remeasure: bool = False,
        max_age_s: float | None = None,
        progress: Progress | None = None,
    ) -> dict[LayerShape, Measurement]:
        """Measurements of kernels."""
        ...

    def stored(
        self,
        job: NetworkJob,
        scenario: Scenario = BURST,
        *,
        processes: int = FINAL_PROCESSES,
        max_age_s: float | None = None,
    ) -> Measurement | None:
        """What is known of a network without measuring."""
        ...


@dataclass
class Replay:
    """A recorded device.

    Attributes:
        device: its entry.
        recording: what was measured on it.
        lanes: float32 numbers of its vector registers.
    """

    device: Device
    recording: Recording
    lanes: int

    def say(self, message: str) -> None:
        """Nothing is waited for, and nothing is lost."""

    def facts(self) -> dict[str, Any]:
        """What the device told of itself when it was registered, and the engines that were recorded."""
        engines = {found.conditions.engine for found in self._networks.values()}
        versions = sorted(engine.partition(" ")[2] for engine in engines if engine.startswith("onnxruntime "))
        missing = {**self.device.description.get("missing", {}), "onnxruntime": "the recording has none of its numbers"}
        known = {"onnxruntime": versions[-1]} if versions else {"onnxruntime": None, "missing": missing}
        return {**self.device.description, **known}

    def networks(
        self,
        jobs: Sequence[NetworkJob],
        *,
        final: bool = False,
        processes: int | None = None,
        remeasure: bool = False,
        max_age_s: float | None = None,
        scenario: Scenario = BURST,
        progress: Progress | None = None,
    ) -> list[Measurement]:
        """What was recorded of networks, else what the model says; the age of a recording is none of its faults.

        Raises:
            ConfigError: a network is neither recorded nor has the recording kernels to predict it from.
        """
        is_final = final or (processes or 0) >= FINAL_PROCESSES
        found = [self._recorded(job, scenario, is_final) or self._simulated(job, scenario) for job in jobs]
        if progress is not None:
            progress(len(jobs), len(jobs))
        return found

    def kernels(
        self,
        shapes: Sequence[LayerShape],
        *,
        remeasure: bool = False,
        max_age_s: float | None = None,
        progress: Progress | None = None,
    ) -> dict[LayerShape, Measurement]:
        """What was recorded of kernels, else what the model says.

        Raises:
            ConfigError: the recording has no kernels to predict others from.
        """
        distinct = list(dict.fromkeys(shapes))
        missing = [shape for shape in distinct if shape not in self._kernels]
        found = {shape: self._placed(self._kernels[shape]) for shape in distinct if shape in self._kernels}
        if missing:
            model = self.model_of(missing)
            for shape, mean_ms, std_ms in zip(missing, *model.predict_kernels(missing), strict=True):
                size = (shape.batch, shape.in_channels, shape.height, shape.width)
                found[shape] = self._model_says(shape_key(shape), self._conditions("tvm", size), mean_ms, std_ms)
        if progress is not None:
            progress(len(distinct), len(distinct))
        return {shape: found[shape] for shape in distinct}

    def stored(
        self,
        job: NetworkJob,
        scenario: Scenario = BURST,
        *,
        processes: int = FINAL_PROCESSES,
        max_age_s: float | None = None,
    ) -> Measurement | None:
        """What was recorded of a network."""
        return self._recorded(job, scenario, processes >= FINAL_PROCESSES)

    def _recorded(self, job: NetworkJob, scenario: Scenario, is_final: bool) -> Measurement | None:
        known_by = job.shapes_key, job.engine.partition(" ")[0] or "tvm", str(scenario)
        keys = [(*known_by, is_final), (*known_by, not is_final)]
        found = next((self._networks[key] for key in keys if key[0] and key in self._networks), None)
        return None if found is None else self._placed(found)

    def _simulated(self, job: NetworkJob, scenario: Scenario) -> Measurement:
        if job.engine or not scenario.is_burst:  # models know our own code, and bursts
            conditions = replace(self._conditions(job.engine or "tvm", _input_of(job)), scenario=str(scenario))
            what = job.engine or f"a load of {scenario}"
            error = f"this network was not measured by {what} when {self.device.name} was recorded"
            return Measurement(job.key, conditions, error=error, trust_reason="it failed")
        shapes = job.shapes or job.artifact.shapes
        mean_ms, std_ms = self.model_of(shapes).predict_networks([shapes])
        found = self._model_says(job.shapes_key, self._conditions("tvm", _input_of(job)), mean_ms[0], std_ms[0])
        return replace(found, shapes_key=job.shapes_key, planned_memory_bytes=job.planned_memory_bytes)

    def _model_says(self, key: str, conditions: Conditions, mean_ms: float, std_ms: float) -> Measurement:
        simulated_ms = (float(mean_ms), float(std_ms))
        return Measurement(key, conditions, trust="B", trust_reason=SIMULATED, simulated_ms=simulated_ms)

    def _conditions(self, engine: str, input_shape: tuple[int, ...]) -> Conditions:
        version = str(self.recording.header.get("schedule_version", ""))
        threads = self.device.threads
        return Conditions(self.device.name, self.device.fingerprint, engine, "float32", input_shape, threads, version)

    def _placed(self, found: Measurement) -> Measurement:
        """A recorded measurement in the name of the recorded device: nobody shall take it for made on the real one."""
        return replace(found, conditions=replace(found.conditions, device=self.device.name))

    @functools.cached_property
    def _networks(self) -> dict[Key, Measurement]:
        """Recorded networks under the present protocol; of several of one network, the last."""
        found: dict[Key, Measurement] = {}
        for line in self.recording.of_kind("network"):
            measurement = Measurement.from_dict(line["measurement"])
            engine = measurement.conditions.engine.partition(" ")[0].removesuffix("-resident")
            if measurement.conditions.protocol_version == PROTOCOL_VERSION:
                is_final = len(measurement.values_ms) >= FINAL_PROCESSES
                found[measurement.shapes_key, engine, measurement.conditions.scenario, is_final] = measurement
        return found

    @functools.cached_property
    def _kernels(self) -> dict[LayerShape, Measurement]:
        lines = self.recording.of_kind("kernel")
        rows = ((LayerShape.from_dict(line["shape"]), Measurement.from_dict(line["measurement"])) for line in lines)
        return {shape: found for shape, found in rows if found.conditions.protocol_version == PROTOCOL_VERSION}

    @functools.cached_property
    def _models(self) -> list[tuple[str, LatencyModel]]:
        """Models that were fitted to what was recorded, by their names; one of all kernels where there are none."""
        models = [(line["name"], LatencyModel.from_json(line["content"])) for line in self.recording.of_kind("model")]
        if not models and self._kernels:
            models = [("", LatencyModel.fit(kernel_table(self._kernels), (), "auto", self.lanes))]
        return models

    def model_of(self, shapes: Iterable[LayerShape], name: str = "") -> LatencyModel:
        """The model that knows most of these layers, of several the one whose file's name ends with ``name``.

        Raises:
            ConfigError: there is none.
        """
        if not self._models:
            raise ConfigError(
                f"the recording of {self.device.name} has no kernels to predict others from: profile the device, then "
                "record it again"
            )
        templates = {shape.template for shape in shapes}

        def merit(entry: tuple[str, LatencyModel]) -> tuple[int, bool]:
            file, model = entry
            return len(templates & {shape.template for shape in model.table}), file.endswith(name)

        return max(self._models, key=merit)[1]


def kernel_table(measured: Mapping[LayerShape, Measurement]) -> KernelTable:
    """Trusted measurements of kernels as rows to fit a model on."""
    return KernelTable(
        {
            shape: KernelTime(found.latency_ms, (found.interval_ms[1] - found.interval_ms[0]) / 4)
            for shape, found in measured.items()
            if found.error is None and found.trust != "C"
        }
    )


def _input_of(job: NetworkJob) -> tuple[int, ...]:
    inputs = job.artifact.description.get("inputs") or [[]]
    return tuple(inputs[0])
