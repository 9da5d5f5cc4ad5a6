"""What the runs say together: medians, tests, and the lines that are printed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy.stats import spearmanr, wilcoxon

from prunings.device import Profiled
from prunings.entries import ENTRIES, NETWORKS, Entry
from prunings.volumes import hypervolume, is_measured

#: Runs that a signed-rank test needs.
PAIRS_MIN = 10

Volumes = dict[str, dict[str, list[float]]]


def by_model(results: Mapping[str, Any]) -> Volumes:
    """Hypervolumes of all entries, latencies by the model that was searched on; of single weights there are none."""
    return {
        network: {
            name: [hypervolume(record, None, by_weight=ENTRIES[name].by_weight) for record in _records(by_seed)]
            for name, by_seed in entries.items()
            if name in ENTRIES
        }
        for network, entries in results["runs"].items()
    }


def measured(results: Mapping[str, Any], cpu: str | None = None) -> Volumes:
    """Hypervolumes of the entries whose fronts were all measured on a processor, and of those by single weights.

    Args:
        results: the results.
        cpu: the processor; None for the one that each network was searched for.
    """
    found: Volumes = {}
    for network, entries in results["runs"].items():
        latency_ms = results["latency_ms"].get(cpu or Profiled.read(network).cpu, {}).get(network, {})
        for name, by_seed in entries.items():
            if name not in ENTRIES:
                continue
            by_weight = ENTRIES[name].by_weight
            records = _records(by_seed)
            if by_weight or all(is_measured(record, latency_ms) for record in records):
                told = [hypervolume(record, latency_ms, by_weight=by_weight) for record in records]
                found.setdefault(network, {})[name] = told
    return found


def measured_elsewhere(results: Mapping[str, Any]) -> dict[str, Volumes]:
    """By processor, the same where fronts were measured on another one than they were searched for."""
    found: dict[str, Volumes] = {}
    for cpu, by_network in results["latency_ms"].items():
        networks = [
            network for network in by_network if network in results["runs"] and Profiled.read(network).cpu != cpu
        ]
        runs = {
            network: {name: each for name, each in results["runs"][network].items() if not ENTRIES[name].by_weight}
            for network in networks
        }
        if told := measured({**results, "runs": runs}, cpu):
            found[cpu] = told
    return found


def _records(by_seed: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [record for _, record in sorted(by_seed.items(), key=lambda item: int(item[0]))]


def lines(results: Mapping[str, Any]) -> Iterator[str]:
    """A table for each network, kind of pruning and source of latencies."""
    on_own = measured(results)
    for network, by_entry in by_model(results).items():
        for by_weight in (False, True):
            own = {name: found for name, found in by_entry.items() if ENTRIES[name].by_weight == by_weight}
            if not own:
                continue
            told = on_own.get(network, {})
            whole = own.keys() <= told.keys()
            own = {name: told[name] for name in own} if whole else own
            source = "" if by_weight else ", measured" if whole else ", by the model (not all is measured yet)"
            yield from _table(
                f"{network}, {'error and density' if by_weight else 'error, latency, memory'}{source}", own
            )
    for cpu, volumes in measured_elsewhere(results).items():
        for network, own in volumes.items():
            yield from _table(f"{network}, searched for {Profiled.read(network).cpu}, measured on {cpu}", own)
    yield from _details(results["runs"])


def _table(title: str, own: Mapping[str, list[float]]) -> Iterator[str]:
    yield f"\n{title}"
    yield f"{'':26} {'kind':9} {'runs':>4} {'median hv':>9} {'from':>7} {'to':>7}"
    for name, found in sorted(own.items(), key=lambda item: -float(np.median(item[1]))):
        kind = ENTRIES[name].kind
        yield f"{name:26} {kind:9} {len(found):4} {np.median(found):9.4f} {min(found):7.4f} {max(found):7.4f}"
    for method in (entry for entry in ENTRIES.values() if entry.kind == "method" and entry.name in own):
        yield from _against(method, own)


def _against(method: Entry, own: Mapping[str, list[float]]) -> Iterator[str]:
    mine = own[method.name]
    for name, theirs in own.items():
        if ENTRIES[name].kind == "method" or (
            ENTRIES[name].kind == "ablation" and ENTRIES[name].method != method.method
        ):
            continue
        ratio = np.median(mine) / np.median(theirs)
        text = f"{method.name} / {name}: {ratio:.3f}"
        others = theirs * len(mine) if len(theirs) == 1 else theirs
        if len(mine) >= PAIRS_MIN and len(others) == len(mine):
            text += f" (p = {wilcoxon(mine, others, alternative='greater').pvalue:.4f})"
        yield text


def _details(runs: Mapping[str, Any]) -> Iterator[str]:
    for network, entries in runs.items():
        tuned: list[Mapping[str, float]] = []
        for name, by_seed in entries.items():
            told = [record["impairments_spearman"] for record in by_seed.values() if "impairments_spearman" in record]
            if told:
                yield f"{network} {name}: rank correlation of summed impairments with joint loss {np.median(told):.3f}"
            told_ms = by_seed.get("0", {}).get("latency_ms", {})
            if told_ms.get("dense"):
                shares = [value / told_ms["dense"] for key, value in told_ms.items() if key.isdigit() and value]
                kept = ", ".join(f"{share:.3f}" for share in shares)
                yield f"{network} {name}: measured with sparse kernels, kept networks take of the dense latency {kept}"
            if points := by_seed.get("0", {}).get("finetuned", {}).values():
                tests = ", ".join(f"{point['test_error']:.4f} at {point['share']:.0%}" for point in points)
                yield f"{network} {name}: test errors after fine-tuning {tests}"
                tuned += points
        if len(tuned) >= 3:
            pairs = np.array([[point["val_error_inherited"], point["val_error"]] for point in tuned])
            yield (
                f"{network}: rank correlation of in-search and fine-tuned error {spearmanr(*pairs.T).statistic:.3f} "
                f"on {len(tuned)} points of all entries"
            )


def malformed(results: Mapping[str, Any]) -> list[str]:
    """What is wrong with the form of committed results; nothing where all is well."""
    wrong = [f"no {key}" for key in ("runs", "command", "commit", "conditions") if key not in results]
    for network, entries in results.get("runs", {}).items():
        if network not in NETWORKS:
            wrong.append(f"unknown network {network}")
        for name, by_seed in entries.items():
            if name not in ENTRIES:
                wrong.append(f"unknown entry {name}")
            for seed, record in by_seed.items():
                missing = {"dense", "points", "counts", "passes", "commit"} - set(record)
                wrong += [f"{network} {name} {seed}: no {key}" for key in sorted(missing)]
    return wrong
