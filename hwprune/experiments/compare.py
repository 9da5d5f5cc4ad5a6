"""What each run's pick costs on the devices of the other runs: known from the runs, from the store, or measured now.

All picks on one device stand under the same conditions. Where one of them is not known under these, all of them are
measured in turns, in one sitting, by the protocol of every front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from device_agents.errors import DeviceError
from device_agents.registry import FINGERPRINT_FACTS, Device
from hwprune.errors import HwpruneError, RunError
from hwprune.experiments.home import Home
from hwprune.experiments.members import AND
from hwprune.experiments.picks import Cost, Networks, Pick, Sitting
from hwprune.experiments.progress import Console
from hwprune.experiments.provenance import RunFolder
from hwprune.records import same_clock


def costs(picks: Sequence[Pick], home: Home, console: Console, *, measure: bool = True) -> dict[str, dict[str, Cost]]:
    """Cost of every pick on every run's device: run -> device -> cost.

    A device is named as in its runs; ``device of RUN`` where several of one name are different ones.

    Args:
        picks: one a run.
        home: where devices, store and compiled kernels are.
        console: who is told how it goes.
        measure: look into the store, and measure what is not there; without, only the runs are asked.

    Raises:
        RunError: a run's folder is damaged.
    """
    networks = Networks()
    found: dict[str, dict[str, Cost]] = {pick.run: {} for pick in picks}
    for name, venue in _venues(picks).items():
        column = _from_runs(picks, venue)
        if measure and any(pick.run not in column for pick in picks if pick.row):
            column = _asked(picks, venue, column, networks, home, console)
        for run, cost in _with_regret(picks, venue, column).items():
            found[run][name] = cost
    return found


def _venues(picks: Sequence[Pick]) -> dict[str, list[Pick]]:
    """Devices by name, each as the picks of its own runs, the newest first."""
    groups: dict[tuple[str, str, int], list[Pick]] = {}
    for pick in picks:
        conditions = pick.conditions
        groups.setdefault((conditions.device, conditions.fingerprint, conditions.threads), []).append(pick)
    names = [device for device, _, _ in groups]
    return {
        device if names.count(device) == 1 else f"{device} of {own[0].run}": sorted(own, key=_age, reverse=True)
        for (device, _, _), own in groups.items()
    }


def _age(pick: Pick) -> str:
    return "" if pick.row is None else pick.row.measured_at


def _from_runs(picks: Sequence[Pick], venue: Sequence[Pick]) -> dict[str, Cost]:
    """What the runs have measured under the conditions of the newest run on this device, at the same clock."""
    host = venue[0]
    return {
        pick.run: Cost(
            pick.row.latency_ms,
            pick.row.latency_ms_low,
            pick.row.latency_ms_high,
            pick.row.trust,
            pick.row.planned_memory_bytes,
            pick.row.measured_at,
            "run",
            simulated=pick.row.simulated,
        )
        for pick in picks
        if pick.row and pick.conditions == host.conditions and same_clock(pick.reference_ms, host.reference_ms)
    }


def _asked(
    picks: Sequence[Pick],
    venue: Sequence[Pick],
    known: Mapping[str, Cost],
    networks: Networks,
    home: Home,
    console: Console,
) -> dict[str, Cost]:
    """The picks on a device, from the store or measured; ``known`` and reasons where neither can be had."""
    host, column = venue[0], dict(known)
    try:
        device = _device(home, host)
        sitting = Sitting.prepare(picks, host, device, networks, home)
        if sitting.conditions != host.conditions:
            column = {}  # made by other kernels or another protocol
        column = sitting.reasons | column | sitting.stored(home)
        if any(pick.run not in column for pick in picks):
            console.info(f"{device.name}: measuring {len(sitting.modules)} picks in turns")
            column = sitting.measured(home, console, known=column)
    except (DeviceError, HwpruneError) as error:
        console.warn(f"{host.conditions.device}: {error}")
        column = {pick.run: Cost(reason=str(error)) for pick in picks} | column
    return column


def _device(home: Home, host: Pick) -> Device:
    """The device of a run, if it is still the same.

    Raises:
        DeviceError: it is not registered, or another one by now, or several.
    """
    if AND in host.conditions.device:
        raise DeviceError(
            f"{host.conditions.device} is a pool of boards: compare runs on each of them to measure there"
        )
    device = home.devices.get(host.conditions.device)
    if (device.fingerprint, device.threads) == (host.conditions.fingerprint, host.conditions.threads):
        return device
    then: Mapping[str, Any] = RunFolder.open(host.folder).read_json("front.json")["device"]
    changed = [fact for fact in FINGERPRINT_FACTS if device.description.get(fact) != then.get(fact)]
    if device.threads != host.conditions.threads:
        changed.append("threads")
    raise DeviceError(
        f"device {device.name!r} is not the one that {host.run} was made on: its {' and '.join(changed or ['cores'])} "
        "changed; search on it again"
    )


def _with_regret(picks: Sequence[Pick], venue: Sequence[Pick], column: Mapping[str, Cost]) -> dict[str, Cost]:
    """All costs on a device, in terms of the fastest pick that a run on it made."""
    own = {pick.run for pick in venue}
    whole = {pick.run: replace(column.get(pick.run) or _empty(pick), own=pick.run in own) for pick in picks}
    best_ms = min((cost.latency_ms for cost in whole.values() if cost.own and cost.latency_ms), default=None)
    return {
        run: replace(cost, regret=cost.latency_ms / best_ms - 1) if best_ms and cost.latency_ms else cost
        for run, cost in whole.items()
    }


def _empty(pick: Pick) -> Cost:
    try:
        return Cost(reason=f"{pick.point} of {pick.run} was not measured here: --measure does")
    except RunError as error:
        return Cost(reason=str(error))
