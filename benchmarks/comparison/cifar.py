"""ResNets on the JPEG copy of CIFAR-10, from the data folder beside the checkout; never a part of the product."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from conditions import print_result

from hwprune.config import Problem

#: Of the pixels that the weights were trained on.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def problem_or_exit(benchmark: str, depth: int, **evaluation: Any) -> Problem:
    """ResNet-``depth`` with trained weights; ends the benchmark, well, where the data folder is absent."""
    shared = Path(os.environ.get("HWPRUNE_SHARED", Path(__file__).parents[3] / "shared")) / "data"
    if not (shared / "cifar10_jpeg.npz").exists():
        reason = f"no images and weights at {shared}: set HWPRUNE_SHARED to the shared folder"
        print(reason)
        print_result({"benchmark": benchmark, "skipped": reason})
        raise SystemExit(0)
    return Problem.model_validate(
        {
            "network": {"name": "resnet_cifar", "depth": depth},
            "weights": str(shared / "weights" / f"resnet{depth}.safetensors"),
            "data": {"name": "arrays", "path": str(_images(shared)), "mean": MEAN, "std": STD},
            "objectives": ["error", "macs", "params"],
            "evaluation": {"threads": 1, **evaluation},
        }
    )


def _images(shared: Path) -> Path:
    """The images as arrays, unpacked once in a temporary folder."""
    path = Path(tempfile.gettempdir()) / "hwprune-benchmarks" / "cifar10.npz"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        draft = path.with_name(f"{os.getpid()}.npz")
        subprocess.run([sys.executable, str(shared / "unpack.py"), str(draft)], check=True, stdout=subprocess.DEVNULL)
        draft.replace(path)
    return path
