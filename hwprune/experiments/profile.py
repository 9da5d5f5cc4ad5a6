"""A short profile of a device for a network: its latency model, the model's error, and the device's channel steps."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from device_agents.registry import Device
from hwprune.compilation.targets import CpuTarget
from hwprune.config import Problem
from hwprune.errors import ConfigError
from hwprune.experiments.home import Home
from hwprune.experiments.known_models import lenders, model_path
from hwprune.experiments.members import members_of
from hwprune.experiments.models import open_model
from hwprune.experiments.pool import open_devices
from hwprune.experiments.profiler import Effort, Profiler
from hwprune.experiments.progress import Console
from hwprune.experiments.provenance import write_text
from hwprune.experiments.second_opinion import second_opinion
from hwprune.experiments.session import DeviceSession
from hwprune.experiments.unfinished import UnfinishedProfile
from hwprune.experiments.workbench import Workbench
from hwprune.search.space import SearchSpace
from latency_models.features import mixes_channels
from latency_models.network_model import LatencyModel, describe

#: What a device is profiled for when nobody says.
COMMON_NETWORK = "resnet_cifar,depth=20"

#: Channel steps that a device may show.
STEPS = (1, 2, 4, 8, 16)
#: A step is taken where rounding widths up to it costs no more than this share of what they can save.
STEP_COST = 0.01


@dataclass(frozen=True)
class ProfileReport:
    """What a profile came to.

    Attributes:
        device: its name.
        kernels: kernels timed, inside networks where the device can.
        networks: whole networks measured; each is predicted by a model that was calibrated on the others.
        mape: mean absolute error of these predictions, in percent.
        within_5: share of these at most 5 % off, in percent.
        within_10: the same for 10 %.
        spearman: rank correlation on these, in [-1, 1].
        coverage_90: share of these inside the intervals that are said to hold 90 % of them, in percent.
        channel_step: widths between whose multiples pruning gains little.
        channel_steps: the same of each group of channels alone.
        seconds: wall time.
        model: file of the latency model.
        tvm_over_onnxruntime: latency of the dense network by our library, as a share of that by the device's own ONNX
            Runtime, both measured in turns; None where it has none.
        second_opinion: that in words, or why there is none.
    """

    device: str
    kernels: int
    networks: int
    mape: float
    within_5: float
    within_10: float
    spearman: float
    coverage_90: float
    channel_step: int
    channel_steps: tuple[int, ...]
    seconds: float
    model: Path
    tvm_over_onnxruntime: float | None = None
    second_opinion: str = ""


def profile(
    home: Home,
    device_name: str,
    problem: Problem | None = None,
    *,
    network: str = COMMON_NETWORK,
    effort: Effort | None = None,
    borrowed: bool = False,
    console: Console,
) -> ProfileReport:
    """Profile a device for a network, and remember its model and channel step.

    Args:
        home: where the device and its models are kept.
        device_name: the device.
        problem: whose network it is profiled for.
        network: what it is profiled for without a problem, as :func:`open_model` names it.
        effort: when the profile is good enough.
        borrowed: measure no kernel: take those of another device.
        console: who is told how it goes.

    A pool (``A+B``) is profiled at the speed of its first board, whose model it is.

    Raises:
        ConfigError: no other device can lend its kernels, or the device is a recording.
        DeviceError: the device is unknown, or lost.
        UntrustedError: too few measurements could be trusted.
    """
    device = members_of(home, device_name)[0]
    if device.recording is not None:
        raise ConfigError(f"{device_name} is a recording: it has the models of its device, and no kernels but its own")
    target = CpuTarget.from_dict(device.target, device.threads)
    bench = Workbench.open(problem, target, with_weights=False) if problem else open_model(network, target=target)
    with open_devices(home, device_name, bench, console) as session:
        _, report = profile_network(session, bench, console=console, effort=effort, borrowed=borrowed)
        opinion = second_opinion(session, bench, console)
    console.info(opinion.summary())
    return replace(report, tvm_over_onnxruntime=opinion.ratio, second_opinion=opinion.summary())


def profile_network(
    session: DeviceSession,
    bench: Workbench,
    *,
    console: Console,
    effort: Effort | None = None,
    borrowed: bool = False,
) -> tuple[LatencyModel, ProfileReport]:
    """Measure kernels and whole networks, fit a model, and tell its error on networks that it has not seen.

    The model is kept, and the channel steps are written into the device's entry. A profile that was interrupted goes on
    with what it had measured; one that ended is made afresh.

    Args:
        session: the device.
        bench: the network.
        console: who is told how it goes.
        effort: when the profile is good enough.
        borrowed: measure whole networks alone, and take the kernels of another device that was profiled for them.

    Raises:
        ConfigError: kernels are to be borrowed, and no other device was profiled for these layers.
        UntrustedError: too few measurements could be trusted.
    """
    started = time.perf_counter()
    path = model_path(session.home, session.device, bench)
    space = full_space(bench)
    sources = _lenders(session, bench) if borrowed else {}
    part = UnfinishedProfile(path.with_suffix(".part"))
    if part.networks:
        console.info(f"going on with an interrupted profile: the kernels of {part.networks} networks are timed")
    profiler = Profiler(session, bench, example_widths(space), effort or Effort(), part)
    model = profiler.borrow(sources, console) if borrowed else profiler.run(console)
    write_text(path, model.to_json())
    part.remove()
    step = channel_step(model, bench, space)
    session.device = remember_steps(session.home, session.device, model, step)
    held_out = model.scores["networks"]
    report = ProfileReport(
        session.device.name,
        profiler.kernels,
        len(model.networks),
        held_out["mape"],
        held_out["within_5"],
        held_out["within_10"],
        held_out["spearman"],
        held_out["coverage_90"],
        step,
        channel_steps(model, bench),
        time.perf_counter() - started,
        path,
    )
    kernels = f"kernels of {model.recipe.source}" if borrowed else f"{report.kernels} kernels"
    console.info(
        f"{kernels} and {report.networks} networks: held-out error {report.mape:.1f} %, "
        f"{report.within_5:.0f} % within 5 %, rank correlation {report.spearman:.3f}; "
        f"channel step {report.channel_step}"
    )
    return model, report


def _lenders(session: DeviceSession, bench: Workbench) -> dict[str, LatencyModel]:
    found = lenders(session.home, session.device, bench)
    if not found:
        raise ConfigError(
            "no other device was profiled for these layers: profile one for the same network, or this one in full"
        )
    return found


def remember_steps(home: Home, device: Device, model: LatencyModel, step: int) -> Device:
    """Write the device's channel step into its entry, and that of the layers where it is another."""
    layers: dict[str, int] = {}
    for template, (_, out_step) in model.channel_steps().items():
        if mixes_channels(template):
            layers[describe(template)] = min(out_step, layers.get(describe(template), out_step))
    others = {layer: layer_step for layer, layer_step in sorted(layers.items()) if layer_step != step}
    device = device.model_copy(update={"channel_step": step, "channel_steps": others})
    home.devices.add(device)
    return device


