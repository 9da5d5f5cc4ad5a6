"""Training by gradient descent, and fine-tuning with or without a teacher."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprune.errors import ConfigError
from hwprune.tasks.base import Batch, Task
from hwprune.tasks.precision import autocast, fast_dtype
from hwprune.training.checkpoint import Checkpoint

#: lr of the warm-up epochs, as a share of the full one.
WARMUP_SHARE = 0.1


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained: SGD with momentum. The defaults bring ResNet-20 on 16x16 digits to 98.5 %.

    Attributes:
        epochs: passes over the training images.
        lr: largest learning rate.
        batch_size: images of a step; a last smaller batch is left out unless it is the only one.
        momentum: of SGD, in [0, 1).
        nesterov: Nesterov's momentum instead of the plain one.
        weight_decay: added to the gradient, times the weight.
        schedule: ``cosine`` falls to zero with every step; ``step`` multiplies by ``gamma`` at each milestone.
        milestones: shares of all epochs, in (0, 1).
        gamma: factor of ``step``.
        warmup_epochs: first epochs, at a tenth of ``lr``.
        augment: vary the images as their data set says.
        precision: ``auto`` computes in bfloat16 where the processor is faster with it.
        distillation: weight of the teacher in the loss, in [0, 1]; without a teacher it is 0.
        temperature: both teacher's and student's logits are divided by it, above 0.
        seed: draws batches and augmentation; the same seed gives the same weights on the same machine.
    """

    epochs: int = 20
    lr: float = 0.1
    batch_size: int = 64
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: tuple[float, ...] = (0.3, 0.6, 0.8)
    gamma: float = 0.2
    warmup_epochs: int = 1
    augment: bool = True
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    distillation: float = 0.5
    temperature: float = 4.0
    seed: int = 0

    @property
    def dtype(self) -> torch.dtype | None:
        """Format of convolutions and products; None for float32."""
        return {"auto": fast_dtype(), "float32": None, "bfloat16": torch.bfloat16}[self.precision]

    def lr_at(self, epoch: float) -> float:
        """Learning rate at ``epoch``, a number in [0, epochs) whose fraction is the progress within the epoch."""
        if epoch < self.warmup_epochs < self.epochs:
            return self.lr * WARMUP_SHARE
        if self.schedule == "step":
            return self.lr * self.gamma ** sum(epoch >= share * self.epochs for share in self.milestones)
        start = self.warmup_epochs if self.warmup_epochs < self.epochs else 0
        return self.lr * 0.5 * (1 + math.cos(math.pi * (epoch - start) / (self.epochs - start)))


@dataclass(frozen=True)
class Epoch:
    """One finished epoch.

    Attributes:
        number: from 1.
        epochs: how many there will be.
        loss: mean over its steps.
        lr: learning rate at its end.
        seconds: wall time.
    """

    number: int
    epochs: int
    loss: float
    lr: float
    seconds: float


Progress = Callable[[Epoch], None]


