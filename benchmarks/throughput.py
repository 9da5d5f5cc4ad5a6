"""What it costs to know the latency of a search's candidates: compile and measure each, or ask a profiled model.

    python benchmarks/throughput.py [--quick | --resume]

One search trace of 1,000 ResNet-56 candidates (32x32x3; children of children of the dense network, as an evolutionary
search breeds them, from a fixed seed). Compiling and measuring a whole network is timed on a sample of the trace and
extrapolated to all of it: by TVM's usual pipeline (Relax import, default schedules, ``time_evaluator``) and by the
project's linked libraries. The model prices the whole trace; how long its profile took is counted in
``ratio_with_profile`` (against TVM) and left out of ``ratio`` (against the linked libraries). What was measured is kept
in ``benchmarks/results/throughput.json``, from which ``--resume`` goes on.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import tvm
from agreement import on_cores
from conditions import print_conditions
from measuring.dense import open_local, told_console
from measuring.kept import Kept
from torch import Tensor, nn
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program

from hwprune.compilation.targets import CpuTarget
from hwprune.experiments.candidates import linked_job
from hwprune.experiments.profile import profile_network
from hwprune.experiments.profiler import Effort
from hwprune.experiments.progress import Steps
from hwprune.search.space import IntArray, SearchSpace
from latency_models.network_model import LatencyModel

CANDIDATES = 1000
#: Candidates that are compiled and measured: by TVM's usual pipeline, and linked.
SAMPLES, SAMPLES_QUICK = (4, 20), (1, 5)
EFFORT, EFFORT_QUICK = Effort(), Effort(minutes=0.5)
#: Candidates priced at once for the rate.
MANY = 200_000
POPULATION, MUTATED, SPREAD = 40, 0.15, 0.25

RESNET_56 = {"name": "resnet_cifar", "depth": 56}


def main() -> None:
    """Time all three ways, print a table and the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer samples and a profile of half a minute")
    parser.add_argument("--resume", action="store_true", help="go on with benchmarks/results/throughput.json")
    options = parser.parse_args()
    usual_samples, linked_samples = SAMPLES_QUICK if options.quick else SAMPLES
    print_conditions()
    kept = Kept("throughput", is_resumed=options.resume, is_quick=options.quick)
    with open_local(RESNET_56) as (session, bench):
        console, target = told_console(), CpuTarget.from_dict(session.device.target)
        space = SearchSpace.of(bench.groups.sizes.tolist(), round_to=1, pruning_ratio_max=0.9)
        trace = search_trace(space, CANDIDATES)
        chosen = trace[np.linspace(0, CANDIDATES - 1, max(usual_samples, linked_samples)).astype(int)]

        def usual(widths: IntArray) -> None:
            with on_cores(session.device.cores):
                usual_ms(bench.candidate(widths), bench.example_input, target)

        def linked(widths: IntArray) -> None:
            job = linked_job(session.compiler, bench, bench.candidate(widths))
            session.measurer.network(job, remeasure=True)

        def profiled() -> dict[str, Any]:
            effort = EFFORT_QUICK if options.quick else EFFORT
            started = time.perf_counter()
            model, report = profile_network(session, bench, console=console, effort=effort)
            seconds = time.perf_counter() - started
            facts = {"kernels": report.kernels, "networks": report.networks, "mape": report.mape}
            return {"model": model.to_json(), "seconds": seconds, **facts}

        profile = kept.part("profile", profiled)
        with console.progress(linked_samples + usual_samples, "compiling and measuring candidates") as steps:
            linked_s = kept.part("linked_s", lambda: seconds_each(linked, chosen[:linked_samples], steps))
            usual_s = kept.part("usual_s", lambda: seconds_each(usual, chosen[:usual_samples], steps))
    model, profile_s = LatencyModel.from_json(profile["model"]), profile["seconds"]
    model.predict(bench.arithmetic(trace[:2]))  # what is kept for later calls is part of the first one everywhere else
    started = time.perf_counter()
    model.predict(bench.arithmetic(trace))
    priced_s = time.perf_counter() - started
    many = search_trace(space, MANY)
    started = time.perf_counter()
    model.predict(bench.arithmetic(many))
    rate = MANY / (time.perf_counter() - started)
    with_profile = usual_s * CANDIDATES / (profile_s + priced_s)
    without = linked_s * CANDIDATES / priced_s
    print(f"TVM's usual pipeline {usual_s:.2f} s a candidate (of {usual_samples}, extrapolated to {CANDIDATES})")
    print(f"linked libraries     {linked_s:.2f} s a candidate (of {linked_samples}, extrapolated)")
    print(
        f"model                {1e3 * priced_s:.1f} ms for all {CANDIDATES}, after a profile of {profile_s:.0f} s "
        f"({profile['kernels']} kernels, {profile['networks']} networks, held-out error {profile['mape']:.1f} %)"
    )
    print(f"{with_profile:.0f} times cheaper than the usual pipeline with the profile (50 asked for)")
    print(f"{without:.0f} times cheaper than linked libraries without it (1000 asked for)")
    print(f"{rate:.3g} candidates a second (1e5 asked for)")
    kept.finish(
        {
            "ratio_with_profile": with_profile,
            "ratio": without,
            "networks_per_s": rate,
            "usual_s": usual_s,
            "linked_s": linked_s,
            "profile_s": profile_s,
            "priced_s": priced_s,
            "extrapolated_from": {"usual": usual_samples, "linked": linked_samples},
        }
    )


def search_trace(space: SearchSpace, n: int) -> IntArray:
    """``(n, G)`` widths: each a mutated crossing of two of the last ones, the first of them the dense network."""
    generator = np.random.default_rng(0)
    genomes = [np.zeros((1, space.n_var))]
    count = 1
    while count < n:
        recent = np.vstack(genomes[-2:])[-POPULATION:]
        size = min(max(POPULATION, n // 25), n - count)
        left, right = recent[generator.integers(len(recent), size=(2, size))]
        children = np.where(generator.random(left.shape) < 0.5, left, right)
        moved = generator.random(left.shape) < MUTATED
        steps = SPREAD * generator.standard_normal(left.shape)
        genomes.append(np.clip(children + moved * steps, 0, space.upper))
        count += size
    return space.decode(np.vstack(genomes))


def seconds_each(price: Callable[[IntArray], None], candidates: IntArray, steps: Steps) -> float:
    """Mean seconds of pricing a candidate."""
    started = time.perf_counter()
    for widths in candidates:
        price(widths)
        steps.advance()
    return (time.perf_counter() - started) / len(candidates)


def usual_ms(module: nn.Module, x: Tensor, target: CpuTarget) -> float:
    """Import, compile with TVM's defaults, and time for as long as one of our own measurements."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torch's own internals
        program = torch.export.export(module, (x,))
        relaxed = from_exported_program(program, keep_params_as_input=False, unwrap_unit_return_tuple=True)
    tvm_target = target.as_tvm()
    with tvm_target:
        compiled = tvm.compile(relaxed, target=tvm_target)
    machine = relax.VirtualMachine(compiled, tvm.cpu())
    machine.set_input("main", tvm.runtime.tensor(x.numpy()))
    timed = machine.time_evaluator("invoke_stateful", tvm.cpu(), number=2, repeat=5)("main")
    return float(1e3 * timed.mean)


if __name__ == "__main__":
    main()
