"""What the benchmarks of whole pruning runs are told alike: where images, weights and state are; how they end."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from device_agents.errors import DeviceError
from hwprune.cli.console import Console
from hwprune.errors import HwpruneError
from hwprune.experiments.home import Home
from prunings.runs import Setting


def add_to(parser: argparse.ArgumentParser) -> None:
    """Options of every such benchmark."""
    shared = Path(os.environ.get("HWPRUNE_SHARED", "data"))
    parser.add_argument("--images", type=Path, default=Path("data/cifar10"), help="folder a split, or .npz of arrays")
    parser.add_argument("--weights", type=Path, default=shared / "data" / "weights", help="folder of .safetensors")
    parser.add_argument("--state", type=Path, default=Path("runs/pruning"), help="what is needed between calls")
    parser.add_argument("--workers", type=int, default=1, help="processes that score candidates [1]")
    parser.add_argument("--epochs", type=int, default=2, help="of fine-tuning [2]")
    parser.add_argument("--resume", action="store_true", help="go on; what is there is always kept")


def setting_of(arguments: argparse.Namespace, state: Path) -> Setting:
    """What the options say, with another folder for state where they are not to touch their own."""
    return Setting(
        images=arguments.images,
        weights=arguments.weights,
        home=Home((state / "home").absolute()),
        runs=state / "runs",
        console=Console(),
        epochs=arguments.epochs,
        workers=arguments.workers,
    )


@contextlib.contextmanager
def resumable() -> Iterator[None]:
    """Block that is left with one line where it is interrupted or refused; what it has finished is kept."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on from here")
    except (HwpruneError, DeviceError) as error:
        sys.exit(f"{error}")
