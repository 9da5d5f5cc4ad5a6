"""From one worker to two, on this machine and on a Dask cluster; what a worker takes of memory; a fleet of 30 boards.

    python benchmarks/scale.py [--quick] [--resume]

Candidates of a ResNet-56 on images of CIFAR's size (random ones: no accuracy is looked at) are scored on the whole
split. Asked for are 1.8 times as many candidates a minute by two processes as by one, 1.7 times by two Dask workers as
by one, and at most 1.1 times the memory of one process that does it the plain way, each at its peak.

Candidates of a ResNet-20 are handed out to 30 boards, recordings that take as long for one as this computer does (the
median of ``resident.py``); at least 90 % of the time a board must be measuring. The four parts are kept as they end, in
``results/scale.json``; ``--resume`` goes on behind them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparison.dask_cluster import local_cluster
from comparison.replayed_fleet import busy_share
from conditions import command, commit, conditions, print_conditions, print_result

from hwprune.config import Problem
from hwprune.executors import Processes, open_team
from hwprune.experiments.judging import open_judge
from hwprune.experiments.progress import Silent
from hwprune.experiments.workbench import Workbench
from hwprune.pruning.plan import PruningPlan
from hwprune.search.space import SearchSpace
from latency_models.kernel_table import KernelTable, KernelTime
from latency_models.network_model import LatencyModel

CANDIDATES, CANDIDATES_QUICK = 24, 4
VAL_IMAGES, VAL_IMAGES_QUICK = 5000, 1000
#: Boards of the fleet, candidates for each, and seconds that a board takes for one.
BOARDS, FLEET_EACH, FLEET_EACH_QUICK, FLEET_ITEM_S = 30, 200, 24, 0.184
RESULTS = Path(__file__).resolve().parent / "results" / "scale.json"
#: Seconds that the workers of a cluster get to come up.
START_S = 60.0


def main() -> None:
    """Measure, print a table and the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{CANDIDATES_QUICK} candidates and a fifth of the images")
    parser.add_argument("--resume", action="store_true", help="go on behind the parts that results/scale.json has")
    parser.add_argument("--plain", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.plain:
        return _plain_process(Path(options.plain))
    print_conditions()
    parts: dict[str, Any] = _known() if options.resume else {}
    with tempfile.TemporaryDirectory() as folder:
        images = _images(Path(folder), VAL_IMAGES_QUICK if options.quick else VAL_IMAGES)
        bench = Workbench.open(_problem(images), with_weights=False)
        plans = _plans(bench, CANDIDATES_QUICK if options.quick else CANDIDATES)
        works: dict[str, Callable[[], Any]] = {
            "local": lambda: _local(bench, plans),
            "dask": lambda: _dask(bench, plans),
            "plain_bytes": lambda: _plain_bytes(images),
            "fleet_busy": lambda: _fleet_busy(images, Path(folder), options.quick),
        }
        for name, work in works.items():
            if name not in parts:
                parts[name] = work()
                if not options.quick:
                    _write(parts)
    print_table(parts)
    print_result(result_of(parts))


def result_of(parts: dict[str, Any]) -> dict[str, Any]:
    """What is asked for, as far as it was measured."""
    (local, worker_bytes), plain_bytes = parts.get("local", (None, None)), parts.get("plain_bytes")
    return {
        "benchmark": "scale",
        "speedup_local_2": local,
        "speedup_dask_2": parts.get("dask"),
        "memory_ratio": worker_bytes / plain_bytes if worker_bytes and plain_bytes else None,
        "fleet_busy": parts.get("fleet_busy"),
        "worker_bytes": worker_bytes,
        "plain_bytes": plain_bytes,
    }


def print_table(parts: dict[str, Any]) -> None:
    """Print the parts beside what is asked for."""
    (local, worker_bytes), dask, plain_bytes = parts["local"], parts["dask"], parts["plain_bytes"]
    told = "not measured: pip install 'hwprune[dask]'" if dask is None else f"{dask:.2f} times (1.7 asked for)"
    print(f"two processes: {local:.2f} times one (1.8 asked for); two Dask workers: {told}")
    print(f"a worker takes {worker_bytes >> 20} MiB at its peak, a plain process {plain_bytes >> 20} MiB (1.1 allowed)")
    print(f"a fleet of {BOARDS} boards is busy {parts['fleet_busy']:.1%} of the time (90 % asked for)")


def _known() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS.read_text())["parts"] if RESULTS.exists() else {}
    return found


