"""Classification of images: top-1 and cross entropy.

::

    task: classification
"""

from collections.abc import Iterable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from hwprune.datasets.data import Data
from hwprune.errors import DataError
from hwprune.tasks.base import BaseTask, Batch, Metric


class Classification(BaseTask):
    """One class an image; the metric is the share of images whose largest logit is the right one."""

    metric = Metric("top1", higher_is_better=True)
    needs_logits = True

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Cross entropy of ``(n, num_classes)`` logits."""
        self._check(outputs, batch[1])
        return F.cross_entropy(outputs, batch[1])

    def score(self, results: Iterable[tuple[Any, Batch]]) -> float:
        """Top-1, in [0, 1]."""
        right = seen = 0
        for logits, batch in results:
            right += self.right(logits, batch)
            seen += len(batch[1])
        return right / seen

    def right(self, outputs: Any, batch: Batch) -> int:
        """Images whose largest logit is the right one."""
        self._check(outputs, batch[1])
        return int((outputs.argmax(1) == batch[1]).sum())

    def _check(self, logits: Any, targets: Tensor) -> None:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if shape != (len(targets), self.data.num_classes):
            raise DataError(
                f"the network returns {shape} for {len(targets)} images of {self.data.num_classes} classes: "
                "give it one output a class, or name another task"
            )
        if targets.shape != (len(targets),):
            raise DataError(
                f"targets have shape {tuple(targets.shape)}, expected one class an image: name another task"
            )


def build(data: Data) -> Classification:
    """Classification of ``data``."""
    return Classification(data)
