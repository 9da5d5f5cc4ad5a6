"""SMOEA's own comparison: VGG-14 at 16.56 % of its parameters against the dense network, both trained equally long."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwprune import training
from hwprune.config import Problem
from hwprune.experiments.finetune import settings
from hwprune.experiments.workbench import Workbench
from hwprune.pruning.plan import PruningPlan
from prunings.device import Profiled, write_json
from prunings.entries import Entry
from prunings.runs import Setting, searched
from prunings.tuned import train_on

#: Share of the parameters that the paper's network has left, and what it lost, in points.
SHARE, PAPERS_LOSS = 0.1656, 0.28
#: Epochs after each of the five groups, and at the end; the dense network gets as many.
GROUP_EPOCHS, LAST_EPOCHS, GROUPS = 2, 10, 5
#: Largest learning rate of both sides. They train by the same rule: on labels alone, as the dense side has no teacher.
LR = 0.02
#: The search ends with its last group, not with a budget.
UNBOUNDED_PASSES = 1e6

ENTRY = Entry(
    "smoea_vgg14",
    "smoea",
    "method",
    {
        "pick": "budget",
        "group_share": (0.13, 0.14, 0.6, 0.95, 0.95),
        "group_ft_epochs": GROUP_EPOCHS,
        "group_ft_lr": LR,
        "group_ft_distillation": 0.0,
        "pop_size": 24,
        "n_gen": 20,
        "calib_images": 512,
    },
    networks=("vgg14",),
)


def pruned(setting: Setting, seed: int) -> dict[str, Any]:
    """Prune, with fine-tuning between the groups, and fine-tune; top-1 on the test split.

    Each of the two steps is kept when it has ended, the search evaluation by evaluation and trainings epoch by epoch:
    an interrupted call goes on where it was.
    """
    folder, problem = _at(setting, seed)
    found = _once(folder / "pruned.json", lambda: _pruned(setting, problem, folder))
    if "reason" in found:
        return found
    tuned = _once(folder / "tuned.json", lambda: {"test": _tuned(setting, problem, folder, found)})
    shares = {key: found[key] for key in ("params_share", "predicted_latency_share")}
    return {"test": tuned["test"], **shares}


def dense(setting: Setting, seed: int) -> dict[str, Any]:
    """Train the dense network on as long as the pruned one, epoch by epoch; top-1 on the test split."""
    folder, problem = _at(setting, seed)
    bench, epochs = Workbench.open(problem), GROUPS * GROUP_EPOCHS + LAST_EPOCHS
    with setting.console.progress(epochs, "training the dense VGG-14") as steps:
        schedule = replace(settings(problem), epochs=epochs, lr=LR)
        training.train(
            bench.dense,
            bench.task,
            schedule,
            progress=lambda _: steps.advance(),
            checkpoint=training.Checkpoint(folder / "dense.checkpoint"),
        )
    return {"test": float(bench.task.evaluate(bench.dense, "test")), "epochs": epochs}


#: Both sides; each is kept by itself, so that two processes can work on them, or two sessions on different machines.
SIDES: dict[str, Callable[[Setting, int], dict[str, Any]]] = {"pruned": pruned, "dense": dense}


def told(sides: Mapping[str, Mapping[str, Any]]) -> str:
    """One line on a comparison, as far as it has got."""
    if "reason" in sides.get("pruned", {}):
        return str(sides["pruned"]["reason"])
    missing = [name for name in SIDES if name not in sides]
    if missing:
        return f"{' and '.join(missing)} not there yet"
    small, whole = sides["pruned"], sides["dense"]
    return (
        f"{small['params_share']:.2%} of the parameters, {100 * (whole['test'] - small['test']):+.2f} points lost "
        f"({whole['test']:.4f} to {small['test']:.4f}; the paper: {SHARE:.2%}, {PAPERS_LOSS})"
    )


def _at(setting: Setting, seed: int) -> tuple[Path, Problem]:
    folder = setting.folder("vgg14", ENTRY, seed)
    folder.mkdir(parents=True, exist_ok=True)
    return folder, setting.problem("vgg14", ENTRY, seed)


def _pruned(setting: Setting, problem: Problem, folder: Path) -> dict[str, Any]:
    """The most accurate network that is small enough, its weights in a file."""
    profiled = Profiled.read("vgg14")
    found = searched(setting, problem, ENTRY, folder, profiled, UNBOUNDED_PASSES)
    bench = found.bench
    dense_params = bench.slicer.parameter_count(PruningPlan.dense(bench.groups))
    plans = [found.archive.plan(each.plan_key) for each in found.archive.front()]
    share = {plan.key: bench.slicer.parameter_count(plan) / dense_params for plan in plans}
    small = [plan for plan in plans if share[plan.key] <= SHARE]
    if not small:
        return {"reason": f"no point of the front has {SHARE:.2%} of the parameters or fewer"}
    best = max(small, key=bench.accuracy)
    training.save_weights(bench.inherit(best), folder / "pruned.safetensors")
    dense_ms, best_ms = profiled.model.predict(bench.arithmetic([bench.groups.sizes.tolist(), best.widths]))[0]
    return {
        "plan": best.as_dict(),
        "params_share": share[best.key],
        "predicted_latency_share": float(best_ms / dense_ms),
    }


def _tuned(setting: Setting, problem: Problem, folder: Path, pruned: dict[str, Any]) -> float:
    """Top-1 on the test split after the last epochs."""
    bench = Workbench.open(problem)
    module = bench.slicer.cut(PruningPlan.from_dict({**pruned["plan"], "weights": ""}))
    training.load_weights(module, folder / "pruned.safetensors")
    schedule = replace(settings(problem), epochs=LAST_EPOCHS, lr=LR, distillation=0.0)
    train_on(setting, bench, module, schedule, folder / "tuned.checkpoint", "fine-tuning the pruned VGG-14")
    return float(bench.task.evaluate(module, "test"))


def _once(path: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``work`` gives, or gave in an earlier call."""
    if not path.exists():
        write_json(path, work())
    found: dict[str, Any] = json.loads(path.read_text())
    return found
