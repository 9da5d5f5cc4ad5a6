"""Hierarchical importance-guided pruning: thresholds first, then single weights in the corridor that they leave.

Khan, Asilian Bidgoli. Hierarchical importance-guided evolutionary pruning. 2026. https://arxiv.org/abs/2604.01076

    --method hierarchical --set importance=taylor

Written to follow the paper's abstract: a continuous search over weight-wise pruning thresholds shrinks the space and
finds its promising regions; a binary one over the surviving weights, with importance-aware sampling and adaptive
variation, refines them. The numbers in the code are the steps of docs/methods.md.

Choices of this implementation:
    - A threshold is coded as a quantile, one a layer; ``threshold=per_filter`` has one a filter. The first ones are the
      same in all layers, or those of one magnitude (``starts=one_threshold``), and others round them.
    - Both phases are NSGA-II (``fine_moea=moead``: Tchebycheff, in the second).
    - The search of weights runs between two thresholded networks: the densest that loses up to ``heavy_drop_max``
      points and the sparsest that loses up to ``light_drop_max``. What both keep stays
      (``core=free``: is free like the rest, as the best weights of every layer are not the best of all), what neither
      keeps is gone.
    - Importance is the rank of a weight's magnitude in its layer (``importance=global_rank``: among all weights;
      ``lamp``: among all, of magnitude times the root of its LAMP score;
      ``taylor``: the rank among all weights of magnitude times gradient, the first-order change of the loss, mean over
      training batches). Given several, the first individuals take turns: which is better hangs on the density.
    - First individuals are spread evenly over the densities (``spacing=geometric``: denser where error rises steeply).
    - The share of bits that mutation flips falls from ``m_max`` to ``m_min``, faster while the front moves and slower
      where it stalls; sparse individuals drop more, dense ones insert more.
    - Crossover compares a weight's importance with the mean over all free bits (``crossover_mean=differing``: over the
      bits in which the parents differ, so that a child lies between them).
    - Weights are inherited and BatchNorm statistics re-estimated; nothing is trained inside the search.
    - Populations and generations that are not set share the budget between the phases by ``coarse_share``; with 4,080
      evaluations these are populations of 40 and 50 generations twice.
    - ``minimize=published``: error and density, whatever the problem's objectives. A latency is one that was measured
      (``latency_source: device``), with sparse kernels where those were found to be faster; no model predicts it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from hwprune.records import Evaluation
from hwprune.search.archive import Archive
from hwprune.search.evaluation import SearchContext
from hwprune.search.masks import Bits, Corridor, Importance, MaskSpace, MeanOf, Packed, Spacing, check_latency
from hwprune.search.methods.base import MethodSettings, network_of
from hwprune.search.operators import binary_tournament, polynomial_mutation, simulated_binary_crossover
from hwprune.search.survival import OPERATORS, feasible_first

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Population = Annotated[int, Field(ge=4)]
Generations = Annotated[int, Field(ge=0)]

#: Largest population where none is set.
POP_MAX = 40

#: Generations without anything new after which a phase ends.
IDLE_MAX = 20


class Settings(MethodSettings):
    """Settings of the hierarchical method.

    Attributes:
        minimize: ``published`` for error and density, ``problem`` for the problem's objectives.
        map_to_kernels: ``sparse`` keeps the network's shape and leaves zeros out where that is faster on the device;
            ``empty_filters`` also removes filters of which no weight is left.
        threshold: what has a threshold of its own, a layer or a filter.
        q_max: largest share of a layer's weights that a threshold drops.
        starts: lines along which phase 1 starts: ``equal`` quantiles in all layers, or those of ``one_threshold`` for
            the magnitudes of all weights.
        density_min: share of the weights that these lines end at.
        line_sigma: spread of the random starts round these lines.
        coarse_share: share of the budget that phase 1 gets where its generations are not set; 1 for phase 1 alone, 0
            for a flat search over all weights.
        pop_coarse: individuals of phase 1; none for 40, or less where the budget is small.
        gen_coarse: generations of phase 1; none for as many as its share holds.
        pop_fine: individuals of phase 2, alike.
        gen_fine: generations of phase 2; none for as many as the budget holds.
        fine_moea: who survives in phase 2.
        importance: what makes a weight important; ``uniform`` for none, to see what importance is worth. Of several,
            the first individuals take turns, and variation goes by the first.
        spacing: of the first individuals' densities: ``even``, or ``geometric`` for more of the sparse.
        heavy_drop_max: points that the heavy end of the corridor may lose.
        light_drop_max: points that its light end may lose.
        core: whether weights that both ends keep are ``kept`` by all, or ``free``.
        temperature: of the first sampling; the smaller, the more importance decides.
        beta: weight of importance in crossover.
        p_clip: smallest probability of either bit in crossover.
        crossover_mean: bits whose mean importance is that of a coin in crossover: all ``free`` ones, or those in which
            the parents are ``differing``.
        m_max: share of the free bits that mutation flips at first.
        m_min: the same at last.
        stall_gens: generations without a new member of the front after which mutation grows.
        m_up: factor by which it grows.
        m_down: factor by which it shrinks again.
        m_range: limits of both together.
        spread_gain: how much more the sparse end drops, and the dense end inserts.
        cx_prob: probability of crossover, in both phases.
        sbx_eta: distribution index of phase 1's crossover.
        pm_prob: probability that a threshold mutates; none for 1 / number of thresholds.
        pm_eta: distribution index of that mutation.
    """

    minimize: Literal["published", "problem"] = "published"
    map_to_kernels: Literal["sparse", "empty_filters"] = "sparse"
    threshold: Literal["per_layer", "per_filter"] = "per_layer"
    q_max: Annotated[float, Field(gt=0, lt=1)] = 0.95
    starts: Literal["equal", "one_threshold"] = "equal"
    density_min: Annotated[float, Field(gt=0, lt=1)] = 0.1
    line_sigma: Annotated[float, Field(ge=0)] = 0.1
    coarse_share: Share = 0.5
    pop_coarse: Population | None = None
    gen_coarse: Generations | None = None
    pop_fine: Population | None = None
    gen_fine: Generations | None = None
    fine_moea: Literal["nsga2", "moead"] = "nsga2"
    importance: Importance | Annotated[tuple[Importance, ...], Field(min_length=1)] = "magnitude_rank"
    spacing: Spacing = "even"
    heavy_drop_max: Annotated[float, Field(ge=0)] = 1.0
    light_drop_max: Annotated[float, Field(ge=0)] = 10.0
    core: Literal["kept", "free"] = "kept"
    temperature: Positive = 0.1
    beta: Annotated[float, Field(ge=0)] = 0.5
    p_clip: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    crossover_mean: MeanOf = "free"
    m_max: Share = 1e-2
    m_min: Share = 1e-4
    stall_gens: Annotated[int, Field(ge=1)] = 3
    m_up: Annotated[float, Field(ge=1)] = 1.5
    m_down: Annotated[float, Field(gt=0, le=1)] = 0.8
    m_range: tuple[Positive, Positive] = (0.25, 4.0)
    spread_gain: Share = 0.5
    cx_prob: Share = 0.9
    sbx_eta: Positive = 15.0
    pm_prob: Share | None = None
    pm_eta: Positive = 20.0

    @property
    def importances(self) -> tuple[Importance, ...]:
        """What makes a weight important, one or several."""
        return self.importance if isinstance(self.importance, tuple) else (self.importance,)

    @property
    def objectives(self) -> tuple[str, ...] | None:
        """The paper's pair, unless the problem's are wanted."""
        return ("error", "density") if self.minimize == "published" else None

    def check(self, wanted: Iterable[str], *, is_measured: bool) -> None:
        """Refuse a latency that nobody measures."""
        check_latency(wanted, is_measured=is_measured)


@dataclass(frozen=True)
class _Thresholded:
    """A true evaluation of phase 1."""

    genome: FloatArray
    density: float


@dataclass
class _Adaptation:
    """The factor of the mutation rate: up after generations without a new front member, down with one."""

    settings: Settings
    factor: float = 1.0
    stalled: int = 0

    def update(self, has_new: bool) -> None:
        settings = self.settings
        self.stalled = 0 if has_new else self.stalled + 1
        self.factor *= settings.m_up if self.stalled >= settings.stall_gens else settings.m_down
        self.factor = float(np.clip(self.factor, *settings.m_range))

    def rate(self, progress: float) -> float:
        """Share of the free bits to flip, ``progress`` (0 to 1) into phase 2."""
        settings = self.settings
        if not settings.m_max:
            return 0.0
        rate = self.factor * settings.m_max * (settings.m_min / settings.m_max) ** progress
        return float(np.clip(rate, settings.m_min, settings.m_max))


@dataclass
class Hierarchical:
    """The method; see the module's docstring."""

    settings: Settings
    _found: dict[int, _Thresholded] = field(default_factory=dict, init=False)

    def run(self, context: SearchContext) -> Archive:
        """Search thresholds, then weights, until both have had their generations or the budget is spent.

        Raises:
            ConfigError: the problem has no network, or wants a latency that nobody measures.
        """
        problem, settings = context.problem, self.settings
        network = network_of(problem, "hierarchical")
        settings.check((*problem.objectives, *problem.bounds), is_measured=problem.measure is not None)
        self._found = {}
        space = MaskSpace(network, settings.threshold, removes_empty=settings.map_to_kernels == "empty_filters")
        with context.until_spent():
            dense = context.evaluate_plans([space.plan(np.ones(space.size, bool))], "initial", 0)[0]
            coarse = int(settings.coarse_share * (1 + context.affordable))
            generation = self._coarse(context, space, coarse) if coarse > 1 or settings.gen_coarse else 0
            if settings.gen_fine != 0 and dense.error is None:
                self._fine(context, space, dense, generation)
        return context.archive

    def _coarse(self, context: SearchContext, space: MaskSpace, share: int) -> int:
        """Phase 1 (steps 1 to 3); the number of the generation that comes next."""
        settings, random_state = self.settings, context.random_state
        pop_size = _population(settings.pop_coarse, share)
        last = context.spent - 1 + share if settings.gen_coarse is None else None
        genomes = self._lines(pop_size, space, random_state)
        rows = np.empty(0, np.int64)
        generation = idle = 0
        while settings.gen_coarse is None or generation <= settings.gen_coarse:
            if last is not None:
                genomes = genomes[: max(last - context.spent, 0)]
            if not len(genomes) or idle == IDLE_MAX:
                break
            spent = context.spent
            new = self._evaluate_thresholds(context, space, genomes, generation)
            idle = idle + 1 if context.spent == spent else 0
            context.end_generation(generation, selection="nsga2")
            rows = self._select("nsga2", context.archive, np.union1d(rows, new), pop_size)
            context.archive.drop_dominated_plans()
            genomes = self._breed(rows, pop_size, random_state)
            generation += 1
        return generation

    def _lines(self, n: int, space: MaskSpace, random_state: np.random.Generator) -> FloatArray:
        """``(n, n_var)`` starts: along lines from the dense network, and others round them (step 1)."""
        settings = self.settings
        along = max(1, n // 3)
        quantiles = space.one_threshold if settings.starts == "one_threshold" else space.equal
        last = 1 - settings.density_min
        around = quantiles(np.linspace(0, last, n - along))
        scattered = around + random_state.normal(0, settings.line_sigma, around.shape)
        # The dense network has been evaluated already: the lines begin one step below it.
        lines = quantiles(np.linspace(0, last, along + 1)[1:])
        return np.clip(np.vstack([lines, scattered]), 0, settings.q_max)

    def _evaluate_thresholds(
        self, context: SearchContext, space: MaskSpace, genomes: FloatArray, generation: int
    ) -> IntArray:
        """Rows of the archive that hold the genomes (step 2)."""
        plans, densities = [], []
        for genome in genomes:
            bits = space.decode(genome)  # eight times as large as the plan that is made of it
            plans.append(space.plan(bits))
            densities.append(float(bits.mean()))
        evaluations = context.evaluate_plans(plans, "offspring" if generation else "initial", generation)
        for evaluation, genome, density in zip(evaluations, genomes, densities, strict=True):
            row = context.archive.row(evaluation.plan_key)
            if row is not None:
                self._found.setdefault(row, _Thresholded(genome, density))
        return context.rows(evaluations)

    def _breed(self, rows: IntArray, n: int, random_state: np.random.Generator) -> FloatArray:
        """``(n, n_var)`` children of a population that is sorted from best to worst (step 3)."""
        settings = self.settings
        if not len(rows):
            return np.empty((0, 0))
        genomes = np.array([self._found[row].genome for row in rows])
        parents = binary_tournament(len(rows), 2 * -(-n // 2), random_state)
        A, B = np.split(genomes[parents], 2)
        X = simulated_binary_crossover(A, B, settings.q_max, random_state, prob=settings.cx_prob, eta=settings.sbx_eta)
        prob = 1 / genomes.shape[1] if settings.pm_prob is None else settings.pm_prob
        return polynomial_mutation(X, settings.q_max, random_state, prob=prob, eta=settings.pm_eta)[:n]

    def _anchors(self, context: SearchContext, space: MaskSpace, dense: Evaluation) -> tuple[Bits, Bits]:
        """Heavy and light mask of phase 1's front (step 4); all weights and none where there was no phase 1."""
        archive = context.archive
        front = [row for row in archive.front_rows() if row in self._found]
        if not front:
            return np.ones(space.size, bool), np.zeros(space.size, bool)
        errors = archive.values("error")
        by_density = sorted(front, key=lambda row: self._found[row].density)
        best = min(front, key=lambda row: errors[row])

        def within(points: float) -> list[int]:
            return [row for row in by_density if errors[row] <= dense.objectives["error"] + points / 100]

        heavy = (within(self.settings.heavy_drop_max) or [best])[-1]
        light = (within(self.settings.light_drop_max) or [best])[0]
        if self._found[light].density >= self._found[heavy].density:
            light = by_density[max(by_density.index(heavy) - 1, 0)]
        return space.decode(self._found[heavy].genome), space.decode(self._found[light].genome)

    def _fine(self, context: SearchContext, space: MaskSpace, dense: Evaluation, generation: int) -> None:
        """Phase 2 (steps 4 to 8)."""
        settings, archive, random_state = self.settings, context.archive, context.random_state
        importances = [space.importance(kind) for kind in settings.importances]
        anchors = self._anchors(context, space, dense)
        corridor = Corridor(*anchors, *importances, has_core=settings.core == "kept")
        if len(corridor) < 2:
            return
        pop_size = _population(settings.pop_fine, context.affordable)
        n_gen = max(context.affordable // pop_size, 1) if settings.gen_fine is None else settings.gen_fine
        adaptation = _Adaptation(settings)
        population = self._inject(archive, space, corridor)
        children = corridor.sample(pop_size, settings.temperature, random_state, spacing=settings.spacing)
        step = idle = 0
        while idle < IDLE_MAX and (settings.gen_fine is None or step <= n_gen):
            before, spent = set(archive.front_rows()), context.spent
            plans = [space.plan(corridor.bits(child)) for child in children]
            evaluations = context.evaluate_plans(plans, "fine", generation + step)
            for evaluation, child in zip(evaluations, children, strict=True):
                row = archive.row(evaluation.plan_key)
                if row is not None:
                    population[row] = child
            context.end_generation(generation + step, selection=settings.fine_moea)
            rows = self._select(settings.fine_moea, archive, np.array(sorted(population), np.int64), pop_size)
            population = {int(row): population[row] for row in rows}
            archive.drop_dominated_plans()
            if step:
                adaptation.update(bool(set(archive.front_rows()) - before))
            step, idle = step + 1, idle + 1 if context.spent == spent else 0
            rate = adaptation.rate(min(step / n_gen, 1.0))
            children = self._vary(corridor, list(population.values()), pop_size, rate, random_state)

    def _inject(self, archive: Archive, space: MaskSpace, corridor: Corridor) -> dict[int, Packed]:
        """Members of phase 1's front that fit the corridor, by their rows (step 7)."""
        fitting: dict[int, Packed] = {}
        for row in archive.front_rows():
            found = self._found.get(row)
            packed = None if found is None else corridor.packed(space.decode(found.genome))
            if packed is not None:
                fitting[int(row)] = packed
        return fitting

    def _vary(
        self, corridor: Corridor, population: list[Packed], n: int, rate: float, random_state: np.random.Generator
    ) -> list[Packed]:
        """Children of a population that is sorted from best to worst (steps 8a to 8c)."""
        settings = self.settings
        if not population:
            return corridor.sample(n, settings.temperature, random_state, spacing=settings.spacing)
        by_density = np.argsort([corridor.kept(packed) for packed in population], kind="stable")
        rank = np.empty(len(population))
        rank[by_density] = np.linspace(0, 1, len(population))
        children = []
        for one, other in binary_tournament(len(population), 2 * n, random_state).reshape(n, 2):
            child = population[one]
            if random_state.random() < settings.cx_prob:
                child = corridor.cross(
                    child,
                    population[other],
                    settings.beta,
                    settings.p_clip,
                    random_state,
                    mean_of=settings.crossover_mean,
                )
            flips = max(1, int(random_state.binomial(len(corridor), rate)))
            drop_share = float(np.clip(0.5 + settings.spread_gain * (0.5 - rank[one]), 0, 1))
            children.append(corridor.mutate(child, flips, drop_share, random_state))
        return children

    def _select(self, rule: str, archive: Archive, rows: IntArray, n: int) -> IntArray:
        """Rows of the survivors, best first (step 8d)."""
        name = {"nsga2": "nsga2", "moead": "moea_d"}[rule]
        return rows[feasible_first(OPERATORS[name], archive.F[rows], archive.CV[rows], n).rows] if len(rows) else rows


def _population(wanted: int | None, evaluations: int) -> int:
    """Individuals: as wanted, or a fifth of the evaluations within bounds."""
    return wanted if wanted is not None else int(np.clip(evaluations // 5, 8, POP_MAX))


METHOD = Hierarchical
