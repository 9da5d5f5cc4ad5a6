"""The search of one sub-network: a function of its arguments, so that any process may run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwprune.search.compute import Part
from hwprune.search.filters import Bits, Encoding, FilterBits
from hwprune.search.part_model import Proposer
from hwprune.search.subnetworks import PartJudge, Units
from hwprune.search.subsearch import evolve

FloatArray = npt.NDArray[np.float64]

#: Largest population where none is set.
POP_MAX = 24


@dataclass(frozen=True, eq=False)
class PartSearch:
    """How a sub-network is searched.

    Attributes:
        filters: what is chosen.
        encoding: genomes of it.
        pop_size: individuals; None for a quarter of the evaluations within bounds.
        n_gen: most generations.
        modelled_loss: largest loss, in [0, 1], that is of interest to a model of the error, which then proposes each
            generation; None for children of the one before.
    """

    filters: FilterBits
    encoding: Encoding
    pop_size: int | None
    n_gen: int
    modelled_loss: float | None = None

    def __call__(
        self,
        judge: PartJudge,
        *,
        passes: float,
        seed: int,
        costs: Callable[[list[Units]], FloatArray] | None = None,
    ) -> Part:
        """The front, by error and cost.

        Args:
            judge: of the sub-network.
            passes: multiply-adds that may be spent, in dense passes.
            seed: of everything random.
            costs: ``(n, n_costs)`` of what is minimized beside the error; None for the sub-network's own multiply-adds.
        """
        spent = judge.compute(judge.part)
        price, unpruned_macs = spent.total, judge.macs(judge.part)

        def costs_of(bits: Bits) -> FloatArray:
            units: list[Units] = [self.filters.kept(row) for row in bits]
            if costs is not None:
                return costs(units)
            macs = [judge.macs(judge.slicer.cut(judge.plan(each))) for each in units]
            return np.array(macs)[:, None] / unpruned_macs

        def objectives(bits: Bits) -> FloatArray:
            nonlocal spent
            errors = []
            for row in bits:
                module = judge.candidate(self.filters.kept(row))
                errors.append(judge.error(module))
                spent += judge.compute(module)
            return np.column_stack([errors, costs_of(bits)])

        affordable = int(passes / price) - 1
        pop_size = int(np.clip(affordable // 4, 4, POP_MAX)) if self.pop_size is None else self.pop_size
        pop_size = min(pop_size, affordable)
        unpruned, propose = judge.error(judge.part), None
        if self.modelled_loss is not None:
            propose = Proposer(self.filters, self.encoding, costs_of, unpruned + self.modelled_loss)
        front = evolve(
            self.encoding,
            objectives,
            pop_size=pop_size,
            evaluations=pop_size * (self.n_gen + 1),
            random_state=np.random.default_rng(seed),
            may_go_on=lambda: spent.total + pop_size * price <= passes,
            propose=propose,
        )
        return Part({"front": front.as_dict(), "unpruned": unpruned}, spent)
