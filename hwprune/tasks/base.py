"""What a task is, and a base that leaves a new one with a loss and a score to write.

A segmenter::

    class Segmentation(BaseTask):
        metric = Metric("mean_iou", higher_is_better=True)

        def loss(self, outputs, batch):
            return cross_entropy(outputs, batch[1])

        def score(self, results):
            confusion = sum(confusion_matrix(outputs.argmax(1), targets) for outputs, (_, targets) in results)
            return mean_iou(confusion)

    def build(data):
        return Segmentation(data)

Named ``my_package.my_module:build`` in a config, it is pruned, measured and exported by the same commands.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from hwprune.datasets.data import Data, Split
from hwprune.errors import DataError
from hwprune.tasks.precision import autocast

SplitName = Literal["train", "val", "test"]

#: Images and their targets; targets may be of any kind that the task's loss and score read.
Batch = tuple[Tensor, Any]

#: Small enough for the processor's caches: larger batches score fewer images a second.
EVALUATION_BATCH = 128


@dataclass(frozen=True)
class Metric:
    """What a task is scored by.

    Attributes:
        name: as in reports, ``top1``.
        higher_is_better: whether more is better.
        unit: "" for a fraction in [0, 1] or another bare number.
    """

    name: str
    higher_is_better: bool
    unit: str = ""


class Task(Protocol):
    """What a network is for: its data, loss and metric.

    Attributes:
        metric: what networks are scored by.
        needs_logits: its outputs are class logits ``(n, num_classes)``, as distillation and some methods need them.
    """

    metric: Metric
    needs_logits: bool

    def example_input(self, batch_size: int = 1) -> Tensor:
        """An input of the right shape, for tracing."""
        ...

    def size(self, split: SplitName) -> int:
        """Number of images of a split."""
        ...

    def batches(
        self,
        split: SplitName,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        augment: bool = False,
        limit: int | None = None,
    ) -> Iterator[Batch]:
        """Batches of a split; see :meth:`hwprune.datasets.data.Split.batches`."""
        ...

    def forward(self, module: nn.Module, batch: Batch) -> Any:
        """Outputs of the network, in float32."""
        ...

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Scalar that training minimizes."""
        ...

    def evaluate(
        self, module: nn.Module, split: SplitName, *, limit: int | None = None, dtype: torch.dtype | None = None
    ) -> float:
        """Value of the metric over the first ``limit`` images of a split, computed in ``dtype`` (None: float32)."""
        ...

    def error(self, metric_value: float) -> float:
        """What a search minimizes."""
        ...


class BaseTask(ABC):
    """A task of which only loss and score are left to say."""

    metric: Metric
    needs_logits = False

    def __init__(self, data: Data) -> None:
        self.data = data

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Scalar that training minimizes."""

    @abstractmethod
    def score(self, results: Iterable[tuple[Any, Batch]]) -> float:
        """Value of the metric over the outputs of all batches; each is computed when it is asked for."""

    def right(self, outputs: Any, batch: Batch) -> int | None:
        """Images of a batch whose outputs are right, where the metric is their share of all images; else None.

        A task that counts lets a search give up candidates that are surely worse before they have seen all images.
        """
        return None

    def error(self, metric_value: float) -> float:
        """``1 - value`` where more is better, which suits fractions; the value itself where less is better."""
        return 1 - metric_value if self.metric.higher_is_better else metric_value

    def example_input(self, batch_size: int = 1) -> Tensor:
        """Zeros of the data's shape."""
        return torch.zeros(batch_size, *self.data.input_shape)

    def size(self, split: SplitName) -> int:
        """Number of images of a split."""
        return len(self._split(split))

    def batches(
        self,
        split: SplitName,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        augment: bool = False,
        limit: int | None = None,
    ) -> Iterator[Batch]:
        """Batches of a split, channels last in memory.

        Raises:
            DataError: a batch is not of the data's own shape.
        """
        source = self._split(split)
        for inputs, targets in source.batches(batch_size, shuffle_seed=shuffle_seed, augment=augment, limit=limit):
            if tuple(inputs.shape[1:]) != tuple(self.data.input_shape):
                raise DataError(
                    f"a batch of {split} has shape {tuple(inputs.shape)}, but one image has {self.data.input_shape}: "
                    "correct the data's input_shape or its batches"
                )
            # oneDNN's convolutions are half again as fast on channels last, and twice as fast in bfloat16.
            yield inputs.contiguous(memory_format=torch.channels_last), targets

    def forward(self, module: nn.Module, batch: Batch) -> Any:
        """Outputs of the network on the batch's images, in float32.

        Raises:
            DataError: the network cannot take images of this shape.
        """
        try:
            return _as_float(module(batch[0]))
        except RuntimeError as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(
                f"the network cannot take a batch of shape {tuple(batch[0].shape)} ({reason}): "
                "give it images of its own size and channels"
            ) from error

    def evaluate(
        self, module: nn.Module, split: SplitName, *, limit: int | None = None, dtype: torch.dtype | None = None
    ) -> float:
        """Value of the metric over the first ``limit`` images of a split, computed in ``dtype`` (None: float32)."""
        training = module.training
        module.eval()
        try:
            with torch.inference_mode():
                return self.score(self._results(module, split, limit, dtype))
        finally:
            module.train(training)

    def _split(self, name: SplitName) -> Split:
        return {"train": self.data.train, "val": self.data.val, "test": self.data.test}[name]

    def _results(
        self, module: nn.Module, split: SplitName, limit: int | None, dtype: torch.dtype | None
    ) -> Iterator[tuple[Any, Batch]]:
        for batch in self.batches(split, EVALUATION_BATCH, limit=limit):
            with autocast(dtype):
                outputs = self.forward(module, batch)
            yield outputs, batch


def _as_float(outputs: Any) -> Any:
    """Outputs with every tensor in float32, so that losses are never taken in a short format."""
    if isinstance(outputs, Tensor):
        return outputs.float()
    if isinstance(outputs, dict):
        return {key: _as_float(value) for key, value in outputs.items()}
    if isinstance(outputs, tuple | list):
        return tuple(_as_float(value) for value in outputs)
    return outputs
