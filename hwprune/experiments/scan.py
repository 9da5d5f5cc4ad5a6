"""What pruning could gain for a network on a device, before anybody trains anything."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hwprune.errors import ConfigError, UntrustedError
from hwprune.experiments.calibration import latency_model
from hwprune.experiments.candidates import linked_job
from hwprune.experiments.home import Home
from hwprune.experiments.profile import channel_steps
from hwprune.experiments.profiler import Effort
from hwprune.experiments.progress import Console
from hwprune.experiments.session import DeviceSession, open_session
from hwprune.experiments.whole_networks import is_trusted
from hwprune.experiments.workbench import Workbench
from hwprune.objectives.macs import layer_macs
from hwprune.records import Measurement
from hwprune.scanned import GroupCurve, LayerTime, ScanReport, WidthRow
from latency_models.features import macs, widths
from latency_models.footprint import footprint_bytes
from latency_models.network_model import LatencyModel, describe
from latency_models.process_memory import fit_process_memory
from latency_models.shapes import LayerShape

IntArray = npt.NDArray[np.int64]

#: Shares of all widths whose latency is told.
SHARES = (0.75, 0.5, 0.25)
#: Pruning is worth it where half of all widths saves this share of the time, ...
WORTH_SAVED = 0.25
#: ... and no more than this share of it is in operators that pruning does not touch well.
FALLBACK_MAX = 0.5
#: Most points of a group's curve.
CURVE_POINTS = 128


def scan(
    home: Home, device_name: str, bench: Workbench, name: str, *, effort: Effort | None = None, console: Console
) -> ScanReport:
    """Measure a network and what narrower ones would take; no data set, no training.

    Args:
        home: where the device and its models are kept.
        device_name: the device.
        bench: the network.
        name: what the user calls it.
        effort: of the profile, where the device has no latency model for the network yet.
        console: who is told how it goes.

    Raises:
        DeviceError: the device is unknown, or lost.
        UntrustedError: the network itself cannot be measured with trust.
    """
    from hwprune.experiments.devices import find

    started = time.perf_counter()
    with open_session(home, find(home, device_name), console) as session:
        console.info(f"measuring {name} on {device_name}")
        dense = session.board.network(linked_job(session.compiler, bench, bench.dense), final=True)
        if dense.error is not None:
            raise UntrustedError(f"{name} cannot be measured on {device_name}: {dense.error}")
        model = _model(session, bench, console, effort)
        layers = layer_times(bench, model, dense.latency_ms)
        groups = () if model is None else group_curves(bench, model)
        rows = () if model is None else width_rows(session, bench, model, dense)
    worth_it, verdict = judge(dense, layers, rows)
    held_out = {} if model is None else model.scores["networks"]
    return ScanReport(
        name,
        device_name,
        dense.latency_ms,
        *dense.interval_ms,
        dense.trust,
        dense.trust_reason,
        tuple(sorted({layer.layer for layer in layers if layer.fallback})),
        layers,
        groups,
        rows,
        held_out.get("mape"),
        () if model is None else tuple(model.notes(bench.arithmetic.templates)),
        worth_it,
        verdict,
        time.perf_counter() - started,
    )


def _model(session: DeviceSession, bench: Workbench, console: Console, effort: Effort | None) -> LatencyModel | None:
    """The device's model for the network; None where nothing of the network can be pruned."""
    try:
        if not len(bench.groups):
            return None
    except ConfigError as error:
        console.warn(f"nothing of it can be pruned: {error}")
        return None
    return latency_model(session, bench, console, effort)


def layer_times(bench: Workbench, model: LatencyModel | None, total_ms: float) -> tuple[LayerTime, ...]:
    """Layers of the dense network; operators without a schedule of ours share what the others leave of the total."""
    shapes: list[LayerShape] = list(bench.graph.shapes(bench.dense))
    own = [shape for shape in shapes if not shape.op.startswith("fallback:")]
    known_ms: dict[LayerShape, float] = {}
    if model is not None and own:
        known_ms = dict(zip(own, model.predict_kernels(own, footprint_bytes(own))[0], strict=True))
    work = [int(value) for value in _macs(shapes)]
    unknown = [index for index, shape in enumerate(shapes) if shape not in known_ms]
    left_ms = max(0.0, total_ms - sum(float(known_ms[shape]) for shape in shapes if shape in known_ms))
    weights = [max(1, work[index]) for index in unknown]
    rest_ms = {index: left_ms * weight / sum(weights) for index, weight in zip(unknown, weights, strict=True)}
    times_ms = [float(known_ms[shape]) if shape in known_ms else rest_ms[n] for n, shape in enumerate(shapes)]
    return tuple(
        LayerTime(
            f"{describe(shape)}, {shape.in_channels} -> {shape.out_channels}",
            time_ms,
            time_ms / total_ms,
            count,
            shape.op.startswith("fallback:"),
        )
        for shape, time_ms, count in zip(shapes, times_ms, work, strict=True)
    )


