"""A resident network that tells how long each of its calls takes among the others.

A kernel called again and again finds its weights and inputs in the caches; in a network other layers ran in between,
and a kernel of a microsecond costs more to call from outside than to run. So the clock is read between the calls of
whole runs, inside the library. To an agent it is a network like any other: its input says which widths to run and how
often, its output is nanoseconds.

Every run stands between two readings of the reference kernel and, where the device's own level of that is known, waits
for it: moments in which nobody else slows a core are often as short as a run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hwprune.compilation import c_code, link, threads
from hwprune.compilation.resident import Family
from hwprune.compilation.targets import CpuTarget
from hwprune.records import Artifact

FloatArray = npt.NDArray[np.float64]

#: First word of an input that asks for times; anything else, such as an agent's first run after loading, does nothing.
MAGIC = 0x54494D45
#: Most runs of one input.
RUNS_MAX = 32
#: Calls of the reference kernel on each side, the fastest of which counts: as many as fit in so much time.
REFERENCE_CALLS, REFERENCE_CALLS_MIN, REFERENCE_NS = 6, 3, 5_000_000

_STAMPS = """
#define CALLS %(calls)d
static int64_t stamps[CALLS + 1];
static float image[%(image)d] ALIGNED, answer[%(answer)d] ALIGNED;

__attribute__((constructor)) static void fill(void)
{
    for (int64_t i = 0; i < %(image)d; i++)
        image[i] = 0.0625f * (float)(1 + i %% 7);
}
"""

_RUN = """
static float fastest_ns(int is_reference)
{
    int64_t fastest = INT64_MAX, begin = now_ns(), start = begin;
    for (int32_t i = 0; i < %(calls)d && (i < %(calls_min)d || start - begin < %(reference_ns)d); i++) {
        start = now_ns();
        if (is_reference)
            reference_run();
        int64_t elapsed = now_ns() - start;
        fastest = elapsed < fastest ? elapsed : fastest;
    }
    return (float)fastest;
}

/* Of each run: reference before and after, then the calls. One before the first, and one after each wait, is not timed:
   it brings the network back into the caches. */
int network_run(const float *input, float *output)
{
    const int32_t *words = (const int32_t *)input;
    if (words[0] != %(magic)d)
        return 0;
    if (words[1] < 1 || words[1] > %(runs_max)d)
        return 1;
    float reading = fastest_ns(0), reference = fastest_ns(1);
    int64_t left = words[3];
    for (int32_t run = 0; run < words[1]; run++, output += 2 + CALLS) {
        int is_cold = run == 0;
        for (int64_t start = now_ns(); words[2] > 0 && reference > (float)words[2] && left > 0; is_cold = 1) {
            reference = fastest_ns(1);
            int64_t end = now_ns();
            left -= end - start;
            start = end;
        }
        for (int32_t timed = !is_cold; timed < 2; timed++) {
            output[0] = reference;
            int status = resident_run(words + 4, image, answer);
            if (status)
                return status;
            output[1] = reference = fastest_ns(1);
        }
        for (int32_t call = 0; call < CALLS; call++)
            output[2 + call] = (float)(stamps[call + 1] - stamps[call]) - reading;
    }
    return 0;
}
"""


@dataclass(frozen=True)
class Timeline:
    """A library that times the calls of a network at any widths.

    Attributes:
        artifact: the library.
        family: the networks that it runs.
    """

    artifact: Artifact
    family: Family

    @property
    def calls(self) -> int:
        """Calls of a network."""
        return len(self.family.dense.calls)

    def request(self, numbers: Sequence[int], runs: int, slowest_ms: float = 0.0, wait_ms: float = 0.0) -> bytes:
        """Input that asks for the times of some runs.

        Args:
            numbers: what stands for the network's widths.
            runs: how many.
            slowest_ms: a run waits until the reference kernel takes no longer; 0 for never.
            wait_ms: longest that all of them wait together.
        """
        words = [MAGIC, runs, round(slowest_ms * 1e6), round(wait_ms * 1e6), *numbers]
        return np.array(words, dtype=np.int32).tobytes()

    def times_ms(self, output: bytes, runs: int) -> tuple[FloatArray, FloatArray]:
        """``(runs, calls)`` times, and ``(runs, 2)`` of the reference kernel before and after each run, all in ms."""
        values = np.frombuffer(output, dtype=np.float32).astype(np.float64) / 1e6
        rows = values[: runs * (2 + self.calls)].reshape(runs, 2 + self.calls)
        return np.maximum(rows[:, 2:], 0.0), rows[:, :2]


def describe(description: dict[str, Any], family: Family) -> dict[str, Any]:
    """What the library says of itself, for an agent that takes it for a network."""
    words, values = 4 + sum(family.slots), RUNS_MAX * (2 + len(family.dense.calls))
    return {
        **description,
        "kind": "network",
        "inputs": [[1, words]],
        "outputs": [[1, values]],
        "input_bytes": 4 * words,
        "output_bytes": 4 * values,
    }


def source(family: Family, description: dict[str, Any], blob: Path, target: CpuTarget) -> str:
    """C text of the library, with the weights of the dense network in ``blob``."""
    plan = family.dense
    sizes = {
        name: max(1, sum(math.prod(value.shape) for value in values))
        for name, values in (("image", plan.inputs), ("answer", plan.outputs))
    }
    stamp = "stamps[%d] = now_ns();" if target.threads == 1 else "if (t == 0) stamps[%d] = now_ns();"
    calls = [f"    {stamp % number}\n{call}" for number, call in enumerate(family.call_texts())]
    body = f"    const int32_t *p;\n{threads.in_order([*calls, f'    {stamp % len(calls)}'], target.threads)}"
    text = link.head(family.usages, json.dumps(description), target) + link.memory(family.arena_bytes, blob)
    text += c_code.CLOCK + _STAMPS % {"calls": len(calls), **sizes}
    text += threads.function("resident_run", Family.ARGUMENTS, body, target.threads)
    reference = {"calls": REFERENCE_CALLS, "calls_min": REFERENCE_CALLS_MIN, "reference_ns": REFERENCE_NS}
    return text + _RUN % {**reference, "magic": MAGIC, "runs_max": RUNS_MAX}