def full_space(bench: Workbench) -> SearchSpace:
    """Every width that the problem allows."""
    ratio = bench.problem.pruning.pruning_ratio_max
    return SearchSpace.of(bench.groups.sizes.tolist(), round_to=1, pruning_ratio_max=ratio)


def example_widths(space: SearchSpace) -> npt.NDArray[np.int64]:
    """``(64, G)`` networks of the space: the dense one, the smallest, and others log-uniform between."""
    shares = space.smallest / space.sizes
    drawn = space.sizes * shares ** np.random.default_rng(0).random((62, space.n_var))
    return np.vstack([space.sizes, space.smallest, np.maximum(np.rint(drawn), space.smallest)]).astype(np.int64)


def channel_step(model: LatencyModel, bench: Workbench, space: SearchSpace) -> int:
    """Largest step for all groups that costs next to nothing: rounding random widths up to it, or leaving them.

    On a device with a clean staircase that is its vector length; where latency is linear in the width it is 1.
    """
    return _largest_step(model, bench, space, np.ones(space.n_var, dtype=bool))


def channel_steps(model: LatencyModel, bench: Workbench) -> tuple[int, ...]:
    """The same of every group alone: layers may differ."""
    space = full_space(bench)
    return tuple(_largest_step(model, bench, space, row) for row in np.eye(space.n_var, dtype=bool))


def _largest_step(model: LatencyModel, bench: Workbench, space: SearchSpace, groups: npt.NDArray[np.bool_]) -> int:
    """Largest step by which rounding up the widths of some groups costs a small share of what they can save."""
    generator = np.random.default_rng(1)
    widths = space.decode(generator.random((200, space.n_var)) * space.upper)
    narrowest = np.where(groups, space.smallest, space.sizes)
    exact_ms, _ = model.predict(bench.arithmetic(widths))
    (dense_ms, narrow_ms), _ = model.predict(bench.arithmetic(np.stack([space.sizes, narrowest])))
    best = 1
    for step in STEPS[1:]:
        rounded = np.minimum(-(-widths // step) * step, space.sizes)
        rounded_ms, _ = model.predict(bench.arithmetic(np.where(groups, rounded, widths)))
        if np.mean(rounded_ms - exact_ms) <= STEP_COST * (dense_ms - narrow_ms):
            best = step
    return best
