"""A short profile of a device: kernels at chosen widths, a few whole networks, a latency model and its error."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hwprune.compilation.targets import CpuTarget
from hwprune.config import Problem
from hwprune.errors import UntrustedError
from hwprune.experiments.home import Home
from hwprune.experiments.members import members_of
from hwprune.experiments.pool import open_devices
from hwprune.experiments.progress import Console
from hwprune.experiments.session import DeviceSession
from hwprune.experiments.workbench import Workbench
from hwprune.records import Measurement
from hwprune.search.space import SearchSpace
from latency_models.kernel_table import KernelTable, KernelTime
from latency_models.network_model import LatencyModel
from latency_models.sampling import plan_profile, ranges_of
from latency_models.shapes import LayerShape

#: Kernels measured for each layer template, and networks measured whole: wanted and at least.
KERNELS_PER_TEMPLATE, NETWORKS, NETWORKS_MIN = 24, 16, 8

#: Channel steps that a device may show.
STEPS = (1, 2, 4, 8, 16)
#: A step is taken where rounding widths up to it costs no more than this share of the dense latency.
STEP_COST = 0.01


@dataclass(frozen=True)
class ProfileReport:
    """What a profile came to.

    Attributes:
        device: its name.
        kernels: kernels measured.
        networks: whole networks measured; each is predicted by a model that was calibrated on the others.
        mape: mean absolute error of these predictions, in percent.
        within_5: share of these at most 5 % off, in percent.
        within_10: the same for 10 %.
        spearman: rank correlation on these, in [-1, 1].
        channel_step: widths between whose multiples pruning gains little.
        seconds: wall time.
        model: file of the latency model.
    """

    device: str
    kernels: int
    networks: int
    mape: float
    within_5: float
    within_10: float
    spearman: float
    channel_step: int
    seconds: float
    model: Path | None = None


def profile(
    home: Home, device_name: str, problem: Problem | None, *, minutes: float | None, console: Console
) -> ProfileReport:
    """Profile a device for a problem's network (else ResNet-20 at 32x32), and remember its model and channel step.

    A pool (``A+B``) is profiled at the speed of its first board, whose model it is.

    Raises:
        DeviceError: the device is unknown, or lost.
        UntrustedError: too few measurements could be trusted.
    """
    from hwprune.experiments.calibration import save_model

    device = members_of(home, device_name)[0]
    problem = problem or common_problem()
    bench = Workbench.open(problem, CpuTarget.from_dict(device.target, device.threads), with_weights=False)
    with open_devices(home, device_name, bench, console) as session:
        model, report = profile_network(session, bench, console=console, minutes=minutes)
    path = save_model(home, device, bench, model)
    home.devices.add(device.model_copy(update={"channel_step": report.channel_step}))
    return replace(report, model=path)


def common_problem() -> Problem:
    """What a device is profiled for when nobody says: ResNet-20 on 32x32 images, of which only the shape counts."""
    return Problem.model_validate(
        {"network": {"name": "resnet_cifar", "depth": 20}, "data": {"name": "digits", "size": 32, "channels": 3}}
    )


def profile_network(
    session: DeviceSession, bench: Workbench, *, console: Console, minutes: float | None = None
) -> tuple[LatencyModel, ProfileReport]:
    """Measure kernels and whole networks, fit a model, and tell its error on networks that it has not seen.

    Args:
        session: the device.
        bench: the network.
        console: who is told how it goes.
        minutes: no kernel is begun later.

    Raises:
        UntrustedError: too few measurements could be trusted.
    """
    started = time.perf_counter()
    deadline = None if minutes is None else started + 60 * minutes
    generator = np.random.default_rng(0)
    space = SearchSpace.of(
        bench.groups.sizes.tolist(), round_to=1, pruning_ratio_max=bench.problem.pruning.pruning_ratio_max
    )
    widths = np.vstack([space.sizes, space.smallest, space.decode(generator.random((62, space.n_var)) * space.upper)])
    table = _measure_kernels(session, bench, widths, console, deadline)
    networks = _measure_networks(session, bench, _spread(widths, NETWORKS), console)
    if len(networks) < NETWORKS_MIN:
        raise UntrustedError(
            f"only {len(networks)} of {NETWORKS} networks could be measured with trust on {session.device.name}: "
            "close other programs and profile again"
        )
    lanes = bench.graph.target.lanes
    model = LatencyModel.fit(table, networks, "auto", lanes)
    held_out = model.scores["networks"]
    report = ProfileReport(
        session.device.name,
        len(table),
        len(networks),
        held_out["mape"],
        held_out["within_5"],
        held_out["within_10"],
        held_out["spearman"],
        channel_step(model, bench, space),
        time.perf_counter() - started,
    )
    console.info(
        f"{report.kernels} kernels and {report.networks} networks: held-out error {report.mape:.1f} %, "
        f"{report.within_5:.0f} % within 5 %, rank correlation {report.spearman:.3f}; "
        f"channel step {report.channel_step}"
    )
    return model, report


def _measure_kernels(
    session: DeviceSession, bench: Workbench, widths: npt.NDArray[np.int64], console: Console, deadline: float | None
) -> KernelTable:
    """Kernels of the network at widths that tell most about the others."""
    ranges = [each for each in ranges_of(bench.arithmetic(widths)) if not each.template.op.startswith("fallback")]
    shapes = plan_profile(ranges, KERNELS_PER_TEMPLATE * len(ranges), bench.graph.target.lanes)
    measured = session.measure_kernels(shapes, console, deadline)
    trusted = {
        shape: KernelTime(found.latency_ms, (found.interval_ms[1] - found.interval_ms[0]) / 4)
        for shape, found in measured.items()
        # What takes no longer than calling it cannot be told apart from nothing.
        if found.error is None and found.trust != "C" and found.latency_ms > 0
    }
    if not trusted:
        reasons = sorted({found.error or found.trust_reason for found in measured.values()})
        raise UntrustedError(
            f"no kernel could be measured with trust on {session.device.name} ({'; '.join(reasons[:2])}): "
            "close other programs and profile again"
        )
    return KernelTable(trusted)


def _measure_networks(
    session: DeviceSession, bench: Workbench, widths: npt.NDArray[np.int64], console: Console
) -> list[tuple[tuple[LayerShape, ...], float]]:
    """Networks of these widths with their latencies; those that could not be trusted are left out."""
    measurements: list[Measurement] = []
    with console.progress(len(widths), "measuring networks") as steps:
        for row in widths:
            measurements.append(session.measure_candidate(bench, bench.plan(row)))
            steps.advance()
    shapes = bench.arithmetic(widths)
    return [
        (shapes.row(index), found.latency_ms)
        for index, found in enumerate(measurements)
        if found.error is None and found.trust != "C"
    ]


def _spread(widths: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.int64]:
    """``n`` rows from the widest to the narrowest network, evenly by their total width."""
    order = np.argsort(-widths.sum(axis=1), kind="stable")
    chosen: npt.NDArray[np.int64] = widths[order[np.unique(np.linspace(0, len(order) - 1, n).round().astype(int))]]
    return chosen


def channel_step(model: LatencyModel, bench: Workbench, space: SearchSpace) -> int:
    """Largest step that costs next to nothing: rounding random widths up to it, compared with leaving them.

    On a device with a clean staircase that is its vector length; where latency is linear in the width it is 1.
    """
    generator = np.random.default_rng(1)
    widths = space.decode(generator.random((200, space.n_var)) * space.upper)
    exact_ms, _ = model.predict(bench.arithmetic(widths))
    dense_ms, _ = model.predict(bench.arithmetic(space.sizes[None]))
    best = 1
    for step in STEPS[1:]:
        rounded = np.minimum(-(-widths // step) * step, space.sizes)
        rounded_ms, _ = model.predict(bench.arithmetic(rounded))
        if np.mean(rounded_ms - exact_ms) <= STEP_COST * dense_ms[0]:
            best = step
    return best
