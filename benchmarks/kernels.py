"""Layers at every width that pruning can produce: our kernels, ONNX Runtime, and TVM without a schedule.

    python benchmarks/kernels.py [--quick] [--family NAME]... [--widths 1,2,3] [--resume]

One thread, float32. Both sides run chains of 16 equal layers on the same input and weights (``comparison/chains.py``):
ours is a network's library as the compiler makes it; ONNX Runtime has all its optimizations, and its input and output
are bound. Both outputs are compared with torch's before both are timed in turns. What counts is the median, over
rounds, of the ratio of times that follow one another within milliseconds: a neighbour on the core slows whole sittings
by a third, and both sides alike. For the same reason widths are compared by their time over that of the family's
anchor, which is timed with each of them. Microseconds are those of one layer in its fastest round.

The worst step of a family and its worst ratio are the largest of many noisy numbers. So the shapes that make them are
built and timed again, all suspects of a family in turns with each other, until the worst have been timed often enough;
each is the median of its sittings.

What was timed stands in ``benchmarks/results/kernels.json`` at once; ``--resume`` goes on with it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparison.chains import LAYERS, Case, Chain, onnx_model, random_input
from comparison.families import FAMILIES, SHAPE_MIN, STEP_MAX, UNTUNED_MIN, Family
from comparison.sides import OnnxRuntimeSide, OurSide, difference
from comparison.turns import geometric_mean, in_turns, rounds
from comparison.untuned import untuned_layer
from conditions import print_conditions
from measuring.kept import Kept

from hwprune.compilation.compiler import Compiler
from hwprune.compilation.graph import Graph, trace
from hwprune.compilation.targets import host_target

#: Largest difference from torch, relative to the largest output.
TOLERANCE = 1e-4

#: Seconds of rounds for a shape, and for suspects that are timed again.
SPEND_S, SPEND_AGAIN_S = 0.1, 0.5

#: Width of the shape that others of a family are compared with.
ANCHOR_WIDTH = 32

#: A worst shape has been timed so often at least; and so many times are suspects of a family timed again at most.
TIMED_MIN, TIMES_AGAIN, TIMES_AGAIN_QUICK = 3, 12, 1


@dataclass
class Row:
    """What is known of a shape.

    Attributes:
        case: the shape.
        ours_us: fastest time of one layer, us.
        ort_us: ONNX Runtime's.
        ratios: of each sitting, ONNX Runtime's time over ours.
        relatives: of each sitting, our time over that of the family's anchor.
    """

    case: Case
    ours_us: float = math.inf
    ort_us: float = math.inf
    ratios: list[float] = field(default_factory=list)
    relatives: list[float] = field(default_factory=list)

    @property
    def times(self) -> int:
        """How often it was timed."""
        return len(self.ratios)

    @property
    def ratio(self) -> float:
        """ONNX Runtime's time over ours."""
        return statistics.median(self.ratios)

    @property
    def relative(self) -> float:
        """Our time over that of the family's anchor."""
        return statistics.median(self.relatives)

    def figures(self) -> dict[str, Any]:
        """What is kept of it."""
        return {name: getattr(self, name) for name in ("ours_us", "ort_us", "ratios", "relatives")}


