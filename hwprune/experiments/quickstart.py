"""Everything once: this computer, handwritten digits, ResNet-20; no download."""

from __future__ import annotations

import time
from pathlib import Path

from hwprune.config import Problem
from hwprune.experiments.devices import LOCAL, find
from hwprune.experiments.finetune import finetune
from hwprune.experiments.home import Home
from hwprune.experiments.progress import Console
from hwprune.experiments.run import RunReport, search
from hwprune.experiments.train import train
from hwprune.units import format_duration

#: Budget and schedules that show a front in minutes; configs/problems/digits-resnet20.yaml has the same problem.
PROBLEM = {
    "network": {"name": "resnet_cifar", "depth": 20},
    "data": {"name": "digits", "size": 16, "channels": 3},
    "pruning": {"round_to": 2},
    "budget": {"evaluations": 40},
    "training": {"epochs": 16, "lr": 0.1, "batch_size": 64},
    "finetune": {"epochs": 2, "lr": 0.02, "batch_size": 64},
}


def quickstart(home: Home, runs_folder: Path, console: Console) -> RunReport:
    """Register this computer, train ResNet-20 on digits, profile, search with HAMP, fine-tune the front.

    Raises:
        HwpruneError: something on the way failed; what was done so far is kept.
        DeviceError: the agent cannot be started.
    """
    started = time.perf_counter()
    console.info(f"device 'local': {find(home, LOCAL).description.get('cpu_model')}")
    runs_folder.mkdir(parents=True, exist_ok=True)
    weights = runs_folder / "digits-resnet20.safetensors"
    problem = Problem.model_validate({**PROBLEM, "weights": str(weights)})
    if not weights.exists():
        trained = train(problem, weights, console)
        console.info(f"trained ResNet-20 on 16x16 digits: {trained.test:.1%} of the test images are right")
    report = search(
        problem,
        home=home,
        device_name=LOCAL,
        method="hamp",
        method_settings={},
        runs_folder=runs_folder,
        console=console,
    )
    front = finetune(report.folder, (), console)
    console.info(f"all done in {format_duration(time.perf_counter() - started)}")
    return RunReport(report.run_id, report.folder, front)
