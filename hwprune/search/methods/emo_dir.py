"""EMO-DIR: one evolutionary search for each sub-network, joined by what each choice impairs the whole network.

Shang, Zhu, Wu, Zhang, Jiao, Xu. A multi-objective complex network pruning framework based on divide-and-conquer and
global performance impairment ranking. 2023. https://arxiv.org/abs/2303.16212

    --method emo_dir --set joint=rank_threshold

Written to follow the paper's abstracts: the task is divided into sub-tasks on several sub-networks; sub-networks are
trained under cross-network constraints; a feature selector says what a sub-network's features are worth; fronts are
joined by global performance impairment ranking. The numbers in the code are the steps of docs/methods.md.

Choices of this implementation:
    - Sub-networks end where stages do (``split=equal_macs``: where multiply-adds are equal); a stem of one layer
      belongs to the first. Channels made in several sub-networks stay whole, those that leave one are zero until all
      are joined.
    - A detector is a convolution, a mean and a linear layer, trained on the dense network's features
      (``detector=tail``: the dense network's remaining layers). Where the budget does not hold an epoch of it, tails
      are used.
    - A genome has one bit a filter, or one ratio a layer of filters ranked by importance. A part of the start keeps
      the most important filters, the rest random ones.
    - ``proposals=model`` is none of the paper's: a generation is then the front that a model of the error predicts, not
      children of the one before.
    - Inside a search weights are inherited, and BatchNorm's statistics re-estimated on ``subnet_bn_images`` images.
    - Members of fronts are trained with a feature constraint where the budget holds it.
    - Impairments are taken to add up (``joint=knapsack``), and schemes that cover the predicted front are evaluated
      whole; what was predicted for them is in the run's journal.
    - The budget in multiply-adds is shared: ``SEARCH_SHARE`` for the searches, as many evaluations in each,
      ``RANKING_SHARE`` for impairments, the rest for joint schemes. With tails a search already knows the impairments,
      and gets their share.
    - ``minimize=published``: error and multiply-adds, whatever the problem's objectives. With ``minimize=problem``,
      latency and others take the place of multiply-adds, by the device's model of the whole network.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from torch import nn

from hwprune.errors import ConfigError
from hwprune.pruning.plan import PruningPlan
from hwprune.pruning.segments import Segments
from hwprune.search import detectors as heads
from hwprune.search import joint
from hwprune.search.archive import Archive
from hwprune.search.compute import Compute, Part
from hwprune.search.detectors import Detector
from hwprune.search.evaluation import BudgetExhausted, SearchContext
from hwprune.search.filters import BitEncoding, Encoding, FilterBits, RatioEncoding
from hwprune.search.joint import Schemes
from hwprune.search.methods.base import MethodSettings, network_of
from hwprune.search.network import PrunableNetwork
from hwprune.search.subnetwork_search import PartSearch
from hwprune.search.subnetwork_training import Trainee, train_member
from hwprune.search.subnetworks import (
    PartJudge,
    SubNetwork,
    Units,
    cached_features,
    divide,
    part_judge,
)
from hwprune.search.subsearch import LocalFront

FloatArray = npt.NDArray[np.float64]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]

#: Shares of the budget.
SEARCH_SHARE, RANKING_SHARE, DETECTOR_SHARE, TRAINING_SHARE = 0.55, 0.2, 0.15, 0.25
#: Epochs of detectors and of members where the budget holds them.
EPOCHS_MAX = 10
#: Fewest evaluations that a sub-network is worth searching with.
EVALUATIONS_MIN = 4


class Settings(MethodSettings):
    """Settings of EMO-DIR.

    Attributes:
        minimize: ``published`` for error and multiply-adds, ``problem`` for the problem's objectives.
        split: where sub-networks end.
        n_parts: most sub-networks of equal multiply-adds; none for as many as there are stages.
        encoding: a bit a filter, or a pruned share a layer.
        min_kept: share of a layer's filters that stays at least; 0 for one filter.
        detector: what says what features are worth.
        detector_epochs: training of the detectors; none for as many as the budget holds, up to 10.
        subnet_bn_images: training images that statistics are re-estimated on inside the searches; 0 for none.
        lam: weight of the feature constraint.
        p_mix: probability that a sub-network trains on a pruned predecessor's output.
        pop_size: individuals of a sub-network's search; none for 24, or less where the budget is small.
        n_gen: most generations of a sub-network's search.
        proposals: where they come from: ``variation``, or a ``model`` of the error, whose front is evaluated.
        cx_prob: probability of crossover.
        kept_ratio_min: smallest share of filters that an individual keeps at the start.
        ranked_share: share of the start that keeps the most important filters; the others keep random ones.
        front_ft_epochs: training of each member of a front; none for as many as a quarter of the budget holds.
        front_ft_lr: its largest learning rate.
        joint: how fronts are joined: all sums of impairments, thresholds of their ranks, sums of what members lose by
            themselves, or at random.
        joint_eval_max: joint schemes that are evaluated.
        drop_max: points that a scheme may be predicted to lose.
    """

    minimize: Literal["published", "problem"] = "published"
    split: Literal["stages", "equal_macs"] = "stages"
    n_parts: Count | None = None
    encoding: Literal["filter_bits", "layer_ratio"] = "filter_bits"
    min_kept: Annotated[float, Field(ge=0, lt=1)] = 0.1
    detector: Literal["head", "tail"] = "head"
    detector_epochs: Annotated[int, Field(ge=0)] | None = None
    subnet_bn_images: Annotated[int, Field(ge=0)] = 256
    lam: Annotated[float, Field(ge=0)] = 1.0
    p_mix: Share = 0.0
    pop_size: Annotated[int, Field(ge=4)] | None = None
    n_gen: Count = 30
    proposals: Literal["variation", "model"] = "variation"
    cx_prob: Share = 0.9
    kept_ratio_min: Annotated[float, Field(gt=0, le=1)] = 0.3
    ranked_share: Share = 0.5
    front_ft_epochs: Annotated[int, Field(ge=0)] | None = None
    front_ft_lr: Annotated[float, Field(gt=0)] = 0.01
    joint: Literal["knapsack", "rank_threshold", "local_accuracy", "random"] = "knapsack"
    joint_eval_max: Count = 20
    drop_max: Annotated[float, Field(gt=0)] = 30.0

    @property
    def objectives(self) -> tuple[str, ...] | None:
        """The pair that costs are counted in, unless the problem's are wanted."""
        return ("error", "macs") if self.minimize == "published" else None


