"""The table: which methods run on which network, with which settings and how many seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hwprune import plugins

#: Network -> its spec, the file of its weights, and whether all entries run on it.
NETWORKS: dict[str, dict[str, Any]] = {
    "resnet20": {"name": "resnet_cifar", "depth": 20},
    "resnet56": {"name": "resnet_cifar", "depth": 56},
    "vgg14": {"name": "vgg_cifar", "depth": 14},
}
#: Seeds of a structured entry on each network; 10 and more are compared by a signed-rank test.
SEEDS = {"resnet20": 10, "resnet56": 2, "vgg14": 2}
#: Seeds of an entry that prunes single weights.
WEIGHT_SEEDS = {"resnet20": 5, "resnet56": 2}

Kind = Literal["method", "control", "ablation"]


@dataclass(frozen=True)
class Entry:
    """One row of the table.

    Attributes:
        name: in the results.
        method: plug-in.
        kind: what it is compared as.
        settings: of the method.
        problem: keys of the problem that differ, by section.
        networks: where it runs.
        by_weight: it prunes single weights: its hypervolume is one of error and density.
    """

    name: str
    method: str
    kind: Kind
    settings: Mapping[str, Any] = field(default_factory=dict)
    problem: Mapping[str, Any] = field(default_factory=dict)
    networks: tuple[str, ...] = ("resnet20",)
    by_weight: bool = False

    def seeds(self, network: str) -> int:
        """Runs on a network; a sweep draws nothing and runs once."""
        if self.method in ("uniform", "global_magnitude", "netadapt", "torch_pruning"):
            return 1
        return (WEIGHT_SEEDS if self.by_weight else SEEDS)[network]

    @property
    def by_widths(self) -> bool:
        """Whether its networks follow from their widths and the criterion alone."""
        return self.method in ("hamp", "nsga2", "random", "netadapt", "uniform")

    @property
    def is_there(self) -> bool:
        """Whether this checkout has the method."""
        return self.method in plugins.names("hwprune.search.methods")


def _criterion(name: str) -> dict[str, Any]:
    return {"pruning": {"criterion": name}}


ALL = tuple(NETWORKS)

#: EMO-DIR on the objectives that are compared, with the encoding of the others; chosen on seed 101, which is not shown.
EMO_DIR: dict[str, Any] = {
    "encoding": "layer_ratio",
    "minimize": "problem",
    "proposals": "model",
    "joint_eval_max": 120,
    "drop_max": 22.0,
}

STRUCTURED = (
    Entry("hamp", "hamp", "method", networks=ALL),
    Entry("smoea", "smoea", "method", {"tau_drop": (1.0, 3.0, 8.0)}, networks=("resnet20", "vgg14")),
    Entry("emo_dir", "emo_dir", "method", EMO_DIR, networks=("resnet20", "resnet56")),
    Entry("nsga2", "nsga2", "control", networks=ALL),
    Entry("random", "random", "control"),
    Entry("netadapt", "netadapt", "control", networks=ALL),
    # On ResNet-56 the budget holds seven iterations with the official step.
    Entry("netadapt_coarse", "netadapt", "control", {"initial_reduction": 0.1}, networks=("resnet56", "vgg14")),
    Entry("torch_pruning", "torch_pruning", "control"),
    Entry("uniform_l1", "uniform", "control", problem=_criterion("l1_norm"), networks=ALL),
    Entry("uniform_l2", "uniform", "control", problem=_criterion("l2_norm")),
    Entry("uniform_fpgm", "uniform", "control", problem=_criterion("fpgm")),
    Entry("hamp_nsga2_selection", "hamp", "ablation", {"selection": "nsga2"}),
    Entry("hamp_no_local_search", "hamp", "ablation", {"ls_starts": 0}),
    Entry("hamp_no_preselection", "hamp", "ablation", {"preselect_factor": 1}),
    Entry("emo_dir_published", "emo_dir", "ablation"),
    Entry(
        "emo_dir_variation",
        "emo_dir",
        "ablation",
        {**EMO_DIR, "proposals": "variation", "joint_eval_max": 80},
        networks=("resnet20", "resnet56"),
    ),
    Entry("emo_dir_filter_bits", "emo_dir", "ablation", {**EMO_DIR, "encoding": "filter_bits"}),
    Entry("emo_dir_rank_threshold", "emo_dir", "ablation", {**EMO_DIR, "joint": "rank_threshold"}),
    Entry("emo_dir_local_accuracy", "emo_dir", "ablation", {**EMO_DIR, "joint": "local_accuracy"}),
    Entry("emo_dir_random", "emo_dir", "ablation", {**EMO_DIR, "joint": "random"}),
)

#: Smallest density of everything that prunes single weights.
DENSITY_MIN = 0.03
#: Hierarchical pruning with 160 evaluations instead of 4,080; chosen on seed 101, which is not shown.
FEW_EVALUATIONS: dict[str, Any] = {
    "q_max": 1 - DENSITY_MIN,
    "density_min": DENSITY_MIN,
    "light_drop_max": 85.0,
    "core": "free",
    "importance": ("global_rank", "lamp"),
    "spacing": "geometric",
    "temperature": 1e-4,
    "coarse_share": 0.1,
    "pop_fine": 143,
}
_UNIFORM: dict[str, Any] = {**FEW_EVALUATIONS, "importance": "uniform", "beta": 0.0}

_WEIGHTS: dict[str, Any] = {"networks": ("resnet20", "resnet56"), "by_weight": True}
BY_WEIGHT = (
    Entry("hierarchical", "hierarchical", "method", FEW_EVALUATIONS, **_WEIGHTS),
    Entry("hierarchical_phase1", "hierarchical", "control", {**FEW_EVALUATIONS, "coarse_share": 1.0}, **_WEIGHTS),
    Entry("hierarchical_uniform", "hierarchical", "ablation", _UNIFORM, **_WEIGHTS),
    Entry("hierarchical_flat", "hierarchical", "control", {**FEW_EVALUATIONS, "coarse_share": 0.0}, **_WEIGHTS),
    Entry("hierarchical_published", "hierarchical", "ablation", by_weight=True),
    Entry("global_magnitude", "global_magnitude", "control", {"density_min": DENSITY_MIN}, **_WEIGHTS),
)

ENTRIES = {entry.name: entry for entry in (*STRUCTURED, *BY_WEIGHT)}