def _write(parts: dict[str, Any]) -> None:
    """Write what was measured so far, with what it depends on."""
    about = {"command": command("scale"), "commit": commit(), "seeds": [0], "conditions": conditions()}
    RESULTS.parent.mkdir(exist_ok=True)
    draft = RESULTS.with_suffix(".part")
    draft.write_text(json.dumps({"RESULT": result_of(parts), "parts": parts, **about}, indent=1) + "\n")
    draft.replace(RESULTS)


def _fleet_busy(images: Path, folder: Path, quick: bool) -> float:
    """Share of the time that a pool of recorded boards measures; latencies are none that anybody looks at."""
    problem = _problem(images).model_copy(update={"network": {"name": "resnet_cifar", "depth": 20}})
    bench = Workbench.open(problem, with_weights=False)
    plans = _plans(bench, FLEET_EACH_QUICK * BOARDS if quick else FLEET_EACH * BOARDS)
    shapes = bench.graph.shapes(bench.dense)
    model = LatencyModel.fit(KernelTable({shape: KernelTime(0.02, 0.0002) for shape in shapes}), (), "ridge")
    share = busy_share(bench, plans, model, boards=BOARDS, item_s=FLEET_ITEM_S, folder=folder)
    print(f"{len(plans)} candidates on {BOARDS} boards: busy {share:.1%}", flush=True)
    return share


def _local(bench: Workbench, plans: Sequence[PruningPlan]) -> tuple[float, int]:
    seconds, peaks = [], []
    for size in (1, 2):
        with Processes(size, 1) as team:
            seconds.append(_scored_s(bench, plans, team, size))
            peaks += [_peak_bytes(child.pid) for child in multiprocessing.active_children()]
            print(f"{size} process: {60 * len(plans) / seconds[-1]:.1f} candidates a minute", flush=True)
    return seconds[0] / seconds[1], max(peaks)


def _dask(bench: Workbench, plans: Sequence[PruningPlan]) -> float | None:
    if importlib.util.find_spec("distributed") is None:
        return None
    seconds = []
    for size in (1, 2):
        with local_cluster(size) as cluster, open_team(scheduler=cluster.address) as team:
            deadline = time.monotonic() + START_S
            while team.size < size:
                if time.monotonic() > deadline:
                    raise SystemExit(f"the Dask workers did not come up within {START_S:.0f} s")
                time.sleep(0.2)
            seconds.append(_scored_s(bench, plans, team, size))
            print(f"{size} Dask worker: {60 * len(plans) / seconds[-1]:.1f} candidates a minute", flush=True)
    return seconds[0] / seconds[1]


def _scored_s(bench: Workbench, plans: Sequence[PruningPlan], executor: Executor, size: int) -> float:
    """Seconds to score the plans by workers that have scored before: starting is another question."""
    judge = open_judge(bench, executor, None, Silent())
    assert judge is not None
    list(judge.scores(plans[: 2 * size], [np.inf] * 2 * size))
    started = time.perf_counter()
    list(judge.scores(plans, [np.inf] * len(plans)))
    return time.perf_counter() - started


def _plain_bytes(images: Path) -> int:
    plain = [sys.executable, __file__, "--plain", str(images)]
    return int(subprocess.run(plain, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def _plain_process(images: Path) -> None:
    """Print the peak memory of a process that scores candidates the plain way."""
    bench = Workbench.open(_problem(images), with_weights=False)
    for plan in _plans(bench, 2):
        module = bench.slicer.cut(plan)
        assert bench.batchnorm is not None
        bench.batchnorm(module)
        bench.task.evaluate(module, "val")
    print(_peak_bytes(None))


def _peak_bytes(pid: int | None) -> int:
    """Largest resident memory so far, what it shares with others included."""
    status = Path(f"/proc/{pid or 'self'}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def _problem(images: Path) -> Problem:
    return Problem.model_validate(
        {
            "network": {"name": "resnet_cifar", "depth": 56},
            "data": {"name": "arrays", "path": str(images)},
            "evaluation": {"threads": 1, "dtype": "bfloat16"},
        }
    )


def _images(folder: Path, val_images: int) -> Path:
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, count in (("train", 2560), ("val", val_images), ("test", 128)):
        arrays[f"x_{split}"] = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        arrays[f"y_{split}"] = np.arange(count) % 10
    np.savez(folder / "images.npz", **arrays)
    return folder / "images.npz"


def _plans(bench: Workbench, count: int) -> list[PruningPlan]:
    space = SearchSpace.of(bench.groups.sizes.tolist(), channel_step=8)
    genomes = np.random.default_rng(0).random((count, space.n_var)) * space.upper
    return [bench.plan(widths) for widths in space.decode(genomes)]


if __name__ == "__main__":
    main()