def group_curves(bench: Workbench, model: LatencyModel) -> tuple[GroupCurve, ...]:
    """What each group buys when it is narrowed alone, by the model; the largest gain first."""
    sizes = bench.groups.sizes
    steps = channel_steps(model, bench)
    curves = []
    for number, group in enumerate(bench.groups):
        size = int(sizes[number])
        drawn = np.unique(np.linspace(1, size, min(size, CURVE_POINTS)).round().astype(np.int64))
        drawn = np.union1d(drawn, [max(1, size // 2)])
        alone = np.tile(sizes, (len(drawn), 1))
        alone[:, number] = drawn
        latency_ms, _ = model.predict(bench.arithmetic(alone))
        saved = float(latency_ms[-1] - latency_ms[np.searchsorted(drawn, max(1, size // 2))])
        curves.append(
            GroupCurve(group.name, size, steps[number], saved, tuple(map(int, drawn)), tuple(map(float, latency_ms)))
        )
    return tuple(sorted(curves, key=lambda curve: -curve.saved_half_ms))


def width_rows(
    session: DeviceSession, bench: Workbench, model: LatencyModel, dense: Measurement
) -> tuple[WidthRow, ...]:
    """The dense network and narrower ones, measured; predicted where that cannot be trusted."""
    sizes = bench.groups.sizes
    kept = np.vstack([np.maximum(1, np.rint(share * sizes)).astype(np.int64) for share in SHARES])
    work = layer_macs(bench.arithmetic(np.vstack([sizes, kept]))).sum(axis=1)
    mean_ms, std_ms = model.predict(bench.arithmetic(kept))
    half_ms = model.interval_factor(0.9) * std_ms
    found = session.measure_candidates(bench, [bench.plan(row) for row in kept])
    planned = [_planned_bytes(bench, row) for row in (sizes, *kept)]
    peaks = _peaks(session, planned)
    rows = [WidthRow(1.0, dense.latency_ms, *dense.interval_ms, 1.0, True, planned[0], peaks[0])]
    for number, (share, each) in enumerate(zip(SHARES, found, strict=True)):
        ratio = float(work[number + 1] / work[0])
        if is_trusted(each):
            latency_ms, (low_ms, high_ms) = each.latency_ms, each.interval_ms
        else:
            latency_ms, half = float(mean_ms[number]), float(half_ms[number])
            low_ms, high_ms = max(0.0, latency_ms - half), latency_ms + half
        memory = planned[number + 1], peaks[number + 1]
        rows.append(WidthRow(share, latency_ms, low_ms, high_ms, ratio, is_trusted(each), *memory))
    return tuple(rows)


def _planned_bytes(bench: Workbench, kept: IntArray) -> int:
    """Arena and packed weights that a library of the network has."""
    memory = bench.graph.memory(bench.candidate(kept))
    return memory.arena_bytes + memory.weights_bytes


def _peaks(session: DeviceSession, planned_bytes: Sequence[int]) -> list[int | None]:
    """High-water marks of processes, by those that were measured on the device."""
    measured = [
        (each.planned_memory_bytes, each.process_peak_bytes)
        for each in session.board.store.measurements(device=session.device.name)
        if each.conditions.fingerprint == session.device.fingerprint
        and None not in (each.planned_memory_bytes, each.process_peak_bytes)
    ]
    if not measured:
        return [None] * len(planned_bytes)
    return [int(peak) for peak in fit_process_memory(*zip(*measured, strict=True)).predict(planned_bytes)]


def judge(dense: Measurement, layers: tuple[LayerTime, ...], rows: tuple[WidthRow, ...]) -> tuple[bool, str]:
    """Whether pruning is worth it, and why in one line."""
    if not rows:
        return False, "not worth it: nothing of this network can be pruned as it stands"
    by_share = {row.share: row for row in rows}
    half, least = by_share[0.5], by_share[SHARES[-1]]
    saved = 1 - half.latency_ms / dense.latency_ms
    fallback = sum(layer.share for layer in layers if layer.fallback)
    gains = (
        f"half of the channels take {half.latency_ms / dense.latency_ms:.0%} of the time, a quarter of them "
        f"{least.latency_ms / dense.latency_ms:.0%} ({dense.latency_ms / least.latency_ms:.1f} times faster)"
    )
    if fallback > FALLBACK_MAX:
        return False, f"not worth it: {fallback:.0%} of the time is in operators without a schedule of ours; {gains}"
    if saved < WORTH_SAVED:
        return False, f"not worth it: {gains}"
    doubt = "" if dense.trust != "C" else "; measure again at rest, these numbers are a C"
    return True, f"worth it: {gains}{doubt}"


def picture_path(folder: Path, report: ScanReport) -> Path:
    """Where a scan's picture is written."""
    plain = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in report.model)
    return folder / f"scan-{report.device}-{plain}.png"


def _macs(shapes: list[LayerShape]) -> list[float]:
    return [
        float(macs(shape.template, *widths([shape]))[0]) if not shape.op.startswith("fallback:") else 0.0
        for shape in shapes
    ]
