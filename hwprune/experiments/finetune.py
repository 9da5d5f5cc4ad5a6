"""The points of a front trained on, with the dense network as teacher; all by one schedule."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path

from hwprune import training
from hwprune.config import Problem, RunConfig
from hwprune.errors import UnknownNameError
from hwprune.experiments import tuning
from hwprune.experiments.judging import ALONE, Crew
from hwprune.experiments.points import PointFiles
from hwprune.experiments.progress import Console, Steps
from hwprune.experiments.provenance import RunFolder, write_bytes
from hwprune.experiments.tuning import Tuned
from hwprune.experiments.workbench import Workbench
from hwprune.fronts import Front, FrontRow


def finetune(run_folder: Path, points: Sequence[str], console: Console, crew: Crew = ALONE) -> Front:
    """Fine-tune points of a run, take their metrics anew, and write both into the run.

    A point that was fine-tuned before is left as it is, and one that was begun in this process goes on behind its last
    whole epoch, so that an interrupted call goes on when it is repeated.

    Args:
        run_folder: the run.
        points: ids of its front; all of them if empty.
        console: who is told how it goes.
        crew: where points are trained, each by one process.

    Raises:
        RunError: the folder is no run.
        UnknownNameError: the front has no such point.
        ConfigError: the data cannot be shared by several processes.
    """
    run = RunFolder.open(run_folder)
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
    tune_all = _here if crew == ALONE else functools.partial(_by_crew, crew)
    with (
        console.progress(len(todo) * problem.finetune.epochs, "fine-tuning") as steps,
        contextlib.closing(tune_all(bench, PointFiles(run), todo, steps)) as results,
    ):
        for row, tuned in zip(todo, results, strict=True):
            front = _keep(run, front, row, tuned)
    return front


def _here(bench: Workbench, files: PointFiles, rows: Sequence[FrontRow], steps: Steps) -> Generator[Tuned, None, None]:
    """Train points one after the other in this process."""
    problem, teacher = bench.problem, training.weights_digest(bench.dense)
    for row in rows:
        plan = files.plan(row.id)
        module = bench.slicer.cut(plan)
        training.load_weights(module, files.weights(row.id))
        checkpoint = training.Checkpoint(files.checkpoint(row.id), f"{bench.data.digest} {teacher}")
        with training.held_zeros(module, bench.slicer.weight_masks(plan)):
            training.finetune(
                module,
                bench.task,
                settings(problem),
                teacher=bench.dense,
                progress=_told(steps, row.id),
                checkpoint=checkpoint,
            )
        yield tuning.tuned(module.eval(), plan, bench.task, problem.evaluation.val_images)
        checkpoint.remove()


def _by_crew(
    crew: Crew, bench: Workbench, files: PointFiles, rows: Sequence[FrontRow], steps: Steps
) -> Generator[Tuned, None, None]:
    """Train points at once, as many as there are workers."""
    problem = bench.problem
    origin = tuning.Origin(problem.network, problem.task, bench.groups, problem.evaluation.val_images)
    with crew.team(problem) as team, tempfile.TemporaryDirectory(prefix="hwprune-") as folder:
        parcel = tuning.pack(origin, bench.dense, bench.data, Path(folder))
        team.send(parcel)
        futures = [
            team.submit(tuning.tune, parcel, files.plan(row.id), files.weights(row.id).read_bytes(), settings(problem))
            for row in rows
        ]
        for row, future in zip(rows, futures, strict=True):
            yield future.result()
            steps.advance(problem.finetune.epochs, row.id)


def _keep(run: RunFolder, front: Front, row: FrontRow, tuned: Tuned) -> Front:
    """Write a trained point into its run."""
    better = replace(
        row,
        finetuned=True,
        val_metric_inherited=row.val_metric,
        test_metric_inherited=row.test_metric,
        val_metric=tuned.val,
        test_metric=tuned.test,
    )
    write_bytes(PointFiles(run).weights(row.id), tuned.weights)
    front = _with(front, better)
    run.write_json("front.json", front.as_dict())
    run.log("finetuned", point=row.id, val=better.val_metric, test=better.test_metric)
    return front


def _told(steps: Steps, point: str) -> Callable[[training.Epoch], None]:
    return lambda epoch: steps.advance(1, f"{point}, loss {epoch.loss:.3f}")


def settings(problem: Problem) -> training.TrainingSettings:
    """The one schedule for all points."""
    return training.TrainingSettings(**problem.finetune.model_dump(), seed=problem.seed)


def _with(front: Front, row: FrontRow) -> Front:
    return replace(front, rows=tuple(row if row.id == old.id else old for old in front.rows))
