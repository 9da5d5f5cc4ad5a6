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
from hwprune.records import Measurement, Trust

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

    The estimate is the geometric mean of the boards' own. Each board's values are brought to it, because a percentile
    over the calls of all would be that of the fastest; how far they were apart is kept, and part of the interval.

    Args:
        rows: one a board, each with its ``board_ratio``.
        pool: what the boards are called together.

    Returns:
        A measurement whose processes are those of all boards, each called in ``boards`` by the one that it ran on.
        Failed where one of them failed.
    """
    conditions = replace(rows[0].conditions, device=pool)
    failed = next((row for row in rows if row.error is not None), None)
    if failed is not None:
        return replace(failed, conditions=conditions, error=f"on {failed.conditions.device}: {failed.error}")
    estimates_ms = np.array([row.latency_ms for row in rows])
    common_ms = float(np.exp(np.log(estimates_ms).mean()))
    values_ms = tuple(
        tuple(tuple(value * row.scale * common_ms / own_ms for value in block) for block in process)
        for row, own_ms in zip(rows, estimates_ms.tolist(), strict=True)
        for process in row.values_ms
    )
    peaks = [row.process_peak_bytes for row in rows if row.process_peak_bytes is not None]
    energies = [row.energy_mj for row in rows if row.energy_mj is not None]
    found = replace(
        rows[0],
        conditions=conditions,
        values_ms=values_ms,
        boards=tuple(row.conditions.device for row in rows for _ in row.values_ms),
        board_ratio=1.0,
        board_spread=float(np.max(np.abs(estimates_ms / common_ms - 1))),
        reference_ms=rows[0].device_reference_ms,  # the values are given at that clock already
        drift=max((row.drift or 0.0 for row in rows), default=0.0),
        process_peak_bytes=max(peaks, default=None),
        energy_mj=sum(energies) / len(energies) if energies else None,
        repeats=max(row.repeats for row in rows),
    )
    trust, reason = _trust(rows, found)
    return replace(found, trust=trust, trust_reason=reason)


def _trust(rows: Sequence[Measurement], found: Measurement) -> tuple[Trust, str]:
    """The worst of the boards' grades, or that of their common interval if it is worse."""
    slowest, fastest = max(rows, key=lambda row: row.latency_ms), min(rows, key=lambda row: row.latency_ms)
    apart = slowest.latency_ms / fastest.latency_ms - 1
    if apart > UNEXPLAINED_MAX:
        return "C", f"{slowest.conditions.device} takes {apart:.1%} longer than {fastest.conditions.device}"
    worst = max(rows, key=lambda row: row.trust)
    low_ms, high_ms = found.interval_ms
    half_width = (high_ms - low_ms) / 2 / found.latency_ms
    common: Trust = next((trust for trust, limit in LIMITS.items() if half_width <= limit), "C")
    if common > worst.trust:
        return common, f"interval of +-{half_width:.1%} over {' and '.join(dict.fromkeys(found.boards))}"
    return worst.trust, f"{worst.conditions.device}: {worst.trust_reason}" if worst.trust_reason else ""


def _is_good(row: Measurement) -> bool:
    return row.error is None and row.trust != "C"