class Workshop:
    """Makes both sides of a case.

    Args:
        folder: for kernels and libraries.
    """

    def __init__(self, folder: Path) -> None:
        self.compiler = Compiler(host_target(), folder)
        self._graphs: dict[Case, Graph] = {}

    @contextlib.contextmanager
    def ours(self, case: Case, chain: Chain) -> Iterator[OurSide]:
        """The chain as a library; its graph is traced once and serves all widths and sizes."""
        if case.template not in self._graphs:
            example = Chain(case.template).eval()
            self._graphs[case.template] = trace(example, random_input(case.template), self.compiler.target)
        graph = self._graphs[case.template]
        ((name, _),) = graph.inputs
        artifact = self.compiler.network(replace(graph, inputs=((name, case.input_shape),)), chain)
        if artifact.description["fallback_calls"]:
            raise SystemExit(f"{case.name}: {artifact.description['fallback_ops']} fell back to TVM's code")
        side = OurSide(artifact, random_input(case).numpy())
        try:
            yield side
        finally:
            side.close()

    @contextlib.contextmanager
    def both(self, case: Case) -> Iterator[tuple[OurSide, OnnxRuntimeSide]]:
        """Ours and ONNX Runtime's, after a look at what they compute.

        Raises:
            SystemExit: one differs from torch.
        """
        chain, x = Chain(case).eval(), random_input(case)
        with torch.inference_mode():
            wanted = chain(x).numpy()
        theirs = OnnxRuntimeSide(onnx_model(chain), x.numpy(), case.output_shape)
        with self.ours(case, chain) as ours:
            for name, side in (("our", ours), ("ONNX Runtime's", theirs)):
                found = difference(side.output(), wanted)
                if not found <= TOLERANCE:
                    raise SystemExit(f"{case.op} {case.name}: {name} output differs from torch's by {found:.1e}")
            yield ours, theirs

    def time(self, rows: Sequence[Row], anchor: Case, spend_s: float) -> None:
        """Time the shapes of some rows in turns with each other and with the anchor."""
        with contextlib.ExitStack() as stack:
            sides = [stack.enter_context(self.both(row.case)) for row in rows]
            beside = stack.enter_context(self.ours(anchor, Chain(anchor).eval()))
            calls = [call for ours, theirs in sides for call in (beside.call, ours.call, theirs.call)]
            times = np.array(rounds(calls, spend_s)).reshape(-1, len(rows), 3) * (1e6 / LAYERS)
        for row, (anchor_us, ours_us, ort_us) in zip(rows, times.transpose(1, 2, 0), strict=True):
            row.ours_us = min(row.ours_us, float(ours_us.min()))
            row.ort_us = min(row.ort_us, float(ort_us.min()))
            row.ratios.append(float(np.median(ort_us / ours_us)))
            row.relatives.append(float(np.median(ours_us / anchor_us)))

    def over_untuned(self, case: Case) -> float:
        """Time of TVM's unscheduled layer over ours."""
        with self.ours(case, Chain(case).eval()) as ours:
            ours_s, untuned_s = in_turns([ours.call, untuned_layer(case, self.compiler.target)], spend_s=0.0)
        return untuned_s / (ours_s / LAYERS)


Step = tuple[float, Row, Row]


def steps(rows: Sequence[Row]) -> list[Step]:
    """For each width the largest ratio of its time to that of a larger width, the worst first."""
    found: list[Step] = []
    for index, row in enumerate(rows[:-1]):
        larger = min(rows[index + 1 :], key=lambda other: other.relative)
        found.append((row.relative / larger.relative, row, larger))
    return sorted(found, key=lambda step: -step[0])


def suspects(rows: Sequence[Row], has_steps: bool) -> list[Row]:
    """Shapes that make the worst figures; none once the very worst have been timed often enough to be believed."""
    by_ratio = sorted(rows, key=lambda row: row.ratio)
    by_step = [row for _, *pair in (steps(rows) if has_steps else ()) for row in pair]
    if all(row.times >= TIMED_MIN for row in (*by_ratio[:1], *by_step[:2])):
        return []
    return list({id(row): row for row in (*by_ratio[:2], *by_step[:6])}.values())


