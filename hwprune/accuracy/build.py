"""From a problem brought to life to what scores its candidates."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hwprune.accuracy.scorer import Origin, Scorer
from hwprune.config import Problem
from hwprune.datasets.data import Data
from hwprune.pruning.plan import Groups
from hwprune.tasks.base import EVALUATION_BATCH, BaseTask, Batch, Task
from hwprune.training import weights_digest

#: Raise it when a protocol's numbers change though its facts do not.
PROTOCOL_VERSION = 1

#: Images of a training batch that BatchNorm statistics are taken on.
TRAIN_BATCH = 128

#: Images are kept, decoded and normalized, if they need no more than this.
KEPT_BYTES = 1 << 30


def scorer_of(problem: Problem, data: Data, task: Task, dense: nn.Module, groups: Groups) -> Scorer | None:
    """Scorer of a problem's candidates; None for tasks that are no ``BaseTask``, and for more images than are kept."""
    settings = problem.evaluation
    val_images = min(settings.val_images or task.size("val"), task.size("val"))
    pixels = int(np.prod(data.input_shape))
    if not isinstance(task, BaseTask) or 4 * pixels * (val_images + settings.bn_images) > KEPT_BYTES:
        return None
    train: list[Batch] = []
    if settings.bn_images:
        train = list(task.batches("train", TRAIN_BATCH, shuffle_seed=settings.seed, limit=settings.bn_images))
    val = _shuffled(list(task.batches("val", EVALUATION_BATCH, limit=val_images)), settings.seed)
    return Scorer(Origin(problem.network, problem.task, data, groups), dense, train, val)


def _shuffled(batches: Sequence[Batch], seed: int) -> list[Batch]:
    """The same images in an order drawn once, in batches of almost equal size; as they are if targets are no tensors.

    The first batches are a random part of the split then, whatever order its files have.
    """
    if not all(isinstance(targets, Tensor) for _, targets in batches):
        return list(batches)
    images, targets = (torch.cat([batch[part] for batch in batches]) for part in (0, 1))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    count = len(batches)
    return [
        (images[chosen].contiguous(memory_format=torch.channels_last), targets[chosen])
        for chosen in torch.tensor_split(order, count)
    ]


def facts_of(problem: Problem, data: Data, task: Task, dense: nn.Module, scorer: Scorer) -> dict[str, Any]:
    """All that an accuracy depends on beside plan and protocol, as plain data."""
    settings = problem.evaluation
    return {
        "version": PROTOCOL_VERSION,
        "network": problem.network,
        "weights": weights_digest(dense),
        "groups": groups_digest(scorer.origin.groups),
        "task": problem.task,
        "metric": task.metric.name,
        "data": data.digest,
        "normalization": str(data.normalization),
        "input_shape": list(data.input_shape),
        "split": "val",
        "images": sum(len(images) for images, _ in scorer.val),
        "seed": settings.seed,
        "folded": scorer.program is not None,
    }


def groups_digest(groups: Groups) -> str:
    """SHA-256 of what plans of these groups mean: every place where a unit's channels lie."""
    found = hashlib.sha256()
    for group in groups:
        found.update(f"{group.name} {group.size}\n".encode())
        for member in group.members:
            found.update(f"{member.module} {member.side} {member.indices.shape}\n".encode() + member.indices.tobytes())
    return found.hexdigest()
