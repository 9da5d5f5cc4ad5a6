"""What is asked of an agent, and what it found, as plain frozen data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SelfTest:
    """A known input and output, as the bytes of contiguous float32.

    Attributes:
        input_bytes: all inputs, one behind the other.
        expected_bytes: all outputs, one behind the other.
        rtol: largest difference, as a share of the largest expected value.
    """

    input_bytes: bytes
    expected_bytes: bytes
    rtol: float = 1e-4


@dataclass(frozen=True)
class Loaded:
    """A library in its process on the device.

    Attributes:
        handle: its number, until it is unloaded.
        description: what the library says of itself.
        load_ms: opening it and its first run.
        process_peak_bytes: peak memory of the process after a few runs; None where the system does not tell.
        process_delta_bytes: that minus the same process without a library.
        device_bytes: memory that it takes on a GPU; None where it runs on the processor.
    """

    handle: int
    description: dict[str, Any]
    load_ms: float
    process_peak_bytes: int | None
    process_delta_bytes: int | None
    device_bytes: int | None = None


@dataclass(frozen=True)
class TimingRequest:
    """What to time: a network, a resident network at some widths, or one kernel of a pack.

    Attributes:
        handle: the loaded library.
        index: the kernel's number in its pack; None for a network.
        numbers: the kernel's integer arguments, or what stands for the widths of a resident network.
    """

    handle: int
    index: int | None = None
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Load:
    """What the device is put through while it is timed.

    Attributes:
        rate_hz: calls begin so often, with gaps between them; None for no gaps.
        busy_ms: calls without a pause before each block, that are not timed.
        cold: other data fill the caches before each call.
    """

    rate_hz: float | None = None
    busy_ms: float = 0.0
    cold: bool = False


@dataclass(frozen=True)
class Block:
    """Calls that were taken in one go, and how fast the reference kernel was on either side.

    Attributes:
        values_ms: (calls,) times; each the mean of a batch where one call is too short for the clock.
        reference_before_ms: fastest of a few calls of the reference kernel just before.
        reference_after_ms: the same just after.
        calls: calls of the block, those that are not timed included.
        energy_mj: what the device's meter counted during all of them; None without a meter.
        state: clocks, temperatures and the like during the untimed calls before it, and ``elapsed_s`` since
            the measurement began; None where there were no such calls.
    """

    values_ms: tuple[float, ...]
    reference_before_ms: float
    reference_after_ms: float
    calls: int = 0
    energy_mj: float | None = None
    state: dict[str, Any] | None = None


@dataclass(frozen=True)
class TimingResult:
    """Raw values of one request.

    Attributes:
        blocks: in the order of the rounds; fewer than asked for where the time limit or a failure came before.
        warmup_calls: calls before the first block.
        overhead_ms: what a call of an empty function takes in the same loop; contained in every value.
        error: why there are no (more) blocks, or None.
        energy_missing: why the device tells no energy, "" where it does.
    """

    blocks: tuple[Block, ...]
    warmup_calls: int
    overhead_ms: float
    error: str | None
    energy_missing: str = ""

    @property
    def energy_mj(self) -> float | None:
        """Energy of one call; None where the meter told nothing."""
        return energy_of_call_mj(self.blocks)


def energy_of_call_mj(blocks: Sequence[Block]) -> float | None:
    """Energy of one call: all that the meter counted, by all calls of these blocks; None where it told nothing.

    The meter's domain is the whole processor and its memory, or the whole GPU: what idles or works beside is in it.
    """
    metered = [block for block in blocks if block.energy_mj is not None]
    total_mj = sum(block.energy_mj or 0.0 for block in metered)
    # A counter that has not moved was read too soon; that is not an energy of 0.
    return total_mj / sum(block.calls for block in metered) if total_mj else None


def timing_result(raw: dict[str, Any]) -> TimingResult:
    """A result from its form on the wire, nanoseconds a batch."""
    blocks = tuple(
        Block(
            values_ms=tuple(elapsed / block["batch"] / 1e6 for elapsed in block["ns"]),
            reference_before_ms=block["before_ns"] / 1e6,
            reference_after_ms=block["after_ns"] / 1e6,
            calls=1 + len(block["ns"]) * block["batch"],
            energy_mj=None if block["energy_uj"] is None else block["energy_uj"] / 1e3,
            state=block["state"],
        )
        for block in raw["blocks"]
    )
    return TimingResult(blocks, raw["warmup_calls"], raw["overhead_ns"] / 1e6, raw["error"], raw["energy_missing"])
