"""SMOEA's own comparison: VGG-14 at 16.56 % of its parameters against the dense network, both trained equally long."""

from __future__ import annotations

from typing import Any

from hwprune import training
from hwprune.experiments import run
from hwprune.experiments.finetune import finetune, settings
from hwprune.experiments.workbench import Workbench
from prunings.entries import Entry
from prunings.runs import DEVICE, Setting

#: Share of the parameters that the paper's network has left, and what it lost, in points.
SHARE, PAPERS_LOSS = 0.1656, 0.28
#: Epochs after each of the five groups, and at the end; the dense network gets as many.
GROUP_EPOCHS, LAST_EPOCHS, GROUPS = 2, 10, 5

ENTRY = Entry(
    "smoea_vgg14",
    "smoea",
    "method",
    {
        "pick": "budget",
        "group_share": 0.16,
        "group_ft_epochs": GROUP_EPOCHS,
        "pop_size": 24,
        "n_gen": 20,
        "calib_images": 512,
    },
    networks=("vgg14",),
)


def compare(setting: Setting, seed: int) -> dict[str, Any]:
    """Prune, fine-tune, train the dense network on; errors on the test split."""
    problem = setting.problem("vgg14", ENTRY, seed, dense_passes=10**6)
    tuned = problem.finetune.model_copy(update={"epochs": LAST_EPOCHS})
    problem = problem.model_copy(update={"finetune": tuned})
    report = run.search(
        problem,
        home=setting.home,
        device_name=DEVICE,
        method=ENTRY.method,
        method_settings=dict(ENTRY.settings),
        runs_folder=setting.runs,
        console=setting.console,
    )
    dense_params = sum(parameter.numel() for parameter in Workbench.open(problem).dense.parameters())
    small = [row for row in report.front.points if row.params <= SHARE * dense_params]
    if not small:
        return {"seed": seed, "reason": f"no point of the front has {SHARE:.2%} of the parameters or fewer"}
    chosen = max(small, key=lambda row: row.val_metric)
    front = finetune(report.folder, [chosen.id], setting.console)
    point = next(row for row in front.points if row.id == chosen.id)
    bench = Workbench.open(problem)
    epochs = GROUPS * GROUP_EPOCHS + LAST_EPOCHS
    schedule = settings(problem.model_copy(update={"finetune": tuned.model_copy(update={"epochs": epochs})}))
    training.train(bench.dense, bench.task, schedule)
    dense_test = bench.task.evaluate(bench.dense, "test")
    assert point.test_metric is not None  # fine-tuned points have one
    return {
        "seed": seed,
        "run": report.folder.name,
        "params_share": point.params / dense_params,
        "dense_test": dense_test,
        "pruned_test": point.test_metric,
        "loss_points": 100 * (dense_test - point.test_metric),
        "latency_share": point.latency_ms / front.dense.latency_ms if front.dense else None,
    }
