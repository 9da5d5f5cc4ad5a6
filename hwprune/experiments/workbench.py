"""Everything one problem needs, built once: data, dense network, channel groups, fused graph, arithmetic of shapes."""

from __future__ import annotations

import copy
import dataclasses
import functools
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hwprune import datasets, networks, tasks, training
from hwprune.accuracy.build import TRAIN_BATCH, scorer_of
from hwprune.accuracy.scorer import Protocol, Scorer, unpack
from hwprune.compilation.graph import Graph, trace
from hwprune.compilation.targets import CpuTarget
from hwprune.config import PRETRAINED, Problem
from hwprune.datasets.data import Data
from hwprune.errors import WeightsError
from hwprune.executors import Parcel
from hwprune.fronts import FrontRow
from hwprune.measurement.memory import MemoryArithmetic
from hwprune.measurement.shapes import ShapeArithmetic
from hwprune.objectives.macs import layer_macs
from hwprune.pruning import importance
from hwprune.pruning.groups import build_groups
from hwprune.pruning.plan import Groups, PruningPlan
from hwprune.pruning.structured import Slicer
from hwprune.records import Measurement
from hwprune.tasks.base import SplitName, Task
from hwprune.tasks.precision import fast_dtype
from latency_models.shapes import NetworkShapes

IntArray = npt.NDArray[np.int64]
Widths = Sequence[int] | IntArray

#: Sets of trained weights that are kept in memory where they are in files, too.
ADOPTED_MAX = 8

#: Training images that importance criteria with gradients look at.
_CRITERION_IMAGES = 512