@dataclass(frozen=True)
class Member:
    """A choice for one sub-network.

    Attributes:
        units: kept units of its groups.
        local_loss: error of its features beyond that of the unpruned sub-network's.
        weights: digest of the weights it was trained to; "" for inherited ones.
    """

    units: Units
    local_loss: float
    weights: str = ""


@dataclass
class EMODIR:
    """The method; see the module's docstring."""

    settings: Settings

    def run(self, context: SearchContext) -> Archive:
        """Search every sub-network, rank what its choices impair, evaluate joint schemes.

        Raises:
            ConfigError: the problem has no network, or its task no classes.
        """
        network = network_of(context.problem, "emo_dir")
        if not network.task.needs_logits:
            raise ConfigError("emo_dir judges features by the classes they give, and this task has none: use hamp")
        with context.until_spent():
            dense = context.evaluate_plans([PruningPlan.dense(network.groups)], "initial", 0)[0]
            context.end_generation(0)
            if dense.error is None:
                _Run(self.settings, context, network).all()
        return context.archive


@dataclass
class _Run:
    """One run, step by step."""

    settings: Settings
    context: SearchContext
    network: PrunableNetwork

    def all(self) -> None:
        """Steps 1 to 6."""
        segments = Segments(self.network.dense, self.network.task.example_input())
        parts = divide(segments, self.network.groups, self.settings.split, self.settings.n_parts)
        judges = self._judges(segments, parts)
        fronts = self._fronts(judges)
        fronts = self._trained(segments, parts, judges, fronts)
        values = self._impairments(segments, parts, judges, fronts)
        self.context.end_generation(1, selection=self.settings.joint)
        self._join(judges, fronts, values)
        self.context.end_generation(2, selection=self.settings.joint)

    def _judges(self, segments: Segments, parts: list[SubNetwork]) -> list[PartJudge]:
        """Cached features and detectors (step 1)."""
        settings, context, network = self.settings, self.context, self.network
        if context.affordable < EVALUATIONS_MIN:
            raise BudgetExhausted("too small to cache the features of the sub-networks")
        val, train, compute = cached_features(network, segments, parts, settings.subnet_bn_images)
        context.charge(compute)
        detectors: list[nn.Module | None] = [None] * len(parts)
        epochs = self._detector_epochs(segments, parts)
        ends = [part.end for part in parts[:-1]]
        if settings.detector == "head" and epochs:

            def work() -> Part:
                states = heads.trained_states(network, segments, ends, epochs)
                return Part({"states": states}, heads.epoch_compute(network, segments, ends) * epochs)

            found = context.part("detectors", work)
            detectors[:-1] = heads.from_states(network, segments, ends, found["states"])
        else:
            detectors[:-1] = [segments.part(part.end, segments.places[-1]) for part in parts[:-1]]
        return [part_judge(network, segments, *each) for each in zip(parts, detectors, val, train, strict=True)]

    def _detector_epochs(self, segments: Segments, parts: list[SubNetwork]) -> int:
        if self.settings.detector_epochs is not None:
            return self.settings.detector_epochs
        each = heads.epoch_compute(self.network, segments, [part.end for part in parts[:-1]]).total
        return min(EPOCHS_MAX, int(DETECTOR_SHARE * self.context.passes_left / each)) if each else EPOCHS_MAX

    def _fronts(self, judges: list[PartJudge]) -> list[list[Member]]:
        """Fronts of all sub-networks (step 2c)."""
        context, settings = self.context, self.settings
        # Where all impairments come from the searches themselves, these get the share of the ranking.
        share = SEARCH_SHARE + (RANKING_SHARE if all(map(_tells_impairment, judges)) else 0.0)
        prices = [judge.compute(judge.part).total for judge in judges]
        evaluations = share * context.passes_left / sum(prices)
        if evaluations < EVALUATIONS_MIN:
            raise BudgetExhausted(f"too small to search {len(judges)} sub-networks")
        seeds = context.random_state.integers(2**31, size=len(judges))
        searches = [self._search(judge) for judge in judges]
        works: dict[str, Callable[[], Part]] = {
            f"sub-network {number}": functools.partial(
                searches[number], judge, passes=evaluations * price, seed=int(seed), costs=self._costs(judge)
            )
            for number, (judge, price, seed) in enumerate(zip(judges, prices, seeds, strict=True))
        }
        if settings.minimize == "published":
            found = context.parts(works)
        else:  # costs are asked of this process's latency model
            found = {name: context.part(name, work) for name, work in works.items()}
        fronts = []
        for name, search in zip(works, searches, strict=True):
            filters = search.filters
            front = LocalFront.from_dict(found[name]["front"])
            losses = front.F[:, 0] - found[name]["unpruned"]
            members = [Member(filters.kept(row), float(loss)) for row, loss in zip(front.bits, losses, strict=True)]
            fronts.append([member for member in members if _is_pruned(filters, member)])
        return fronts

    def _search(self, judge: PartJudge) -> PartSearch:
        """How a sub-network is searched."""
        settings = self.settings
        scores = tuple(self.network.scores[number] for number in judge.numbers)
        least = np.maximum(1, [int(settings.min_kept * len(group)) for group in scores])
        filters = FilterBits(scores, np.asarray(least, np.int64))
        encoding: Encoding = RatioEncoding(filters, settings.cx_prob)
        if settings.encoding == "filter_bits":
            encoding = BitEncoding(
                filters, cx_prob=settings.cx_prob, ranked_share=settings.ranked_share, ratio_min=settings.kept_ratio_min
            )
        loss = settings.drop_max / 100 if settings.proposals == "model" else None
        return PartSearch(filters, encoding, settings.pop_size, settings.n_gen, loss)

    def _costs(self, judge: PartJudge) -> Callable[[list[Units]], FloatArray] | None:
        """Costs of the whole network with one sub-network pruned; None where the sub-network tells its own."""
        if self.settings.minimize == "published":
            return None
        return lambda units: -self._savings(judge, units)

    def _savings(self, judge: PartJudge, units: Sequence[Units]) -> FloatArray:
        """``(n, n_costs)`` what the whole network saves with one sub-network pruned."""
        problem = self.context.problem
        names = [name for name in problem.objectives if name != "error"]
        sizes = tuple(int(size) for size in self.network.groups.sizes)
        values = problem.cheap(np.array([sizes, *(judge.plan(each).widths for each in units)]))
        return np.column_stack([values[name][0] - values[name][1:] for name in names])

    def _trained(
        self, segments: Segments, parts: list[SubNetwork], judges: list[PartJudge], fronts: list[list[Member]]
    ) -> list[list[Member]]:
        """Members trained under the feature constraint (step 2d), as far as the budget holds it."""
        settings, context, network = self.settings, self.context, self.network
        trainees = [
            [Trainee(network, segments, part, judge, member.units) for member in front]
            for part, judge, front in zip(parts, judges, fronts, strict=True)
        ]
        each = sum(trainee.epoch_compute.total for front in trainees for trainee in front)
        epochs = settings.front_ft_epochs
        if epochs is None:
            epochs = min(EPOCHS_MAX, int(TRAINING_SHARE * context.passes_left / each)) if each else 0
        if not epochs:
            return fronts
        trained = []
        for number, (front, members) in enumerate(zip(trainees, fronts, strict=True)):
            before = trainees[number - 1] if number else []

            def work(front: list[Trainee] = front, before: list[Trainee] = before) -> Part:
                weights, compute = [], Compute()
                for trainee in front:
                    weights.append(
                        train_member(
                            trainee,
                            before,
                            epochs=epochs,
                            lr=settings.front_ft_lr,
                            lam=settings.lam,
                            p_mix=settings.p_mix,
                        )
                    )
                    compute += trainee.epoch_compute * epochs
                    context.tell(trainee.epoch_compute.total * epochs, "training members of fronts")
                return Part({"weights": weights}, compute)

            found = context.part(f"training {number}", work)
            trained.append(
                [replace(member, weights=weights) for member, weights in zip(members, found["weights"], strict=True)]
            )
        return trained

    def _impairments(
        self, segments: Segments, parts: list[SubNetwork], judges: list[PartJudge], fronts: list[list[Member]]
    ) -> list[FloatArray]:
        """``(n_k, 1 + n_costs)`` impairment of the whole network and negated savings, by front (steps 3 and 4).

        Fronts are thinned out to what the budget holds, and to what no other member beats.
        """
        context = self.context
        share = RANKING_SHARE / (1 - SEARCH_SHARE) * context.passes_left / len(parts)
        values = []
        for number, (part, judge) in enumerate(zip(parts, judges, strict=True)):
            is_last = part.end == segments.places[-1]
            tail = None if is_last else segments.part(part.end, segments.places[-1])
            behind_macs = 0.0 if tail is None else segments.macs(self.network.dense, part.end)
            price = judge.compute(judge.part, behind_macs).total
            if _tells_impairment(judge) and not any(member.weights for member in fronts[number]):
                values.append(self._ranked(judge, fronts, number, [each.local_loss for each in fronts[number]]))
                continue
            affordable = int(share / price) - 1
            if affordable < 1:
                raise BudgetExhausted("too small to rank what the choices impair")
            front = fronts[number] = _thinned(fronts[number], affordable)

            def work(
                judge: PartJudge = judge,
                tail: nn.Module | None = tail,
                front: list[Member] = front,
                part: SubNetwork = part,
                behind_macs: float = behind_macs,
            ) -> Part:
                unpruned = judge.error(judge.part, tail)
                losses, compute = [], judge.compute(judge.part, behind_macs)
                for member in front:
                    whole = self.network.adopted(member.weights) if member.weights else None
                    trained = None if whole is None else segments.part(part.start, part.end, whole)
                    module = judge.candidate(member.units, trained)
                    losses.append(judge.error(module, tail) - unpruned)
                    compute += judge.compute(module, behind_macs)
                return Part({"losses": losses}, compute)

            losses = context.part(f"impairment {number}", work)["losses"]
            if self.settings.joint == "local_accuracy":
                losses = [member.local_loss for member in front]
            values.append(self._ranked(judge, fronts, number, losses))
        return values

    def _ranked(self, judge: PartJudge, fronts: list[list[Member]], number: int, losses: Sequence[float]) -> FloatArray:
        """Impairments and negated savings of a front, which loses what others of it beat (step 4)."""
        front = fronts[number]
        told = np.column_stack([losses, -self._savings(judge, [member.units for member in front])])
        rows = joint.non_dominated(told)
        fronts[number] = [front[row] for row in rows]
        return np.asarray(told[rows])

    def _join(self, judges: list[PartJudge], fronts: list[list[Member]], values: list[FloatArray]) -> None:
        """Joint schemes, evaluated whole (steps 5 and 6)."""
        settings, context = self.settings, self.context
        n = settings.joint_eval_max
        schemes = self._schemes(values, n).up_to(settings.drop_max / 100).spread(n)
        plans = [self._plan(judges, fronts, choice) for choice in schemes.choices.tolist()]
        # Predictions go into the journal: what became of them shows how well impairments add up.
        told = {"plan_keys": [plan.key for plan in plans], "predicted": schemes.F[:, 0].tolist()}
        context.part("joint schemes", lambda: Part(told))
        context.evaluate_plans(plans, "joint", 2)

    def _schemes(self, values: list[FloatArray], n: int) -> Schemes:
        if self.settings.joint == "rank_threshold":
            return joint.rank_threshold(values)
        if self.settings.joint == "random":
            return joint.random_schemes(values, n, self.context.random_state)
        return joint.knapsack(values)

    def _plan(self, judges: list[PartJudge], fronts: list[list[Member]], choice: list[int]) -> PruningPlan:
        """The whole network's plan of one member, or none, a sub-network; trained weights are put together."""
        network = self.network
        kept = list(PruningPlan.dense(network.groups).kept)
        state: dict[str, Any] = {}
        for judge, front, number in zip(judges, fronts, choice, strict=True):
            if number < 0:
                continue
            member = front[number]
            for group, units in zip(judge.numbers, member.units, strict=True):
                kept[group] = units
            trained = network.adopted(member.weights) if member.weights else None
            if trained is not None:
                values = trained.state_dict()
                state |= {key: values[key] for key in judge.part.state_dict()}
        if not state:
            return PruningPlan(tuple(kept))
        module = network.copy()
        module.load_state_dict({**module.state_dict(), **state})
        return PruningPlan(tuple(kept), weights=network.adopt(module))


def _tells_impairment(judge: PartJudge) -> bool:
    """Whether what a search minimizes is the error of the whole network: without a detector of the part's own."""
    return not isinstance(judge.detector, Detector)


def _is_pruned(filters: FilterBits, member: Member) -> bool:
    return sum(map(len, member.units)) < filters.n_bits


def _thinned(front: list[Member], n: int) -> list[Member]:
    """``n`` members, evenly spaced along a front that is sorted by error."""
    if len(front) <= n:
        return front
    return [front[row] for row in np.unique(np.linspace(0, len(front) - 1, n).round().astype(int))]


METHOD = EMODIR