def train(
    module: nn.Module,
    task: Task,
    settings: TrainingSettings | None = None,
    *,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Train ``module`` in place; the weights of the last epoch stay, none is chosen on any split.

    Raises:
        ConfigError: the loss stopped being a number.
        WeightsError: the checkpoint cannot be written.
    """
    fit(module, task, settings or TrainingSettings(), task.loss, progress, checkpoint)


def finetune(
    module: nn.Module,
    task: Task,
    settings: TrainingSettings,
    *,
    teacher: nn.Module | None = None,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Train a pruned ``module`` on in place, a part of the loss being its distance from ``teacher``, the dense network.

    The distance is Kullback and Leibler's between both networks' classes, after Hinton, Vinyals, Dean: Distilling the
    knowledge in a neural network (2015). Tasks without logits are fine-tuned without teacher.

    Raises:
        ConfigError: the loss stopped being a number.
        WeightsError: the checkpoint cannot be written.
    """
    if teacher is None or not task.needs_logits or settings.distillation == 0:
        return train(module, task, settings, progress=progress, checkpoint=checkpoint)
    teacher.eval()
    share, temperature = settings.distillation, settings.temperature

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad(), autocast(settings.dtype):
            aim = task.forward(teacher, batch)
        return (1 - share) * task.loss(outputs, batch) + share * distillation_loss(outputs, aim, temperature)

    fit(module, task, settings, loss, progress, checkpoint)


@contextlib.contextmanager
def held_zeros(module: nn.Module, masks: Mapping[str, npt.NDArray[np.bool_]]) -> Iterator[None]:
    """Training in the block leaves weights at zero that are dropped: their gradient is none.

    Args:
        module: a network whose dropped weights are zero.
        masks: weights that stay, by parameter and in its shape.
    """
    handles = []
    for name, mask in masks.items():
        stays = torch.from_numpy(mask.astype(np.float32))
        handles.append(module.get_parameter(name).register_hook(functools.partial(torch.mul, stays)))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Mean divergence of softened classes of ``(n, classes)`` logits, times the squared temperature.

    The square keeps the gradient's size independent of the temperature.
    """
    student = F.log_softmax(logits / temperature, 1)
    teacher = F.log_softmax(teacher_logits / temperature, 1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def fit(
    module: nn.Module,
    task: Task,
    settings: TrainingSettings,
    loss_of: Callable[[Any, Batch], Tensor],
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Train ``module`` in place with a loss of one's own: of the module's outputs, and the batch they are for.

    With a ``checkpoint`` every finished epoch is kept, and a training that was begun before goes on behind those that
    are there: ``progress`` is told of these first.

    Raises:
        ConfigError: the loss stopped being a number.
        WeightsError: the checkpoint cannot be written.
    """
    begun = checkpoint.begin(module, settings) if checkpoint else None
    module.to(memory_format=torch.channels_last)  # a tenth faster
    optimizer = torch.optim.SGD(
        module.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )
    module.train()
    try:
        with torch.random.fork_rng(devices=[]):  # layers that draw, as dropout, without touching the caller's state
            torch.manual_seed(settings.seed)
            done = [Epoch(*each) for each in begun.restore(module, optimizer)] if begun else []
            if progress:
                for finished in done:
                    progress(finished)
            for epoch in range(len(done), settings.epochs):
                started = time.perf_counter()
                loss = _epoch(module, task, settings, loss_of, optimizer, epoch)
                if not math.isfinite(loss):
                    raise ConfigError(
                        f"training diverged in epoch {epoch + 1} (loss {loss}): lower lr from {settings.lr}"
                    )
                lr, seconds = optimizer.param_groups[0]["lr"], time.perf_counter() - started
                done.append(Epoch(epoch + 1, settings.epochs, loss, lr, seconds))
                if begun:
                    begun.save(module, optimizer, [astuple(each) for each in done])
                if progress:
                    progress(done[-1])
    finally:
        module.eval()
        module.to(memory_format=torch.contiguous_format)


def _epoch(
    module: nn.Module,
    task: Task,
    settings: TrainingSettings,
    loss_of: Callable[[Any, Batch], Tensor],
    optimizer: torch.optim.Optimizer,
    epoch: int,
) -> float:
    """Mean loss of one pass over the training images."""
    size, batch_size = task.size("train"), settings.batch_size
    steps = max(1, size // batch_size)  # a small last batch would unsettle BatchNorm
    shuffle_seed = settings.seed * 1_000_003 + epoch
    batches = task.batches(
        "train", batch_size, shuffle_seed=shuffle_seed, augment=settings.augment, limit=steps * batch_size
    )
    total = 0.0
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr_at(epoch + step / steps)
        with autocast(settings.dtype):
            outputs = task.forward(module, batch)
        loss = loss_of(outputs, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.item()
    return total / steps