def run(family: Family, options: argparse.Namespace, workshop: Workshop, kept: Kept) -> dict[str, Any]:
    """Measure a family; its figures."""
    started = time.perf_counter()
    known = kept.parts.setdefault(family.name, {})
    rows = [Row(case, **known.get(case.name, {})) for case in family.cases(options.quick, options.widths)]
    anchor = family.of_width(ANCHOR_WIDTH) if family.of_width else rows[0].case

    def time_again(some: Sequence[Row], spend_s: float) -> None:
        workshop.time(some, anchor, spend_s)
        known.update({row.case.name: row.figures() for row in some})
        kept.write()

    for row in rows:
        if not row.times:
            time_again([row], SPEND_S)
    has_steps = family.of_width is not None
    for _ in range(TIMES_AGAIN_QUICK if options.quick else TIMES_AGAIN):
        again = suspects(rows, has_steps)
        if not again:
            break
        time_again(again, SPEND_AGAIN_S)
    cases = family.untuned_cases(options.quick, options.widths)
    untuned = kept.part(f"{family.name} untuned", lambda: [workshop.over_untuned(case) for case in cases])
    ratios = [row.ratio for row in rows]
    worst_steps = steps(rows) if has_steps else []
    figures = {
        "geomean_vs_ort": geometric_mean(ratios),
        "worst_vs_ort": min(ratios),
        "worst_step": worst_steps[0][0] if worst_steps else None,
        "geomean_vs_untuned": geometric_mean(untuned) if untuned else None,
        "shapes": len(rows),
        "under_0.85": sum(ratio < SHAPE_MIN for ratio in ratios),
    }
    report(family, figures, rows, worst_steps, time.perf_counter() - started)
    return figures


def report(
    family: Family, figures: dict[str, Any], rows: Sequence[Row], worst_steps: Sequence[Step], elapsed_s: float
) -> None:
    """Print a family's figures, its worst shapes and steps."""

    def figure(name: str, text: str, asked: str, met: bool) -> str:
        return f"{text} {figures[name]:.2f} ({asked} asked{'' if met else ', MISSED'})"

    geomean, worst, step, untuned = itertools.islice(figures.values(), 4)
    parts = [
        figure("geomean_vs_ort", "geomean", f">= {family.geomean_min}", geomean >= family.geomean_min),
        figure("worst_vs_ort", "worst", f">= {SHAPE_MIN}", worst >= SHAPE_MIN),
    ]
    if step is not None:
        parts.append(figure("worst_step", "worst step", f"<= {STEP_MAX}", step <= STEP_MAX))
    if untuned is not None:
        parts.append(figure("geomean_vs_untuned", "over untuned", f">= {UNTUNED_MIN:.0f}", untuned >= UNTUNED_MIN))
    print(f"\n{family.name}: {len(rows)} shapes in {elapsed_s:.0f} s\n  " + ", ".join(parts))
    for row in sorted(rows, key=lambda row: row.ratio)[:5]:
        print(f"  {row.case.name:<20} ours {row.ours_us:>9.2f} us, ort {row.ort_us:>9.2f} us, ratio {row.ratio:.2f}")
    for size, narrow, wide in worst_steps[:3]:
        print(
            f"  step {narrow.case.in_channels} -> {wide.case.in_channels}: "
            f"{narrow.relative:.4f} -> {wide.relative:.4f} of the anchor, {size:.3f}"
        )
    print(end="", flush=True)


def main() -> None:
    """Measure, print tables and the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few shapes of each family")
    names = [family.name for family in FAMILIES]
    parser.add_argument("--family", action="append", choices=names, metavar="NAME", help=f"one of: {', '.join(names)}")
    parser.add_argument("--widths", type=_widths, default=(), help="comma-separated, instead of each family's own")
    parser.add_argument("--resume", action="store_true", help="go on with benchmarks/results/kernels.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print_conditions()
    chosen = [family for family in FAMILIES if family.name in (options.family or names)]
    kept = Kept("kernels", is_resumed=options.resume, is_quick=options.quick or bool(options.widths))
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(Path(folder))
        figures = {family.name: run(family, options, workshop, kept) for family in chosen}
    kept.finish({"quick": options.quick, "families": figures})


def _widths(text: str) -> tuple[int, ...]:
    """``1,2,5-9`` -> their numbers, rising."""
    ranges = (part.split("-") for part in text.split(","))
    return tuple(sorted({width for ends in ranges for width in range(int(ends[0]), int(ends[-1]) + 1)}))


if __name__ == "__main__":
    main()
