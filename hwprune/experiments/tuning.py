"""Fine-tuning one point in any process, on images that all processes share."""

from __future__ import annotations

import functools
import hashlib
import pickle
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from hwprune import networks, tasks, training
from hwprune.datasets import mapped
from hwprune.datasets.data import Data
from hwprune.errors import ConfigError
from hwprune.executors import Parcel
from hwprune.pruning.plan import Groups, PruningPlan
from hwprune.pruning.structured import Slicer
from hwprune.tasks.base import Task

#: Images that processes share take no more than this.
SHARED_BYTES = 8 << 30


@dataclass(frozen=True)
class Origin:
    """What a process builds networks and task from, as plain data.

    Attributes:
        network: as the problem names it.
        task: as the problem names it.
        groups: what was pruned.
        val_images: validation images that metrics are taken on; None for all.
    """

    network: Mapping[str, Any]
    task: Mapping[str, Any]
    groups: Groups
    val_images: int | None


@dataclass(frozen=True)
class Tuned:
    """A point that was trained on.

    Attributes:
        weights: as a safetensors file.
        val: metric on the validation split.
        test: metric on the test split.
    """

    weights: bytes
    val: float
    test: float


def pack(origin: Origin, dense: nn.Module, data: Data, folder: Path) -> Parcel:
    """Write dense network, images and all else into files that other processes can open.

    Raises:
        ConfigError: the images cannot be shared.
    """
    size = mapped.size_bytes(data)
    if size is None or size > SHARED_BYTES:
        told = "they are no images with a target each" if size is None else f"they take {size >> 30} GiB"
        raise ConfigError(f"these data cannot be shared by processes ({told}): leave --workers and --scheduler out")
    mapped.save(data, folder)
    training.save_weights(dense, folder / "dense.safetensors")
    (folder / "origin.pickle").write_bytes(pickle.dumps(origin))
    content = f"{data.digest} {training.weights_digest(dense)}".encode() + (folder / "origin.pickle").read_bytes()
    return Parcel(hashlib.sha256(content).hexdigest(), folder)


def tune(parcel: Parcel, plan: PruningPlan, weights: bytes, settings: training.TrainingSettings) -> Tuned:
    """Train a point on, the dense network being its teacher."""
    origin, dense, task = _opened(parcel)
    slicer = Slicer(dense, origin.groups)
    module = slicer.cut(plan)
    with tempfile.TemporaryDirectory(prefix="hwprune-") as scratch:
        path = Path(scratch) / "weights.safetensors"
        path.write_bytes(weights)
        training.load_weights(module, path)
    with training.held_zeros(module, slicer.weight_masks(plan)):
        training.finetune(module, task, settings, teacher=dense)
    return tuned(module.eval(), plan, task, origin.val_images)


def tuned(module: nn.Module, plan: PruningPlan, task: Task, val_images: int | None) -> Tuned:
    """What there is to keep of a trained point."""
    with tempfile.TemporaryDirectory(prefix="hwprune-") as scratch:
        path = Path(scratch) / "weights.safetensors"
        training.save_weights(module, path, sparse=plan.mask is not None)
        weights = path.read_bytes()
    return Tuned(weights, task.evaluate(module, "val", limit=val_images), task.evaluate(module, "test"))


@functools.lru_cache(maxsize=1)
def _opened(parcel: Parcel) -> tuple[Origin, nn.Module, Task]:
    folder = parcel.open()
    origin: Origin = pickle.loads((folder / "origin.pickle").read_bytes())
    data = mapped.load(folder)
    dense = networks.build(origin.network, data.num_classes, data.input_shape[0])
    dense.load_state_dict(safetensors.torch.load_file(folder / "dense.safetensors"), assign=True)
    return origin, dense.eval(), tasks.build(dict(origin.task), data)
