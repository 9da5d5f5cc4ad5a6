"""What a scan of a network on a device found, as experiments write it and reports show it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class LayerTime:
    """One fused layer of the dense network.

    Attributes:
        layer: what it is.
        latency_ms: its time inside the network.
        share: of the whole, in [0, 1].
        macs: multiply-adds.
        fallback: it has no schedule of ours.
    """

    layer: str
    latency_ms: float
    share: float
    macs: int
    fallback: bool


@dataclass(frozen=True)
class GroupCurve:
    """What narrowing one group of channels alone buys.

    Attributes:
        group: the layer that produces the channels.
        size: channels of the dense network.
        step: only multiples of it buy time.
        saved_half_ms: saved by half of the channels.
        widths: widths that are drawn.
        latency_ms: the network's latency at each.
    """

    group: str
    size: int
    step: int
    saved_half_ms: float
    widths: tuple[int, ...]
    latency_ms: tuple[float, ...]


@dataclass(frozen=True)
class WidthRow:
    """The network with a share of all its prunable channels.

    Attributes:
        share: of the channels.
        latency_ms: measured, or predicted where measuring failed.
        low_ms: lower end of its interval.
        high_ms: upper end.
        macs_share: multiply-adds, as a share of the dense network's.
        measured: whether the latency was measured.
        planned_memory_bytes: packed weights and arena.
        process_peak_bytes: most memory of a process that runs it, predicted from that; None where the device does not
            tell such things.
    """

    share: float
    latency_ms: float
    low_ms: float
    high_ms: float
    macs_share: float
    measured: bool
    planned_memory_bytes: int
    process_peak_bytes: int | None


@dataclass(frozen=True)
class ScanReport:
    """What a scan found.

    Attributes:
        model: the network, as the user named it.
        device: the device's name.
        latency_ms: of the dense network, measured whole in several processes.
        low_ms: lower end of its 95 % interval.
        high_ms: upper end.
        trust: grade of that measurement.
        trust_reason: why it is not better.
        fallback_ops: operators without a schedule of ours.
        layers: all fused layers in order.
        groups: what narrowing each group of channels buys; those that buy most come first.
        widths: the whole network at some shares of its channels.
        held_out_error: error of the latency model on networks it had not seen, in percent; None without a model.
        notes: what to know before trusting the predictions.
        worth_it: whether pruning can gain something here.
        verdict: the same in one line, with the reason.
        seconds: wall time.
    """

    model: str
    device: str
    latency_ms: float
    low_ms: float
    high_ms: float
    trust: str
    trust_reason: str
    fallback_ops: tuple[str, ...]
    layers: tuple[LayerTime, ...]
    groups: tuple[GroupCurve, ...]
    widths: tuple[WidthRow, ...]
    held_out_error: float | None
    notes: tuple[str, ...]
    worth_it: bool
    verdict: str
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)
