"""The dense network of a problem: trained, scored, saved."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from hwprune import training
from hwprune.config import Problem
from hwprune.experiments.progress import Console
from hwprune.experiments.workbench import Workbench


@dataclass(frozen=True)
class TrainReport:
    """What a training came to.

    Attributes:
        path: file of the weights.
        metric_name: what the task is scored by.
        val: metric on the validation split.
        test: metric on the test split.
        seconds: wall time.
    """

    path: Path
    metric_name: str
    val: float
    test: float
    seconds: float


def train(problem: Problem, out_path: Path, console: Console) -> TrainReport:
    """Train the problem's network from random weights and write ``out_path``.

    How far it is stands in ``OUT.checkpoint`` beside it until then: repeated after an interruption, it goes on.

    Raises:
        DataError: the data set is missing or of the wrong shape.
        WeightsError: the file cannot be written.
    """
    started = time.perf_counter()
    bench = Workbench.open(problem, with_weights=False)
    settings = training.TrainingSettings(**problem.training.model_dump(), seed=problem.seed)
    checkpoint = training.Checkpoint(out_path.with_name(f"{out_path.name}.checkpoint"), bench.data.digest)
    with console.progress(settings.epochs, "training") as steps:
        training.train(
            bench.dense,
            bench.task,
            settings,
            progress=lambda epoch: steps.advance(1, f"loss {epoch.loss:.3f}"),
            checkpoint=checkpoint,
        )
    training.save_weights(bench.dense.eval(), out_path)
    checkpoint.remove()
    val, test = (bench.task.evaluate(bench.dense, split) for split in ("val", "test"))
    return TrainReport(out_path, bench.task.metric.name, val, test, time.perf_counter() - started)
