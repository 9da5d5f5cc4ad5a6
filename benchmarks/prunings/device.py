"""What the device costs: its model, made once, that searches run on without it; and what their fronts take on it."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from conditions import commit, conditions

from hwprune.compilation.targets import CpuTarget
from hwprune.config import Problem
from hwprune.experiments.calibration import latency_model
from hwprune.experiments.candidates import linked_job
from hwprune.experiments.devices import LOCAL, find
from hwprune.experiments.home import Home
from hwprune.experiments.progress import Console
from hwprune.experiments.session import open_session
from hwprune.experiments.workbench import Workbench
from hwprune.pruning.plan import PruningPlan
from hwprune.training import load_weights
from latency_models.network_model import LatencyModel

DATA = Path(__file__).resolve().parents[1] / "data"
#: A list of nothing but numbers, over as many lines as it has.
NUMBERS = re.compile(r"\[\s[-+.\deE,\s]+\]")
#: Networks that are measured in turns, the dense one among them, before results are written.
TURN = 24
#: Turns that a network is measured in at most, until a measurement can be trusted.
TURNS_MAX = 3


@dataclass(frozen=True)
class Profiled:
    """A device's model of one network.

    Attributes:
        target: what it compiles for.
        model: predicts latencies.
        cpu: name of its processor.
    """

    target: CpuTarget
    model: LatencyModel
    cpu: str

    @classmethod
    @functools.cache
    def read(cls, network: str) -> Profiled:
        """The model of a network.

        Raises:
            SystemExit: there is none yet.
        """
        path = _path(network)
        if not path.exists():
            raise SystemExit(f"no {path.name}: run 'python benchmarks/pruning.py --profile --network {network}' first")
        told = json.loads(path.read_text())
        target = CpuTarget.from_dict(told["target"], told["threads"])
        return cls(target, LatencyModel.from_json(told["model"]), told["conditions"]["cpu"])


def profile(network: str, problem: Problem, home: Home, console: Console) -> None:
    """Profile this computer for a network, and keep the model where searches find it."""
    device = find(home, LOCAL)
    bench = Workbench.open(problem, CpuTarget.from_dict(device.target, device.threads))
    with open_session(home, device, console) as session:
        model = latency_model(session, bench, console)
    told = {
        "target": device.target,
        "threads": device.threads,
        "device": device.description,
        "commit": commit(),
        "conditions": conditions(),
        "model": model.to_json(),
    }
    write_json(_path(network), told, indent=None)


def measured(
    problem: Problem, home: Home, console: Console, widths: Sequence[Sequence[int]]
) -> Iterator[dict[str, float | None]]:
    """Latencies of networks by their widths as text, turn by turn, in ms; None where none can be trusted.

    Which channels a network keeps makes no difference, only how many. The dense network takes part in every turn.
    """
    device = find(home, LOCAL)
    bench = Workbench.open(problem, CpuTarget.from_dict(device.target, device.threads))
    dense = [int(size) for size in bench.groups.sizes]
    todo = {key_of(row): list(row) for row in widths if list(row) != dense}
    tries = dict.fromkeys(todo, 0)
    with open_session(home, device, console) as session:
        while todo:
            turn = {key_of(dense): dense, **dict(list(todo.items())[: TURN - 1])}
            plans = [bench.plan(np.array(row)) for row in turn.values()]
            found = session.measure_candidates(bench, plans, max_age_s=0)
            told: dict[str, float | None] = {}
            for key, measurement in zip(turn, found, strict=True):
                is_good = measurement.error is None and measurement.trust != "C"
                tries[key] = tries.get(key, 0) + 1
                if is_good or (tries[key] >= TURNS_MAX and key != key_of(dense)):
                    told[key] = measurement.latency_ms if is_good else None
                    todo.pop(key, None)
                elif key in todo:
                    todo[key] = todo.pop(key)  # again, behind all others
            yield told


def measured_files(
    problem: Problem, home: Home, console: Console, points: Iterable[tuple[dict[str, Any], Path]]
) -> Iterator[float | None]:
    """Latencies of networks by plan and file of weights, in ms, the dense network's first; None where not trusted.

    Single weights that are zero are left out by sparse kernels where these were measured to be faster.
    """
    device = find(home, LOCAL)
    bench = Workbench.open(problem, CpuTarget.from_dict(device.target, device.threads))
    modules = [bench.dense]
    for plan, path in points:
        modules.append(bench.slicer.cut(PruningPlan.from_dict(plan)))
        load_weights(modules[-1], path)
    with open_session(home, device, console) as session:
        jobs = [linked_job(session.compiler, bench, module.eval()) for module in modules]
        for found in session.measurer.networks(jobs, final=True):
            yield found.latency_ms if found.error is None and found.trust != "C" else None


def key_of(widths: Iterable[int]) -> str:
    """Widths as a key of JSON objects."""
    return " ".join(map(str, widths))


def write_json(path: Path, told: Any, *, indent: int | None = 1) -> None:
    """Write a file whole or not at all; a list of numbers is one line of it."""
    path.parent.mkdir(exist_ok=True)
    draft = path.with_suffix(".part")
    text = json.dumps(told, indent=indent, sort_keys=True)
    draft.write_text(NUMBERS.sub(lambda found: " ".join(found[0].split()), text) + "\n")
    draft.replace(path)


def _path(network: str) -> Path:
    return DATA / f"pruning_{network}.json"
