"""The points of a front trained on, with the dense network as teacher; all by one schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from hwprune import training
from hwprune.config import Problem, RunConfig
from hwprune.errors import UnknownNameError
from hwprune.experiments.points import PointFiles
from hwprune.experiments.progress import Console, Steps
from hwprune.experiments.provenance import RunFolder
from hwprune.experiments.workbench import Workbench
from hwprune.records import Front, FrontRow


def finetune(run_folder: Path, points: Sequence[str], console: Console) -> Front:
    """Fine-tune points of a run, take their metrics anew, and write both into the run.

    A point that was fine-tuned before is left as it is, so that an interrupted call goes on when it is repeated.

    Args:
        run_folder: the run.
        points: ids of its front; all of them if empty.
        console: who is told how it goes.

    Raises:
        RunError: the folder is no run.
        UnknownNameError: the front has no such point.
    """
    run = RunFolder.open(run_folder)
    files = PointFiles(run)
    front = Front.from_dict(run.read_json("front.json"))
    known = {row.id: row for row in front.points}
    for point in points:
        if point not in known:
            raise UnknownNameError("point", point, known)
    todo = [row for row in known.values() if not row.finetuned and (not points or row.id in points)]
    problem = RunConfig.load(run.path / "config.yaml").problem
    if not todo or problem.finetune.epochs == 0:
        console.info("nothing to fine-tune")
        return front
    bench = Workbench.open(problem)
    with console.progress(len(todo) * problem.finetune.epochs, "fine-tuning") as steps:
        for row in todo:
            plan = files.plan(row.id)
            module = bench.slicer.cut(plan)
            training.load_weights(module, files.weights(row.id))
            with training.held_zeros(module, bench.slicer.weight_masks(plan)):
                told = _told(steps, row.id)
                training.finetune(module, bench.task, settings(problem), teacher=bench.dense, progress=told)
            module.eval()
            tuned = replace(
                row,
                finetuned=True,
                val_metric_inherited=row.val_metric,
                test_metric_inherited=row.test_metric,
                val_metric=bench.task.evaluate(module, "val", limit=problem.evaluation.val_images),
                test_metric=bench.task.evaluate(module, "test"),
            )
            training.save_weights(module, files.weights(row.id), sparse=plan.mask is not None)
            front = _with(front, tuned)
            run.write_json("front.json", front.as_dict())
            run.log("finetuned", point=row.id, val=tuned.val_metric, test=tuned.test_metric)
    return front


def _told(steps: Steps, point: str) -> Callable[[training.Epoch], None]:
    return lambda epoch: steps.advance(1, f"{point}, loss {epoch.loss:.3f}")


def settings(problem: Problem) -> training.TrainingSettings:
    """The one schedule for all points."""
    return training.TrainingSettings(**problem.finetune.model_dump(), seed=problem.seed)


def _with(front: Front, row: FrontRow) -> Front:
    return replace(front, rows=tuple(row if row.id == old.id else old for old in front.rows))
