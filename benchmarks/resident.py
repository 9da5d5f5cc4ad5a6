"""ResNet-20 candidates on one resident library: how many a minute, and how far from libraries of their own.

    python benchmarks/resident.py [--quick]

Candidates are pruned at random (32x32x3) and measured whole, a generation of 20 at a time, as ``hwprune search --set
latency_source=device`` does: at least 600 a minute with trust A or B are asked for. Then 50 of them are timed in turns
on the resident library and on one that is linked for each alone: 95 % are asked to agree within 2 %.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
from conditions import print_conditions, print_result
from measuring.dense import open_local, random_plans

from hwprune.experiments.candidates import linked_job
from hwprune.experiments.session import DeviceSession
from hwprune.experiments.workbench import Workbench
from hwprune.pruning.plan import PruningPlan

#: Candidates that are measured for the rate, and pairs for the agreement.
CANDIDATES, CANDIDATES_QUICK = 600, 120
PAIRS, PAIRS_QUICK = 50, 16

#: Candidates that a search asks for together.
GENERATION = 20


def main() -> None:
    """Measure, print a table and the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{CANDIDATES_QUICK} candidates and {PAIRS_QUICK} pairs")
    quick = parser.parse_args().quick
    candidates, pairs = (CANDIDATES_QUICK, PAIRS_QUICK) if quick else (CANDIDATES, PAIRS)
    print_conditions()
    with open_local() as (session, bench):
        plans = random_plans(bench, candidates)
        # Long blocks show how fast the device's reference kernel is, as a profile would have done.
        session.measurer.network(linked_job(session.compiler, bench, bench.dense))
        started = time.perf_counter()
        session.candidates(bench).job(plans[0])
        prepared_s = time.perf_counter() - started
        rate = candidates_a_minute(session, bench, plans)
        agreement = compare(session, bench, plans[:pairs])
    print(f"the resident library took {prepared_s:.1f} s, once for all of these")
    print_result({"benchmark": "resident", **rate, **agreement, "prepared_s": prepared_s})


def candidates_a_minute(session: DeviceSession, bench: Workbench, plans: Sequence[PruningPlan]) -> dict[str, object]:
    """Measure the candidates, generation by generation; those with trust A or B count."""
    trust, seconds = [], []
    for start in range(0, len(plans), GENERATION):
        started = time.perf_counter()
        found = session.measure_candidates(bench, plans[start : start + GENERATION])
        seconds.append(time.perf_counter() - started)
        trust += ["failed" if each.error else each.trust for each in found]
    counts = {grade: trust.count(grade) for grade in sorted(set(trust))}
    trusted = counts.get("A", 0) + counts.get("B", 0)
    per_minute = 60 * trusted / sum(seconds)
    for grade, count in counts.items():
        print(f"trust {grade:<8}{count:>5} of {len(plans)}")
    median_ms = 1e3 * float(np.median(seconds)) / GENERATION
    print(f"{per_minute:.0f} trusted candidates a minute (600 are asked for), median {median_ms:.0f} ms each")
    return {"per_minute": per_minute, "candidates": len(plans), "trust": counts, "median_ms": median_ms}


def compare(session: DeviceSession, bench: Workbench, plans: Sequence[PruningPlan]) -> dict[str, object]:
    """Time each candidate on both libraries in turns; untrusted pairs are counted and left out."""
    ratios = []
    for plan in plans:
        jobs = session.candidates(bench).job(plan), linked_job(session.compiler, bench, bench.slicer.cut(plan))
        resident, alone = session.measurer.networks(jobs, remeasure=True)
        if resident.error is None and alone.error is None and "C" not in (resident.trust, alone.trust):
            ratios.append(resident.latency_ms / alone.latency_ms)
    differences = np.abs(np.array(ratios) - 1) if ratios else np.array([np.nan])
    p50, p95 = np.percentile(differences, [50, 95])
    within = float(np.mean(differences <= 0.02))
    print(
        f"{len(ratios)} of {len(plans)} pairs with trust on both sides; {within:.0%} agree within 2 % (95 % asked for)"
    )
    print(
        f"difference: median {p50:.2%}, 95th percentile {p95:.2%}; resident / alone {np.median(ratios or [np.nan]):.4f}"
    )
    return {
        "agreement_p95": float(p95),
        "agreement_median": float(p50),
        "within_2_percent": within,
        "pairs": len(ratios),
    }


if __name__ == "__main__":
    main()
