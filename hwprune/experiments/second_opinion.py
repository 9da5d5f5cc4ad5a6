"""A device's own ONNX Runtime beside our library, on the dense network of a problem."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hwprune.errors import TraceError
from hwprune.experiments.candidates import linked_job
from hwprune.experiments.model_jobs import packed
from hwprune.experiments.progress import Console
from hwprune.experiments.session import DeviceSession
from hwprune.experiments.workbench import Workbench
from hwprune.measurement.jobs import NetworkJob
from hwprune.measurement.measure import FINAL_PROCESSES
from hwprune.models.model_file import export_onnx
from hwprune.records import Measurement


@dataclass(frozen=True)
class SecondOpinion:
    """The dense network by both engines, measured in turns.

    Attributes:
        tvm_ms: our latency; None where it could not be measured with trust.
        onnxruntime_ms: ONNX Runtime's; None where there is none, or none to be trusted.
        version: of the device's ONNX Runtime; "" where there is none.
        reason: why there is no ratio; "" where there is one.
    """

    tvm_ms: float | None = None
    onnxruntime_ms: float | None = None
    version: str = ""
    reason: str = ""

    @property
    def ratio(self) -> float | None:
        """Our latency as a share of ONNX Runtime's; below 1 where we are faster."""
        if self.tvm_ms is None or self.onnxruntime_ms is None:
            return None
        return self.tvm_ms / self.onnxruntime_ms

    def summary(self) -> str:
        """What it says, in one line."""
        if self.ratio is None:
            return f"no second opinion: {self.reason}"
        return (
            f"TVM / ONNX Runtime is {self.ratio:.2f}: the dense network takes {self.tvm_ms:.3f} ms, "
            f"by the device's ONNX Runtime {self.version} {self.onnxruntime_ms:.3f} ms"
        )


def second_opinion(session: DeviceSession, bench: Workbench, console: Console) -> SecondOpinion:
    """Measure the dense network by both engines, if the device has the other one.

    Args:
        session: the device.
        bench: the network.
        console: who is told how it goes.

    Raises:
        CompileError: it cannot be compiled.
        DeviceError: the device is lost.
    """
    facts = session.measurer.facts()
    version = facts.get("onnxruntime")
    if not version:
        missing = facts.get("missing", {}).get("onnxruntime", "unknown")
        return SecondOpinion(reason=f"the device has no ONNX Runtime ({missing})")
    try:
        model = export_onnx(bench.dense, [bench.example_input])
    except TraceError as error:
        return SecondOpinion(version=str(version), reason=str(error))
    ours = linked_job(session.compiler, bench, bench.dense)
    library = packed(session.compiler, model)
    theirs = NetworkJob(library, ours.self_test, engine=f"onnxruntime {version}", shapes=ours.artifact.shapes)
    with console.progress(2, "asking ONNX Runtime") as steps:
        found = session.measurer.networks([ours, theirs], processes=FINAL_PROCESSES, max_age_s=session.max_age_s)
        steps.advance(2)
    opinion = SecondOpinion(_trusted_ms(found[0]), _trusted_ms(found[1]), str(version))
    return opinion if opinion.ratio is not None else replace(opinion, reason="; ".join(_reasons(found)))


def _trusted_ms(found: Measurement) -> float | None:
    return found.latency_ms if found.error is None and found.trust != "C" else None


def _reasons(found: list[Measurement]) -> list[str]:
    bad = [each for each in found if _trusted_ms(each) is None]
    return [f"{each.conditions.engine}: {each.error or each.trust_reason}" for each in bad]
