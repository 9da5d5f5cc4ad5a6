"""Identical boards as one: how much slower each is than the first, whether that explains them, and numbers of several.

Boards of one model differ: the worst of ten has been seen 10 % slower than the best. Most of that is one factor (clock,
silicon, cooling), which a few networks measured on all of them tell; what it leaves is the pool's own uncertainty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from hwprune.errors import UntrustedError
from hwprune.measurement.trust import LIMITS
from hwprune.records import Measurement, Trust, bootstrap_interval_ms

#: Boards may differ by so much, as a share, after each has been taken for as slow as it is on average.
UNEXPLAINED_MAX = 0.03

#: Reference networks that a board must share with the first one.
SHARED_MIN = 3


def board_ratios(rows: Mapping[str, Sequence[Measurement]]) -> dict[str, float]:
    """How much longer each board takes than the first: board -> ratio.

    Args:
        rows: measurements of the same reference networks, in the same order, by board; the first board counts 1.

    Raises:
        UntrustedError: too few of them can be trusted, or a ratio leaves more than :data:`UNEXPLAINED_MAX` unexplained.
    """
    first, ours = next(iter(rows.items()))
    ratios = {}
    for board, theirs in rows.items():
        pairs = [(one, other) for one, other in zip(ours, theirs, strict=True) if _is_good(one) and _is_good(other)]
        if len(pairs) < SHARED_MIN:
            raise UntrustedError(
                f"only {len(pairs)} of {len(ours)} reference networks could be measured with trust on {first} and on "
                f"{board}: close other programs there and try again"
            )
        logs = np.log([other.latency_ms / one.latency_ms for one, other in pairs])
        ratios[board] = float(np.exp(np.median(logs)))
        left = float(np.max(np.abs(np.exp(logs - np.median(logs)) - 1)))
        if left > UNEXPLAINED_MAX:
            raise UntrustedError(
                f"{board} takes {ratios[board]:.3f} times as long as {first} in the middle, and a network is still "
                f"{left:.1%} off that: boards of a pool may differ by {UNEXPLAINED_MAX:.0%}; cool it, or leave it out"
            )
    return ratios


def together(rows: Sequence[Measurement], pool: str) -> Measurement:
    """One network on several boards as one measurement, at the speed of the pool's first board.

    Args:
        rows: one a board, each with its ``board_ratio``.
        pool: what the boards are called together.

    Returns:
        A measurement whose processes are those of all boards, each called in ``boards`` by the one that it ran on; its
        interval holds what the boards differ by. Failed where one of them failed.
    """
    conditions = replace(rows[0].conditions, device=pool)
    failed = next((row for row in rows if row.error is not None), None)
    if failed is not None:
        return replace(failed, conditions=conditions, error=f"on {failed.conditions.device}: {failed.error}")
    values_ms = tuple(
        tuple(tuple(value * row.scale for value in block) for block in process)
        for row in rows
        for process in row.values_ms
    )
    boards = tuple(row.conditions.device for row in rows for _ in row.values_ms)
    trust, reason = _trust(rows, values_ms)
    peaks = [row.process_peak_bytes for row in rows if row.process_peak_bytes is not None]
    energies = [row.energy_mj for row in rows if row.energy_mj is not None]
    return replace(
        rows[0],
        conditions=conditions,
        values_ms=values_ms,
        boards=boards,
        board_ratio=1.0,
        reference_ms=rows[0].device_reference_ms,  # the values are given at that clock already
        drift=max((row.drift or 0.0 for row in rows), default=0.0),
        trust=trust,
        trust_reason=reason,
        process_peak_bytes=max(peaks, default=None),
        energy_mj=sum(energies) / len(energies) if energies else None,
        repeats=max(row.repeats for row in rows),
    )


def _trust(rows: Sequence[Measurement], values_ms: tuple[tuple[tuple[float, ...], ...], ...]) -> tuple[Trust, str]:
    """The worst of the boards' grades, or that of their common interval if it is worse."""
    worst = max(rows, key=lambda row: row.trust)
    latencies = {row.conditions.device: row.latency_ms for row in rows}
    slowest, fastest = max(latencies, key=latencies.__getitem__), min(latencies, key=latencies.__getitem__)
    spread = latencies[slowest] / latencies[fastest] - 1
    if spread > UNEXPLAINED_MAX:
        return "C", f"{slowest} takes {spread:.1%} longer than {fastest} after calibration"
    low_ms, high_ms = bootstrap_interval_ms(values_ms)
    half_width = (high_ms - low_ms) / (high_ms + low_ms)
    common: Trust = next((trust for trust, limit in LIMITS.items() if half_width <= limit), "C")
    if common > worst.trust:
        return common, f"interval of +-{half_width:.1%} over {' and '.join(latencies)}"
    return worst.trust, f"{worst.conditions.device}: {worst.trust_reason}" if worst.trust_reason else ""


def _is_good(row: Measurement) -> bool:
    return row.error is None and row.trust != "C"
