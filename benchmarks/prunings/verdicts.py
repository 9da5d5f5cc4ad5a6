"""What the runs say together: medians, tests, and the lines that are printed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy.stats import spearmanr, wilcoxon

from prunings.entries import ENTRIES, NETWORKS, Entry
from prunings.runs import hypervolume

Runs = Mapping[str, Mapping[str, Mapping[str, dict[str, Any]]]]

#: Runs that a signed-rank test needs.
PAIRS_MIN = 10


def volumes(runs: Runs) -> dict[str, dict[str, list[float]]]:
    """Hypervolumes by network and entry, one a seed."""
    return {
        network: {
            name: [hypervolume(record, by_weight=ENTRIES[name].by_weight) for _, record in sorted(by_seed.items())]
            for name, by_seed in entries.items()
            if name in ENTRIES and all(record["dense"] for record in by_seed.values())
        }
        for network, entries in runs.items()
    }


def lines(runs: Runs) -> Iterator[str]:
    """A table for each network and kind of pruning."""
    for network, by_entry in volumes(runs).items():
        for by_weight in (False, True):
            own = {name: found for name, found in by_entry.items() if ENTRIES[name].by_weight == by_weight}
            if not own:
                continue
            yield f"\n{network}, {'error and density' if by_weight else 'error, latency, memory'}"
            yield f"{'':26} {'kind':9} {'runs':>4} {'median hv':>9} {'from':>7} {'to':>7}"
            for name, found in sorted(own.items(), key=lambda item: -float(np.median(item[1]))):
                kind = ENTRIES[name].kind
                yield (f"{name:26} {kind:9} {len(found):4} {np.median(found):9.4f} {min(found):7.4f} {max(found):7.4f}")
            for method in (entry for entry in ENTRIES.values() if entry.kind == "method" and entry.name in own):
                yield from _against(method, own)
    yield from _details(runs)


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


def _details(runs: Runs) -> Iterator[str]:
    for network, entries in runs.items():
        for name, by_seed in entries.items():
            told = [record["impairments_spearman"] for record in by_seed.values() if "impairments_spearman" in record]
            if told:
                yield f"{network} {name}: rank correlation of summed impairments with joint loss {np.median(told):.3f}"
            points = [point for record in by_seed.values() for point in record.get("finetuned", {}).values()]
            if len(points) >= 3:
                pairs = np.array([[point["val_error_inherited"], point["val_error"]] for point in points])
                yield (
                    f"{network} {name}: rank correlation of in-search and fine-tuned error "
                    f"{spearmanr(*pairs.T).statistic:.3f} on {len(points)} points; test errors "
                    + ", ".join(f"{point['test_error']:.4f} at {point['share']:.0%}" for point in points[:3])
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
                missing = {"dense", "points", "counts", "run"} - set(record)
                wrong += [f"{network} {name} {seed}: no {key}" for key in sorted(missing)]
    return wrong
