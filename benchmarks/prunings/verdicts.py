"""What the runs say together: medians, tests, and the lines that are printed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy.stats import spearmanr, wilcoxon

from prunings.entries import ENTRIES, NETWORKS, Entry
from prunings.volumes import hypervolume, is_measured

#: Runs that a signed-rank test needs.
PAIRS_MIN = 10

Volumes = dict[str, dict[str, list[float]]]


def volumes(results: Mapping[str, Any]) -> tuple[Volumes, Volumes]:
    """Hypervolumes by network and entry, one a seed: of entries whose fronts were measured, and by the model of all."""
    measured: Volumes = {}
    by_model: Volumes = {}
    for network, entries in results["runs"].items():
        latency_ms = results["latency_ms"].get(network, {})
        for name, by_seed in entries.items():
            if name not in ENTRIES:
                continue
            by_weight = ENTRIES[name].by_weight
            records = [record for _, record in sorted(by_seed.items(), key=lambda item: int(item[0]))]
            told = [hypervolume(record, None, by_weight=by_weight) for record in records]
            by_model.setdefault(network, {})[name] = told
            if by_weight:
                measured.setdefault(network, {})[name] = told
            elif all(is_measured(record, latency_ms) for record in records):
                found = [hypervolume(record, latency_ms, by_weight=False) for record in records]
                measured.setdefault(network, {})[name] = found
    return measured, by_model


def lines(results: Mapping[str, Any]) -> Iterator[str]:
    """A table for each network and kind of pruning."""
    measured, by_model = volumes(results)
    for network, by_entry in by_model.items():
        for by_weight in (False, True):
            own = {name: found for name, found in by_entry.items() if ENTRIES[name].by_weight == by_weight}
            if not own:
                continue
            told = measured.get(network, {})
            whole = own.keys() <= told.keys()
            own = {name: told[name] for name in own} if whole else own
            source = "" if by_weight else ", measured" if whole else ", by the model (not all is measured yet)"
            yield f"\n{network}, {'error and density' if by_weight else 'error, latency, memory'}{source}"
            yield f"{'':26} {'kind':9} {'runs':>4} {'median hv':>9} {'from':>7} {'to':>7}"
            for name, found in sorted(own.items(), key=lambda item: -float(np.median(item[1]))):
                kind = ENTRIES[name].kind
                yield (f"{name:26} {kind:9} {len(found):4} {np.median(found):9.4f} {min(found):7.4f} {max(found):7.4f}")
            for method in (entry for entry in ENTRIES.values() if entry.kind == "method" and entry.name in own):
                yield from _against(method, own)
    yield from _details(results["runs"])


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
                shares = [value / told_ms["dense"] for key, value in told_ms.items() if key != "dense" and value]
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
