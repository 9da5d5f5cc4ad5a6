"""Re-estimation of BatchNorm statistics: the cheapest way to judge a pruned network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from hwprune.tasks.base import Task
from hwprune.tasks.precision import autocast

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class BatchNormEstimator:
    """Re-estimates BatchNorm statistics on always the same training images, kept ready for many networks.

    A pruned network inherits weights, but the means and variances that its layers now see are others.

    Attributes:
        batches: the images, normalized, without augmentation.
    """

    def __init__(self, task: Task, *, images: int = 1280, batch_size: int = 128, seed: int = 0) -> None:
        self._task = task
        self.batches = list(task.batches("train", batch_size, shuffle_seed=seed, limit=images))

    def __call__(self, module: nn.Module, dtype: torch.dtype | None = None) -> None:
        """Set the statistics of ``module`` in place to the mean over the batches, computed in ``dtype``."""
        with torch.inference_mode(), autocast(dtype), estimating(module) as wanted:
            for batch in self.batches if wanted else ():
                self._task.forward(module, batch)


@contextlib.contextmanager
def estimating(module: nn.Module) -> Iterator[bool]:
    """Block whose batches set the BatchNorm statistics of ``module``, in place, to the plain mean over them.

    Yields whether there is any layer that takes them; everything else is in evaluation mode meanwhile.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, BATCH_NORMS) and layer.track_running_stats]
    training, momenta = module.training, [layer.momentum for layer in layers]
    module.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean over all batches
        layer.train()
    try:
        yield bool(layers)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        module.train(training)


def reestimate_batchnorm(
    module: nn.Module, task: Task, *, images: int = 1280, seed: int = 0, dtype: torch.dtype | None = None
) -> None:
    """Re-estimate the BatchNorm statistics of one ``module`` in place; many: keep a :class:`BatchNormEstimator`."""
    BatchNormEstimator(task, images=images, seed=seed)(module, dtype)
