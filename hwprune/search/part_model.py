"""A model of a part's error, and generations that it proposes: what it holds for the front is evaluated next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from hwprune.search.filters import Bits, Encoding, FilterBits
from hwprune.search.gaussian_process import GaussianProcess
from hwprune.search.portfolio import hv_greedy
from hwprune.search.subsearch import evolve
from hwprune.search.trend import Trend

FloatArray = npt.NDArray[np.float64]

#: Individuals and generations of a search on the model.
POP_SIZE, GENERATIONS = 60, 40
#: Errors are learnt as logits of numbers that are no nearer to 0 and 1 than this.
MARGIN = 1e-3


class PartModel:
    """Error of a part by the importance that each of its groups has lost: a monotone trend, and what it leaves over."""

    def __init__(self, filters: FilterBits) -> None:
        self._filters = filters
        self._trend = Trend(monotone=True)
        self._rest = GaussianProcess()

    def fit(self, bits: Bits, errors: FloatArray, limit: float) -> PartModel:
        """Learn from ``(n, n_bits)`` rows and their ``(n,)`` errors in [0, 1]; those above ``limit`` count less."""
        lost, y = self._lost(bits), logit(np.clip(errors, MARGIN, 1 - MARGIN))
        best = float(errors.min())
        weights = (1 + np.maximum(errors - limit, 0) / max(limit - best, MARGIN)) ** -2.0
        self._trend.fit(lost, y, weights)
        self._rest.fit(self._trend.stretched(lost), y - self._trend.predict(lost), weights)
        return self

    def predict(self, bits: Bits) -> FloatArray:
        """``(n,)`` errors of ``(n, n_bits)`` rows."""
        lost = self._lost(bits)
        return np.asarray(expit(self._trend.predict(lost) + self._rest.predict(self._trend.stretched(lost))[0]))

    def _lost(self, bits: Bits) -> FloatArray:
        """``(n, n_groups)`` share of every group's importance that is dropped."""
        shares = [
            (~row) @ scores / max(float(scores.sum()), 1e-12)
            for row, scores in zip(self._filters.split(bits), self._filters.scores, strict=True)
        ]
        return np.stack(shares, axis=-1)


@dataclass(frozen=True, eq=False)
class Proposer:
    """Proposes what to evaluate in a part.

    Attributes:
        filters: what is chosen.
        encoding: genomes of it.
        costs: ``(n, n_costs)`` of rows of bits, minimized beside the error; cheap.
        limit: error beyond which nothing is of interest.
    """

    filters: FilterBits
    encoding: Encoding
    costs: Callable[[Bits], FloatArray]
    limit: float

    def __call__(self, bits: Bits, F: FloatArray, n: int, random_state: np.random.Generator) -> Bits:
        """Up to ``n`` rows of the front that a model predicts, those first that add most to it.

        Args:
            bits: ``(n_known, n_bits)`` rows that were evaluated.
            F: their objectives, the error first.
            n: rows wanted.
            random_state: source of randomness.
        """
        model = PartModel(self.filters).fit(bits, F[:, 0], self.limit)

        def predicted(rows: Bits) -> FloatArray:
            return np.column_stack([model.predict(rows), self.costs(rows)])

        front = evolve(
            self.encoding,
            predicted,
            pop_size=POP_SIZE,
            evaluations=POP_SIZE * GENERATIONS,
            random_state=random_state,
        )
        known = {row.tobytes() for row in bits}
        new = [
            number
            for number, row in enumerate(front.bits)
            if row.tobytes() not in known and front.F[number, 0] <= self.limit
        ]
        if not new:
            return bits[:0]
        return front.bits[new][hv_greedy(front.F[new], n).rows]
