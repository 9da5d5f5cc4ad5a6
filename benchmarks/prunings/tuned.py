"""Networks of the fronts fine-tuned alike: chosen by validation, reported on the test split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from hwprune import training
from hwprune.experiments.finetune import settings
from hwprune.experiments.workbench import Workbench
from hwprune.pruning.plan import PruningPlan
from prunings import results
from prunings.entries import Entry
from prunings.runs import Setting, kept


def train_on(
    setting: Setting,
    bench: Workbench,
    module: nn.Module,
    schedule: training.TrainingSettings,
    path: Path,
    told: str,
    masks: Mapping[str, npt.NDArray[np.bool_]] | None = None,
) -> training.Checkpoint:
    """Train ``module`` on with the dense network as teacher, behind the last whole epoch that ``path`` holds.

    Args:
        setting: where everything is.
        bench: of the network.
        module: the pruned network; it is changed.
        schedule: of the training.
        path: of its checkpoint.
        told: what the progress is called.
        masks: weights that stay, by parameter; those that are dropped stay zero.

    Returns:
        The checkpoint, to be removed when the result is kept.
    """
    checkpoint = training.Checkpoint(path)
    with training.held_zeros(module, masks or {}), setting.console.progress(schedule.epochs, told) as steps:
        training.finetune(
            module,
            bench.task,
            schedule,
            teacher=bench.dense,
            progress=lambda _: steps.advance(),
            checkpoint=checkpoint,
        )
    module.eval()
    return checkpoint


def finetune_one(
    setting: Setting, network: str, entry: Entry, name: str
) -> tuple[dict[str, float], training.Checkpoint]:
    """One kept network of an entry's first run, fine-tuned; what came out, and the checkpoint to remove."""
    problem = setting.whole(setting.problem(network, entry))
    bench, folder = Workbench.open(problem), setting.folder(network, entry, 0)
    told = kept(folder)[name]
    plan = PruningPlan.from_dict(told["plan"])
    module = bench.slicer.cut(plan)
    training.load_weights(module, folder / f"{name}.safetensors")
    checkpoint = train_on(
        setting,
        bench,
        module,
        settings(problem),
        folder / f"{name}.checkpoint",
        f"fine-tuning {network} {entry.name} {name}",
        bench.slicer.weight_masks(plan),
    )
    return {
        "val_error_inherited": told["row"]["error"],
        "val_error": 1 - bench.task.evaluate(module, "val", dtype=bench.dtype),
        "test_error": 1 - bench.task.evaluate(module, "test", dtype=bench.dtype),
        "share": told["share"],
        "epochs": problem.finetune.epochs,
    }, checkpoint


def missing(setting: Setting, network: str, entry: Entry) -> list[str]:
    """Kept networks of an entry's first run that are not fine-tuned yet."""
    done = results.read()["runs"][network][entry.name]["0"].get("finetuned", {})
    return [name for name in kept(setting.folder(network, entry, 0)) if name not in done]
