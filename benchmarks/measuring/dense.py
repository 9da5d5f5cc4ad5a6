"""Dense networks on this computer: as problems, planned for a device, and with a session in a home of its own."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from device_agents.registry import Device
from hwprune.cli.console import Console, configure_logging
from hwprune.compilation.targets import CpuTarget
from hwprune.config import Problem
from hwprune.experiments.devices import LOCAL, find
from hwprune.experiments.home import Home
from hwprune.experiments.session import DeviceSession, open_session
from hwprune.experiments.workbench import Workbench
from hwprune.pruning.plan import PruningPlan
from hwprune.search.space import SearchSpace

RESNET_20 = {"name": "resnet_cifar", "depth": 20}

#: Narrowest width of random networks, as a share of the dense one.
NARROWEST = 0.1


def told_console() -> Console:
    """A console whose messages and progress reach standard error, as those of a command do."""
    configure_logging(0, None)
    return Console()


def problem_of(network: Mapping[str, Any], pixels: int = 32) -> Problem:
    """A network on square images of three channels; no image is looked at."""
    return Problem.model_validate(
        {
            "network": dict(network),
            "data": {"name": "digits", "size": pixels, "channels": 3},
            "evaluation": {"threads": 1},
        }
    )


def planned(device: Device, network: Mapping[str, Any] = RESNET_20, pixels: int = 32) -> Workbench:
    """A dense network with random weights, planned for a device."""
    target = CpuTarget.from_dict(device.target, device.threads)
    return Workbench.open(problem_of(network, pixels), target, with_weights=False)


@contextlib.contextmanager
def open_local(network: Mapping[str, Any] = RESNET_20) -> Iterator[tuple[DeviceSession, Workbench]]:
    """This computer at work on a network of 32x32x3 images, in a home that is gone afterwards."""
    console = told_console()
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        device = find(home, LOCAL)
        bench = planned(device, network)
        with open_session(home, device, console) as session:
            yield session, bench


def random_plans(bench: Workbench, count: int) -> list[PruningPlan]:
    """Prunings as a search's first generation has them, widths uniform from 10 to 100 %."""
    space = SearchSpace.of(bench.groups.sizes.tolist(), round_to=1, pruning_ratio_max=1 - NARROWEST)
    genomes = np.random.default_rng(0).random((count, space.n_var)) * space.upper
    return [bench.plan(widths) for widths in space.decode(genomes)]


def random_widths(bench: Workbench, count: int, seed: int) -> np.ndarray:
    """``(count, G)`` widths, any integer, log-uniform from 10 to 100 %."""
    sizes = np.array(bench.groups.sizes)
    drawn = np.rint(sizes * NARROWEST ** np.random.default_rng(seed).random((count, len(sizes))))
    return np.maximum(drawn, 1).astype(np.int64)
