"""Records ResNet-20 on CIFAR-10 for :mod:`searching.resnet20`: accuracies by true evaluations, kernels by measuring.

Accuracies are written after every few plans, and a recording goes on where it stopped, however it was stopped. Images
come as the ``.npz`` of ``hwprune.datasets.arrays``, weights as ``.safetensors`` of ``resnet_cifar`` with depth 20.
Accuracies take no device; the plans that are searched for, which end the large recording, take recorded devices.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from conditions import commit, conditions

from hwprune import training
from hwprune.accuracy import scorer
from hwprune.cli.console import Console
from hwprune.compilation.targets import CpuTarget
from hwprune.config import Problem
from hwprune.experiments.calibration import latency_model
from hwprune.experiments.devices import LOCAL, find
from hwprune.experiments.home import Home
from hwprune.experiments.session import open_session
from hwprune.experiments.workbench import Workbench
from hwprune.search import methods
from hwprune.search.breeding import distinct
from hwprune.search.evaluation import SearchContext
from hwprune.search.methods.nsga2 import NSGA2, Settings
from searching.resnet20 import (
    DATA,
    SIZES,
    Interpolated,
    Kernels,
    devices,
    has,
    large,
    large_space,
    recorded_so_far,
    table_plans,
)

IntArray = npt.NDArray[np.int64]

#: This computer, and the same held to the kernels of older processors: other vector lengths, other steps.
DEVICES = {LOCAL: None, "avx2": "haswell", "sse4": "nehalem"}
VAL_IMAGES, BN_IMAGES = 1000, 640
#: Plans of the large recording: drawn at random, then searched for on what is recorded so far.
LARGE_RANDOM, LARGE_SEARCHED, LARGE_ROUND = 1200, 1200, 150
#: Plans between two writings: of the table four levels of the three blocks that change fastest, which share the others.
FLIGHT = 64


def problem_of(images: Path, weights: Path) -> Problem:
    """The problem that is recorded."""
    return Problem.model_validate(
        {
            "network": {"name": "resnet_cifar", "depth": 20},
            "weights": str(weights),
            "data": {
                "name": "arrays",
                "path": str(images),
                "val_images": VAL_IMAGES,
                "mean": [0.485, 0.456, 0.406],
                "std": [0.229, 0.224, 0.225],
            },
            "evaluation": {"threads": 1, "bn_images": BN_IMAGES},
        }
    )


def record_table(images: Path, weights: Path, minutes: float) -> None:
    """Record plans of the table, in their order, until it is whole or the time is over."""
    bench, deadline = _open(images, weights), time.monotonic() + 60 * minutes
    data, plans = _load("table", bench), table_plans()
    _evaluate(bench, data, "table", plans[len(data["correct"]) :], len(plans), deadline)
    print(f"{len(data['correct'])} of {len(plans)} plans are recorded")


def record_large(images: Path, weights: Path, minutes: float) -> None:
    """Record plans of the large space: random ones, then those that searches on the recorded ones find."""
    bench, deadline = _open(images, weights), time.monotonic() + 60 * minutes
    data, space = _load("large", bench), large_space()
    data.setdefault("widths", [])
    random_state = np.random.default_rng(0)
    # Every plan has an amount of pruning of its own: equal shares everywhere would leave no plan that is any good.
    amounts = random_state.random((2 * LARGE_RANDOM, 1))
    shares = random_state.random((2 * LARGE_RANDOM, len(SIZES)))
    drawn = distinct(np.vstack([space.sizes, space.decode(space.upper * amounts * shares)]))[:LARGE_RANDOM]
    total = LARGE_RANDOM + LARGE_SEARCHED
    while (done := len(data["correct"])) < total and time.monotonic() < deadline:
        if done >= LARGE_RANDOM and not has("devices"):
            print("the random plans are recorded; those that are searched for take recorded devices: --record devices")
            break
        wanted = drawn[done:] if done < LARGE_RANDOM else _searched(data, done)
        _evaluate(bench, data, "large", wanted[: total - done], total, deadline)
    print(f"{len(data['correct'])} of {total} plans are recorded")
    if len(data["correct"]) >= 200:
        widths, errors = np.array(data["widths"]), 1 - np.array(data["correct"]) / data["val_images"]
        found = Interpolated(space, widths, errors)
        print(f"interpolated {found.mean_absolute_error:.4f} off on average, good plans {found.front_error:.4f}")


def _open(images: Path, weights: Path) -> Workbench:
    """The problem; what its units are worth is recorded with the first of all."""
    bench = Workbench.open(problem_of(images, weights))
    if not has("importance"):
        _save("importance", {"scores": [scores.tolist() for scores in bench.scores]})
    return bench


def record_reference() -> None:
    """Add the front of long searches on the interpolated space to its recording: what arrivals are measured against.

    Their seeds are none of the benchmark's.
    """
    target, data = large(next(iter(devices()))), json.loads((DATA / "resnet20_large.json").read_text())
    found = [target.problem.space.sizes[None]]
    searches = [(NSGA2(Settings(pop_size=100)), 15_000, seed) for seed in (1000, 1001)]
    searches += [(methods.build("hamp"), 800, seed) for seed in (1002, 1003, 1004)]
    for method, budget, seed in searches:
        archive = method.run(SearchContext(target.problem, budget, np.random.default_rng(seed)))
        found.append(archive.widths[archive.front_rows()])
        print(f"{type(method).__name__} {budget}: {archive.hypervolume(target.ref_point) / target.hypervolume:.4f}")
    data["best"] = distinct(np.vstack(found)).tolist()
    _save("large", data)


def record_devices(images: Path, weights: Path, home: Home) -> None:
    """Profile the devices, and keep what each block costs at each of its widths."""
    problem, found = problem_of(images, weights), {}
    for name, mcpu in DEVICES.items():
        if mcpu is not None and name not in home.devices.names():
            local = find(home, LOCAL)
            home.devices.add(local.model_copy(update={"name": name, "target": {"kind": "llvm", "mcpu": mcpu}}))
        device = find(home, name)
        bench = Workbench.open(problem, CpuTarget.from_dict(device.target, device.threads))
        with open_session(home, device, Console()) as session:
            model = latency_model(session, bench, Console())
        kernels = _by_block(name, bench, model)
        random_widths = np.random.default_rng(0).integers(1, np.array(SIZES) + 1, (500, len(SIZES)))
        told, costs = model.predict(bench.arithmetic(random_widths))[0], kernels(random_widths)
        off = (
            np.abs(costs["latency"] / told - 1).max(),
            np.abs(costs["peak_memory"] / bench.memory(random_widths) - 1).max(),
        )
        print(f"{name}: sums over blocks are at most {off[0]:.2%} (latency) and {off[1]:.2%} (memory) off the model")
        found[name] = {
            "base_latency_ms": kernels.base_latency_ms,
            **{
                key: [row.tolist() for row in getattr(kernels, key)]
                for key in ("latency_ms", "weights_bytes", "live_bytes")
            },
            "largest_deviation": [float(value) for value in off],
            "model": model.card(),
        }
        _save("devices", {"commit": commit(), "conditions": conditions(), "devices": found})


def _by_block(name: str, bench: Workbench, model: Any) -> Kernels:
    """Costs of a device's model block by block, the other blocks at one channel."""
    smallest = np.ones(len(SIZES), dtype=np.int64)
    base_ms = float(model.predict(bench.arithmetic(smallest[None]))[0][0])
    memory = bench.memory
    latency_ms, weights, live = [], [], []
    for block, size in enumerate(SIZES):
        widths = np.tile(smallest, (size, 1))
        widths[:, block] = np.arange(1, size + 1)
        latency_ms.append(model.predict(bench.arithmetic(widths))[0] - base_ms)
        total, alone = memory(widths), memory.live(widths)
        weights.append(total - alone - (0 if block == 0 else (total - alone)[0]))
        live.append(alone)
    return Kernels(name, base_ms, latency_ms, weights, live)


