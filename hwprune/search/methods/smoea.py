"""SMOEA: filters pruned progressively, one group of consecutive layers after the other, each by a search of its own.

Li, Sun, Huang, Chen. Sub-network multi-objective evolutionary algorithm for filter pruning. 2022.
https://arxiv.org/abs/2211.01957

    --method smoea --set tau_drop=[1,2,5]

Written to follow the paper's abstract: pruning is stated as a multi-objective problem on a sub-network, and groups of
convolutional layers are pruned progressively. The numbers in the code are the steps of docs/methods.md.

Choices of this implementation:
    - Groups are the layers of one resolution (VGG's pooling blocks, a residual network's stages), the deepest first.
    - A sub-network is judged by how well it reconstructs what its consumer is given (``fitness=accuracy``: by the error
      of the whole network), with BatchNorm's statistics taken from the batch, and by the share of parameters left.
    - A genome has one bit a filter; survival is NSGA-II's (``moea`` names others).
    - Of a sub-network's front the smallest member is taken whose network loses up to ``tau_drop`` points (before
      fine-tuning, BatchNorm re-estimated) against the network before this group; the front is bisected for it. Several
      tolerances make several networks, one after the other.
    - Small budgets shrink the images, the evaluations and the bisection alike; see ``CALIB_MAX`` and what follows.
    - Filters are removed physically; the network is fine-tuned in between as far as the budget holds, with the dense
      network as teacher. Multiply-adds of parts and of training count.
    - ``minimize=published``: error and parameters, whatever the problem's objectives. With ``minimize=problem`` the
      problem's own, latency among them, take the place of parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from hwprune import training
from hwprune.errors import ConfigError
from hwprune.pruning.plan import PruningPlan
from hwprune.pruning.segments import Segments
from hwprune.pruning.structured import Slicer
from hwprune.records import Evaluation
from hwprune.search.archive import Archive
from hwprune.search.compute import Compute, Part
from hwprune.search.evaluation import BudgetExhausted, SearchContext
from hwprune.search.filters import BitEncoding, Bits, FilterBits
from hwprune.search.methods.base import MethodSettings, network_of
from hwprune.search.network import PrunableNetwork
from hwprune.search.reconstruction import Reconstruction
from hwprune.search.subsearch import LocalFront, Rule, evolve

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
#: What a group keeps of its cost.
Left = Annotated[float, Field(gt=0, le=1)]

#: Evaluations of the whole network that picking a member of a front takes at most, and the share of a group's turn.
PICKS, PICK_SHARE = 8, 0.35
#: Images that reconstruction is judged on where the budget holds them, fewest, and evaluations worth more than images.
CALIB_MAX, CALIB_MIN, EVALUATIONS_WANTED = 1024, 128, 80
#: Epochs of fine-tuning after each group where the budget holds them.
EPOCHS_MAX = 20
#: Fewest evaluations that a group is worth searching with.
EVALUATIONS_MIN = 8


class Settings(MethodSettings):
    """Settings of SMOEA.

    Attributes:
        minimize: ``published`` for error and parameters, ``problem`` for the problem's objectives.
        groups: ``stages`` for the layers of one resolution, or how many consecutive ones each group has.
        order: of the groups.
        fitness: of a sub-network: ``reconstruction`` of its output, or ``accuracy`` of the whole network.
        teacher: what is reconstructed: the network before this group is pruned, or the dense one.
        calib_images: training images that reconstruction is judged on; none for 1,024, or less where the budget is
            small.
        pop_size: individuals; none for 40, or less where the budget is small.
        n_gen: most generations a group.
        crossover: of each filter by itself, or of what lies behind one point.
        cx_prob: probability of crossover.
        flip_prob: probability that a filter flips; none for 1 / number of filters.
        min_filters: fewest filters a layer keeps.
        pick: which member of a group's front is taken: the smallest that loses no more than ``tau_drop``, the ``knee``,
            or the best of up to ``group_share`` (``budget``).
        tau_drop: points on the validation split that a group may lose, before fine-tuning; several are tried in turn.
        group_share: largest share of a group's cost that stays, for ``pick=budget``; several for as many groups, in
            the order of their turns: shallow groups may have few parameters to gain and much accuracy to lose.
        group_ft_epochs: fine-tuning after each group; none for as many as half of the budget holds, up to 20.
        group_ft_lr: its largest learning rate.
        group_ft_distillation: weight of the dense network in its loss.
        moea: who survives.
    """

    minimize: Literal["published", "problem"] = "published"
    groups: Literal["stages"] | tuple[Count, ...] = "stages"
    order: Literal["deep_to_shallow", "shallow_to_deep"] = "deep_to_shallow"
    fitness: Literal["reconstruction", "accuracy"] = "reconstruction"
    teacher: Literal["current", "original"] = "current"
    calib_images: Count | None = None
    pop_size: Annotated[int, Field(ge=4)] | None = None
    n_gen: Count = 60
    crossover: Literal["uniform", "one_point"] = "uniform"
    cx_prob: Share = 0.9
    flip_prob: Share | None = None
    min_filters: Count = 1
    pick: Literal["tolerance", "knee", "budget"] = "tolerance"
    tau_drop: float | Annotated[tuple[float, ...], Field(min_length=1)] = 2.0
    group_share: Left | Annotated[tuple[Left, ...], Field(min_length=1)] | None = None
    group_ft_epochs: Annotated[int, Field(ge=0)] | None = None
    group_ft_lr: Annotated[float, Field(gt=0)] = 0.01
    group_ft_distillation: Share = 0.5
    moea: Rule = "nsga2"

    @model_validator(mode="after")
    def _has_share(self) -> Settings:
        if self.pick == "budget" and self.group_share is None:
            raise ValueError("pick=budget takes a group_share: give one in (0, 1]")
        return self

    @property
    def objectives(self) -> tuple[str, ...] | None:
        """The paper's pair, unless the problem's are wanted."""
        return ("error", "params") if self.minimize == "published" else None

    @property
    def tolerances(self) -> tuple[float, ...]:
        """Points that a group may lose, one for each network that is made."""
        return self.tau_drop if isinstance(self.tau_drop, tuple) else (self.tau_drop,)


@dataclass(frozen=True)
class _Model:
    """The network as it stands: what is left of it, and the digest of its weights."""

    plan: PruningPlan
    error: float

    def with_units(self, numbers: Sequence[int], units: Sequence[tuple[int, ...]]) -> PruningPlan:
        """The plan that keeps these units of some groups."""
        kept = list(self.plan.kept)
        for number, chosen in zip(numbers, units, strict=True):
            kept[number] = chosen
        return replace(self.plan, kept=tuple(kept))


@dataclass
class SMOEA:
    """The method; see the module's docstring."""

    settings: Settings

    def run(self, context: SearchContext) -> Archive:
        """Prune group after group, once for every tolerance, until all are done or the budget is spent."""
        network = network_of(context.problem, "smoea")
        segments = Segments(network.dense, network.task.example_input())
        chunks = self._chunks(segments.stages(network.groups), len(network.groups))  # step 1
        shares = self._shares(len(chunks))
        tolerances = self.settings.tolerances
        fronts: dict[str, LocalFront] = {}
        with context.until_spent():
            dense = context.evaluate_plans([PruningPlan.dense(network.groups)], "initial", 0)[0]
            context.end_generation(0)
            for sweep, tolerance in enumerate(tolerances):
                if dense.error is not None:
                    break
                model = _Model(PruningPlan.dense(network.groups), dense.objectives["error"])
                for step, (numbers, share) in enumerate(zip(chunks, shares, strict=True)):  # step 2
                    done = sweep * len(chunks) + step
                    task = _Group(self.settings, context, network, segments, model, numbers, share, fronts)
                    model = task.prune(tolerance, done, len(tolerances) * len(chunks) - done)
                    context.end_generation(1 + done, selection=self.settings.moea)
        return context.archive

    def _chunks(self, stages: list[list[int]], n_groups: int) -> list[list[int]]:
        """Numbers of the channel groups that are pruned together, in the order of their turns."""
        wanted = self.settings.groups
        if wanted != "stages":
            if sum(wanted) != n_groups:
                raise ConfigError(
                    f"smoea: groups adds up to {sum(wanted)}, the network has {n_groups} groups of channels: "
                    "say how many of them each group takes"
                )
            ends = np.cumsum(wanted)
            stages = [list(range(end - count, end)) for count, end in zip(wanted, ends.tolist(), strict=True)]
        return stages[::-1] if self.settings.order == "deep_to_shallow" else stages

    def _shares(self, n_groups: int) -> tuple[float, ...]:
        """Largest share of its cost that each group keeps, in the order of the turns."""
        wanted = self.settings.group_share
        if not isinstance(wanted, tuple):
            return (wanted or 1.0,) * n_groups
        if len(wanted) != n_groups:
            raise ConfigError(f"smoea: group_share has {len(wanted)} values for {n_groups} groups: give one a group")
        return wanted


