"""Networks of the fronts fine-tuned alike: chosen by validation, reported on the test split."""

from __future__ import annotations

from typing import Any

from hwprune import training
from hwprune.experiments.finetune import settings
from hwprune.experiments.workbench import Workbench
from hwprune.pruning.plan import PruningPlan
from prunings.entries import Entry
from prunings.runs import Setting, kept


def finetune_one(setting: Setting, network: str, entry: Entry, name: str) -> dict[str, float]:
    """One kept network of an entry's first run, trained on with the dense one as teacher."""
    problem = setting.whole(setting.problem(network, entry))
    bench, folder = Workbench.open(problem), setting.folder(network, entry, 0)
    told = kept(folder)[name]
    plan = PruningPlan.from_dict(told["plan"])
    module = bench.slicer.cut(plan)
    training.load_weights(module, folder / f"{name}.safetensors")
    checkpoint = training.Checkpoint(folder / f"{name}.checkpoint")
    with (
        training.held_zeros(module, bench.slicer.weight_masks(plan)),
        setting.console.progress(problem.finetune.epochs, f"fine-tuning {network} {entry.name} {name}") as steps,
    ):
        training.finetune(
            module,
            bench.task,
            settings(problem),
            teacher=bench.dense,
            progress=lambda _: steps.advance(),
            checkpoint=checkpoint,
        )
    checkpoint.remove()
    module.eval()
    return {
        "val_error_inherited": told["row"]["error"],
        "val_error": 1 - bench.task.evaluate(module, "val", dtype=bench.dtype),
        "test_error": 1 - bench.task.evaluate(module, "test", dtype=bench.dtype),
        "share": told["share"],
    }


def missing(setting: Setting, network: str, entry: Entry, record: dict[str, Any]) -> list[str]:
    """Kept networks of an entry's first run that are not fine-tuned yet."""
    return [name for name in kept(setting.folder(network, entry, 0)) if name not in record.get("finetuned", {})]