def _searched(data: dict[str, Any], seed: int) -> IntArray:
    """``(n, 9)`` plans that NSGA-II and steps around its front find on what is recorded so far; none known already."""
    target = recorded_so_far(data)
    context = SearchContext(target.problem, 1500, np.random.default_rng(seed))
    archive = NSGA2(Settings(pop_size=60)).run(context)
    space = target.problem.space
    front = archive.widths[archive.front_rows()]
    random_state = np.random.default_rng(seed)
    around = space.shift(np.repeat(front, 3, axis=0), random_state.integers(-2, 3, (3 * len(front), space.n_var)))
    found = distinct(np.vstack([front, around]))
    known = {tuple(widths) for widths in data["widths"]}
    new = np.array([widths for widths in found.tolist() if tuple(widths) not in known], dtype=np.int64)
    return random_state.permutation(new)[:LARGE_ROUND]


def _evaluate(bench: Workbench, data: dict[str, Any], name: str, plans: IntArray, total: int, deadline: float) -> None:
    """Add the accuracies of plans to a recording, until the time is over; what they share is computed once."""
    started, before = time.monotonic(), len(data["correct"])
    for first in range(0, len(plans), FLIGHT):
        flight = plans[first : first + FLIGHT]
        assert bench.parcel is not None  # classification has one
        found = scorer.scores(bench.parcel, [bench.plan(row) for row in flight], bench.protocol, [()] * len(flight))
        if failed := next((score.error for score in found if score.metric is None), None):
            raise SystemExit(f"a plan cannot be evaluated: {failed}")
        data["correct"] += [round(float(score.metric or 0) * data["val_images"]) for score in found]
        if "widths" in data:
            data["widths"] += flight.tolist()
        _save(name, data)
        done = len(data["correct"])
        each_s = (time.monotonic() - started) / (done - before)
        print(
            f"{name}: {done} of {total}, {each_s:.2f} s each, {each_s * (total - done) / 60:.0f} min left", flush=True
        )
        if time.monotonic() > deadline:
            return


def _load(name: str, bench: Workbench) -> dict[str, Any]:
    """A recording as far as there is one.

    Raises:
        SystemExit: it was made of other images or weights.
    """
    about = {
        "val_images": VAL_IMAGES,
        "bn_images": min(BN_IMAGES, bench.problem.evaluation.search_bn_images),
        "dtype": "float32" if bench.dtype is None else str(bench.dtype).removeprefix("torch."),
        "data_digest": bench.data.digest,
        "weights_digest": training.weights_digest(bench.dense),
    }
    if not has(name):
        return {**about, "commit": commit(), "conditions": conditions(), "correct": []}
    found: dict[str, Any] = json.loads((DATA / f"resnet20_{name}.json").read_text())
    other = [key for key, value in about.items() if found[key] != value]
    if other:
        raise SystemExit(f"resnet20_{name}.json has another {', '.join(other)}: go on with the same, or move it away")
    return found


def _save(name: str, data: dict[str, Any]) -> None:
    DATA.mkdir(exist_ok=True)
    path = DATA / f"resnet20_{name}.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps(data, separators=(",", ":")) + "\n")
    os.replace(part, path)