@dataclass
class Workbench:
    """A problem brought to life; what is costly to build is built when it is first needed.

    Attributes:
        problem: the resolved config.
        data: the data set.
        task: the task over it.
        dense: the unpruned network, in evaluation mode.
        target: CPU that networks are planned for; this computer's where None.
        float32: candidates are scored in float32 even where the problem lets the processor choose.
        weights_folder: where weights are kept that a search trains; only in memory where None.
    """

    problem: Problem
    data: Data
    task: Task
    dense: nn.Module
    target: CpuTarget | None = None
    float32: bool = False
    weights_folder: Path | None = None
    _adopted: dict[str, Slicer] = field(default_factory=dict, repr=False)
    _trained: tuple[str, Scorer] | None = field(default=None, repr=False)

    @classmethod
    def open(cls, problem: Problem, target: CpuTarget | None = None, *, with_weights: bool = True) -> Workbench:
        """Load data and network.

        Args:
            problem: what to load.
            target: CPU that networks are planned for.
            with_weights: load the trained weights; without, the network keeps those that it is built with.

        Raises:
            ConfigError: a name, an option or a path of the problem is wrong.
            DataError: the data set is missing, or its batches are not of the network's shape.
            WeightsError: trained weights are needed and the problem names none, or they do not fit.
        """
        torch.set_num_threads(problem.evaluation.threads)
        if with_weights and problem.weights is None:
            raise WeightsError(
                "the problem names no weights: run 'hwprune train PROBLEM.yaml --out FILE.safetensors', "
                "then add --set weights=FILE.safetensors"
            )
        brings_weights = problem.network.get("weights") or ":" in problem.network["name"]
        if with_weights and problem.weights == PRETRAINED and not brings_weights:
            raise WeightsError(
                f"{problem.network['name']} comes without trained weights: name a file, or add weights to the "
                "network, as in {name: torchvision_zoo, arch: resnet18, weights: DEFAULT}"
            )
        data = datasets.load(problem.data)
        task = tasks.build(problem.task, data)
        torch.manual_seed(problem.seed)
        dense = networks.build(problem.network, data.num_classes, data.input_shape[0])
        if with_weights and problem.weights is not None and problem.weights != PRETRAINED:
            training.load_weights(dense, problem.weights)
        bench = cls(problem, data, task, dense.eval(), target)
        bench._try_batches()
        return bench

    def _try_batches(self) -> None:
        """Let the dense network take an image of each split that is used, before anything costs time."""
        splits: tuple[SplitName, ...] = ("train", "val")
        with torch.inference_mode():
            for split in splits:
                for batch in self.task.batches(split, 1, limit=1):
                    self.task.forward(self.dense, batch)

    @functools.cached_property
    def example_input(self) -> torch.Tensor:
        """One batch of inputs at the measured batch size."""
        return self.task.example_input(self.problem.batch_size)

    @functools.cached_property
    def groups(self) -> Groups:
        """Coupled channels that may be pruned."""
        pruning = self.problem.pruning
        return build_groups(
            self.dense, self.example_input, prune_residual=pruning.prune_residual, protect=pruning.protect
        )

    @functools.cached_property
    def slicer(self) -> Slicer:
        """Cuts candidates out of the dense network."""
        return Slicer(self.dense, self.groups)

    @functools.cached_property
    def graph(self) -> Graph:
        """The dense network's fused graph."""
        graph = trace(self.dense, self.example_input, self.target)
        return dataclasses.replace(graph, sparse=self.problem.pruning.sparse_kernels)

    @functools.cached_property
    def arithmetic(self) -> ShapeArithmetic:
        """Layer shapes of many candidates at once."""
        return ShapeArithmetic.learn(lambda widths: self.graph.shapes(self.candidate(widths)), self.groups.sizes)

    @functools.cached_property
    def memory(self) -> MemoryArithmetic:
        """Planned memory of many candidates at once."""
        return MemoryArithmetic.learn(
            lambda widths: self.graph.plan(self.candidate(widths)), self.arithmetic, self.graph.target
        )

    @functools.cached_property
    def scores(self) -> list[npt.NDArray[np.float64]]:
        """Importance of every group's units, by the problem's criterion; higher for those to keep."""
        problem = self.problem
        batches = self.task.batches("train", 64, shuffle_seed=problem.seed, limit=_CRITERION_IMAGES)
        return importance.scores(
            problem.pruning.criterion, self.dense, self.groups, batches, loss=self._loss, seed=problem.seed
        )

    @functools.cached_property
    def ranking(self) -> importance.Ranking:
        """Units of every group by falling importance."""
        return importance.Ranking(self.scores)

    def _loss(self, module: nn.Module, batch: Any) -> torch.Tensor:
        return self.task.loss(self.task.forward(module, batch), batch)

    @property
    def seed(self) -> int:
        """Of everything random."""
        return self.problem.seed

    @functools.cached_property
    def val_images(self) -> int:
        """Validation images that candidates are judged on."""
        limit, images = self.problem.evaluation.val_images, self.task.size("val")
        return images if limit is None else min(limit, images)

    def plan(self, widths: Widths) -> PruningPlan:
        """The plan that keeps the most important ``widths[g]`` units of every group."""
        return self.ranking.plan(widths)

    def candidate(self, widths: Widths) -> nn.Module:
        """The pruned network of these widths, with inherited weights."""
        return self.slicer.cut(self.plan(widths))

    def cut(self, plan: PruningPlan) -> nn.Module:
        """The pruned network with the weights that the plan names.

        Raises:
            WeightsError: the search that trained them has not kept them here.
        """
        if not plan.weights:
            return self.slicer.cut(plan)
        if self.adopted(plan.weights) is None:
            raise self._not_kept(plan.weights)
        return self._adopted[plan.weights].cut(plan)

    def copy(self) -> nn.Module:
        """A copy of the dense network, to be trained."""
        return copy.deepcopy(self.dense)

    def _not_kept(self, weights: str) -> WeightsError:
        where = f"the weights {weights[:12]} that a network inherits are not in {self.weights_folder}"
        return WeightsError(f"{where}: start the search again")

    def adopt(self, module: nn.Module) -> str:
        """Keep further trained weights of the dense network's shapes; their digest."""
        digest = training.weights_digest(module)
        if digest not in self._adopted:
            if self.weights_folder is not None:
                training.save_weights(module, self.weights_folder / f"{digest}.safetensors")
            self._hold(digest, module)
        return digest

    def adopted(self, weights: str) -> nn.Module | None:
        """The dense network with adopted weights; None where they are not kept here."""
        if weights not in self._adopted:
            path = None if self.weights_folder is None else self.weights_folder / f"{weights}.safetensors"
            if path is None or not path.exists():
                return None
            module = copy.deepcopy(self.dense)
            training.load_weights(module, path)
            self._hold(weights, module)
        return self._adopted[weights].module

    def _hold(self, weights: str, module: nn.Module) -> None:
        """Keep adopted weights in memory; the oldest go where they are in files, too."""
        self._adopted[weights] = Slicer(module.eval(), self.groups)
        if self.weights_folder is not None and len(self._adopted) > ADOPTED_MAX:
            del self._adopted[next(iter(self._adopted))]

    @property
    def dtype(self) -> torch.dtype | None:
        """Number format in which candidates are scored; None for float32."""
        settings = {"auto": None if self.float32 else fast_dtype(), "float32": None, "bfloat16": torch.bfloat16}
        return settings[self.problem.evaluation.dtype]

    @property
    def protocol(self) -> Protocol:
        """How candidates are scored in a search."""
        return Protocol(self.dtype or torch.float32, -(-self.problem.evaluation.search_bn_images // TRAIN_BATCH))

    @functools.cached_property
    def parcel(self) -> Parcel | None:
        """Images, weights and groups in files that every process maps; None where there is no scorer."""
        built = scorer_of(self.problem, self.data, self.task, self.dense, self.groups)
        if built is None:
            return None
        folder = tempfile.mkdtemp(prefix="hwprune-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return built.pack(Path(folder))

    @property
    def scorer(self) -> Scorer | None:
        """Scores candidates fast; None for tasks that only score themselves, and for more images than can be kept."""
        return None if self.parcel is None else unpack(self.parcel)

    def scorer_for(self, plan: PruningPlan) -> Scorer | None:
        """What scores a plan here: weights that a search has trained on make another network of it."""
        if not plan.weights or self.scorer is None:
            return self.scorer
        if self._trained is None or self._trained[0] != plan.weights:
            module = self.adopted(plan.weights)
            if module is None:
                raise self._not_kept(plan.weights)
            self._trained = plan.weights, replace(self.scorer, dense=module)
        return self._trained[1]

    @functools.cached_property
    def batchnorm(self) -> training.BatchNormEstimator | None:
        """Re-estimates the BatchNorm statistics of candidates; None where the problem wants none."""
        settings = self.problem.evaluation
        if not settings.bn_images:
            return None
        return training.BatchNormEstimator(self.task, images=settings.bn_images, seed=settings.seed)

    def inherit(self, plan: PruningPlan) -> nn.Module:
        """The pruned network with inherited weights and BatchNorm statistics of its own, in float32."""
        scorer = self.scorer_for(plan)
        if scorer is not None:
            return scorer.network(plan)
        module = self.cut(plan)
        if self.batchnorm is not None and plan != PruningPlan.dense(self.groups):
            self.batchnorm(module)
        return module

    def accuracy(self, plan: PruningPlan) -> float:
        """The task's metric on the validation split: the expensive part of one true evaluation.

        Raises:
            RuntimeError: the candidate cannot be scored.
        """
        scorer = self.scorer_for(plan)
        if scorer is None:
            settings = self.problem.evaluation
            return self.task.evaluate(self.inherit(plan), "val", limit=settings.val_images, dtype=self.dtype)
        score = scorer.score(plan, self.protocol)
        if score.metric is None:
            raise RuntimeError(score.error)
        return score.metric

    def macs(self, plan: PruningPlan) -> float:
        """Multiply-adds of one image on the host, where weights that are zero are multiplied like all others."""
        return float(layer_macs(self.arithmetic(np.array([plan.widths]))).sum())

    def passes(self, plan: PruningPlan) -> float:
        """Multiply-adds of a true evaluation, BatchNorm's images included, of which the dense network's pass is 1."""
        settings = self.problem.evaluation
        images = min(settings.bn_images, settings.search_bn_images, self.task.size("train"))
        return self.macs(plan) / self._dense_macs * (1 + images / self.val_images)

    @functools.cached_property
    def _dense_macs(self) -> float:
        return self.macs(PruningPlan.dense(self.groups))

    def exact(self, plan: PruningPlan, names: Sequence[str]) -> dict[str, float]:
        """Those of the named objectives whose values the widths alone do not tell, or not exactly."""
        values: dict[str, float] = {}
        if "peak_memory" in names:
            planned = self.graph.memory(self.cut(plan))
            values["peak_memory"] = float(planned.arena_bytes + planned.weights_bytes)
        if plan.mask is not None:
            params = float(self.slicer.parameter_count(plan))
            density = params / float(self.slicer.parameter_counts(self.groups.sizes)[0])
            values |= {"params": params, "density": density, "macs": self._compiled_macs(plan)}
        return {name: value for name, value in values.items() if name in names}

    def _compiled_macs(self, plan: PruningPlan) -> float:
        """Multiply-adds of one image in the compiled network, whose sparse kernels leave out zeros."""
        if plan.mask is None:
            return self.macs(plan)
        return float(layer_macs(NetworkShapes.of(self.graph.shapes(self.cut(plan)))).sum())

    def row(self, id: str, plan: PruningPlan, measurement: Measurement, **facts: Any) -> FrontRow:
        """Row of a measured candidate."""
        return FrontRow.of(
            id,
            measurement,
            macs=int(self._compiled_macs(plan)),
            params=self.slicer.parameter_count(plan),
            widths=plan.widths,
            plan_key=plan.key,
            **facts,
        )