@dataclass
class _Group:
    """One group's turn; ``fronts`` has those of earlier turns, which another tolerance may begin with, too."""

    settings: Settings
    context: SearchContext
    network: PrunableNetwork
    segments: Segments
    model: _Model
    numbers: list[int]
    group_share: float
    fronts: dict[str, LocalFront]

    def prune(self, tolerance: float, done: int, left: int) -> _Model:
        """The network after this group's turn.

        Args:
            tolerance: points that it may lose.
            done: turns before this one.
            left: turns that share what is left of the budget, this one included.
        """
        context, settings = self.context, self.settings
        share = context.passes_left / left
        whole = context.problem.passes(self.model.plan)
        epochs, training_passes = self._epochs(0.5 * share)
        share -= training_passes
        picks = int(np.clip(PICK_SHARE * share / whole, 1, PICKS))
        seed = int(context.random_state.integers(2**31))
        afforded = share - picks * whole
        key = f"{self.model.plan.key} {self.numbers}"
        front = self.fronts.get(key)
        if front is None and settings.fitness == "accuracy":
            front = self._by_accuracy(max(int(afforded / whole), 0), done + 1, seed)
        elif front is None:
            found = context.part(f"group {done}", lambda: self._search(afforded, done, seed))
            front = LocalFront.from_dict(found["front"])
        self.fronts[key] = front
        model = self._pick(front, tolerance, picks, done + 1) if len(front.bits) else self.model
        if epochs and model.plan.widths != self.model.plan.widths:
            return self._finetuned(model, epochs, done)
        return model

    @property
    def filters(self) -> FilterBits:
        """What the bits mean."""
        scores = tuple(self.network.scores[number] for number in self.numbers)
        least = np.minimum(self.settings.min_filters, [len(group) for group in scores])
        return FilterBits(scores, least)

    @property
    def encoding(self) -> BitEncoding:
        """Steps 2c and 2d."""
        settings = self.settings
        return BitEncoding(self.filters, settings.crossover, settings.cx_prob, settings.flip_prob)

    def _search(self, passes: float, done: int, seed: int) -> Part:
        """Steps 2a to 2f: the sub-network's front by reconstruction."""
        settings, filters = self.settings, self.filters
        judge = Reconstruction(
            self.network,
            self.segments,
            self.model.plan,
            self.numbers,
            teacher=settings.teacher,
            images=self._images(passes),
        )
        spent = judge.cached
        affordable = int((passes - spent.total) / judge.compute(self.model.plan).total)
        if affordable < EVALUATIONS_MIN:
            raise BudgetExhausted(f"too small to search a group of {len(self.numbers)} layers")

        def objectives(bits: Bits) -> FloatArray:
            nonlocal spent
            plans = [self.model.with_units(self.numbers, filters.kept(row)) for row in bits]
            costs = self._costs(plans, judge)
            errors = []
            for plan in plans:
                errors.append(judge.error(plan))
                compute = judge.compute(plan)
                spent += compute
                self.context.tell(compute.total, f"group {done + 1}, {len(filters.sizes)} layers")
            return np.column_stack([errors, costs])

        pop_size = min(_population(settings.pop_size, affordable), affordable)
        front = evolve(
            self.encoding,
            objectives,
            pop_size=pop_size,
            evaluations=pop_size * (settings.n_gen + 1),
            random_state=np.random.default_rng(seed),
            rule=settings.moea,
            may_go_on=lambda: spent.total + pop_size * judge.compute(self.model.plan).total <= passes,
        )
        return Part({"front": front.as_dict()}, spent)

    def _images(self, passes: float) -> int:
        """Images for reconstruction: as wanted, or so many that enough evaluations are left."""
        if self.settings.calib_images is not None:
            return self.settings.calib_images
        span = self.segments.span([self.network.groups[number] for number in self.numbers])
        part = self.segments.macs(self.network.cut(self.model.plan), *span)
        each = part / self.segments.macs(self.network.dense) / self.network.val_images
        return int(np.clip(passes / (EVALUATIONS_WANTED * each), CALIB_MIN, CALIB_MAX))

    def _by_accuracy(self, affordable: int, generation: int, seed: int) -> LocalFront:
        """The sub-network's front by true evaluations of the whole network."""
        settings, filters = self.settings, self.filters
        if affordable < EVALUATIONS_MIN:
            raise BudgetExhausted(f"too small to search a group of {len(self.numbers)} layers")

        def objectives(bits: Bits) -> FloatArray:
            plans = [self.model.with_units(self.numbers, filters.kept(row)) for row in bits]
            found = self.context.evaluate_plans(plans, "sub_network", generation)
            return np.column_stack([[_error(each) for each in found], self._costs(plans, None)])

        pop_size = _population(settings.pop_size, affordable)
        evaluations = min(affordable, pop_size * (settings.n_gen + 1))
        return evolve(
            self.encoding,
            objectives,
            pop_size=pop_size,
            evaluations=evaluations,
            random_state=np.random.default_rng(seed),
            rule=settings.moea,
        )

    def _costs(self, plans: Sequence[PruningPlan], judge: Reconstruction | None) -> FloatArray:
        """``(n, n_obj - 1)`` costs relative to those before this turn (step 2e)."""
        problem = self.context.problem
        if self.settings.minimize == "published" and judge is not None:
            return np.array([[judge.parameter_share(plan.widths)] for plan in plans])
        names = [name for name in problem.objectives if name != "error"]
        values = problem.cheap(np.array([plan.widths for plan in [self.model.plan, *plans]]))
        return np.column_stack([values[name][1:] / values[name][0] for name in names])

    def _pick(self, front: LocalFront, tolerance: float, picks: int, generation: int) -> _Model:
        """The member of the front that the network goes on with (step 2g), evaluated truly."""
        settings, filters = self.settings, self.filters
        order = np.argsort(front.F[:, 1], kind="stable")
        plans = [self.model.with_units(self.numbers, filters.kept(front.bits[row])) for row in order]

        def evaluated(index: int) -> Evaluation:
            return self.context.evaluate_plans([plans[index]], "picked", generation)[0]

        if settings.pick == "tolerance":
            low, high = 0, len(plans) - 1
            seen: dict[int, float] = {}
            while low < high and len(seen) < picks - 1:
                middle = (low + high) // 2
                seen[middle] = _error(evaluated(middle))
                if seen[middle] <= self.model.error + tolerance / 100:
                    high = middle
                else:
                    low = middle + 1
            if high not in seen:
                seen[high] = _error(evaluated(high))
            fitting = [index for index, error in seen.items() if error <= self.model.error + tolerance / 100]
            chosen = min(fitting) if fitting else min(seen, key=lambda index: seen[index])
        else:
            F = front.F[order]
            chosen = _knee(F) if settings.pick == "knee" else _within(F, self.group_share)
        found = evaluated(chosen)
        return _Model(plans[chosen], _error(found)) if found.error is None else self.model

    def _epochs(self, passes: float) -> tuple[int, float]:
        """Epochs of fine-tuning, and the most multiply-adds that they take."""
        each = self._training(self.model.plan).total
        wanted = self.settings.group_ft_epochs
        epochs = min(int(passes / each), EPOCHS_MAX) if wanted is None else wanted
        return epochs, epochs * each

    def _training(self, plan: PruningPlan) -> Compute:
        """Multiply-adds of one epoch."""
        passes = self.network.task.size("train") / self.network.val_images
        teacher = passes if self.settings.group_ft_distillation else 0.0
        share = self.segments.macs(self.network.cut(plan)) / self.segments.macs(self.network.dense)
        return Compute.training(passes * share) + Compute(teacher)

    def _finetuned(self, model: _Model, epochs: int, done: int) -> _Model:
        """The network after its filters were removed and it was trained on (step 2h)."""
        settings, network = self.settings, self.network

        def work() -> Part:
            module = network.cut(model.plan)
            schedule = training.TrainingSettings(
                epochs=epochs,
                lr=settings.group_ft_lr,
                batch_size=min(128, network.task.size("train")),
                warmup_epochs=0,
                distillation=settings.group_ft_distillation,
                seed=network.seed,
            )
            training.finetune(module, network.task, schedule, teacher=network.dense)
            base = network.adopted(model.plan.weights) if model.plan.weights else network.dense
            assert base is not None
            weights = network.adopt(Slicer(base, network.groups).paste(module, model.plan))
            return Part({"weights": weights}, self._training(model.plan) * epochs)

        weights: Any = self.context.part(f"fine-tuning {done}", work)["weights"]
        plan = replace(model.plan, weights=weights)
        found = self.context.evaluate_plans([plan], "fine_tuned", done + 1)[0]
        return _Model(plan, _error(found)) if found.error is None else model


def _error(evaluation: Evaluation) -> float:
    """Error of an evaluation, the worst there is where it failed."""
    return evaluation.objectives["error"] if evaluation.error is None else 1.0


def _knee(F: FloatArray) -> int:
    """Row of largest distance below the line between the ends of ``(n, 2)`` or more objectives, the first two."""
    scaled = (F[:, :2] - F[:, :2].min(axis=0)) / np.maximum(np.ptp(F[:, :2], axis=0), 1e-12)
    return int(np.argmin(scaled.sum(axis=1)))


def _within(F: FloatArray, share: float) -> int:
    """Row of smallest first objective whose second one is at most ``share``; the smallest second one where none is."""
    fitting = np.flatnonzero(F[:, 1] <= share)
    return int(fitting[np.argmin(F[fitting, 0])]) if fitting.size else int(np.argmin(F[:, 1]))


def _population(wanted: int | None, evaluations: int) -> int:
    """Individuals: as wanted, or a fifth of the evaluations within bounds."""
    return wanted if wanted is not None else int(np.clip(evaluations // 5, 4, 40))


METHOD = SMOEA
