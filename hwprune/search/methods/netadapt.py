"""NetAdapt: one layer smaller at a time, by a table of the device's latencies; the hardware-aware control.

Yang, Howard, Chen, Zhang, Go, Sandler, Sze, Adam. NetAdapt: platform-aware neural network adaptation for mobile
applications. ECCV 2018. https://arxiv.org/abs/1804.03230; official code: https://github.com/denru01/netadapt.

    --method netadapt --set resource=latency --set initial_reduction=0.025 --set reduction_decay=0.96

Every iteration allows a little less of a resource. Each group by itself is made as narrow as that needs, the networks
are scored, and the most accurate one is kept: a chain of networks from dense to small.

Choices of this implementation:
    - The table is the device's latency model, which sums measured kernels; any other cheap objective may be the
      resource.
    - Candidates are ranked on the validation split, not on training images as in the official code.
    - No fine-tuning in between: weights are inherited from the dense network and BatchNorm is re-estimated, as for
      every method that is compared here.
    - The chain goes on until no group can be made narrower; every candidate that was scored is in the archive. Where an
      iteration asks for more than any one group can give, the group that gives most is taken.
"""

from __future__ import annotations

import itertools
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from hwprune.errors import ConfigError
from hwprune.search.archive import Archive
from hwprune.search.evaluation import SearchContext
from hwprune.search.methods.base import MethodSettings
from hwprune.search.problem import SearchProblem

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class Settings(MethodSettings):
    """Settings of NetAdapt; defaults are those of the official scripts.

    Attributes:
        resource: cheap objective that is brought down; none for ``latency`` where the problem has it, else its first.
        initial_reduction: what the first iteration takes away, as a share of the dense network's resource.
        reduction_decay: factor of that share from one iteration to the next.
    """

    resource: str | None = None
    initial_reduction: Annotated[float, Field(gt=0, lt=1)] = 0.025
    reduction_decay: Annotated[float, Field(gt=0, le=1)] = 0.96


class NetAdapt:
    """Narrows the group that costs least accuracy, again and again."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def run(self, context: SearchContext) -> Archive:
        """Follow the chain until the budget is spent or nothing can be made narrower.

        Raises:
            ConfigError: the problem has no such resource.
        """
        problem, archive = context.problem, context.archive
        resource = self._resource(problem)
        with context.until_spent():
            current = problem.space.sizes
            context.evaluate(current[None], "initial", 0)
            context.end_generation(0)
            step = self.settings.initial_reduction * float(problem.cheap(current[None])[resource][0])
            for iteration in itertools.count(1):
                allowed = float(problem.cheap(current[None])[resource][0]) - step
                candidates = self._narrowed(problem, resource, current, allowed)
                if not len(candidates):
                    break
                rows = context.rows(context.evaluate(candidates, "narrowed", iteration))
                context.end_generation(iteration)
                if not rows.size:
                    break
                best = rows[np.argmin(archive.values("error")[rows])]
                current = archive.widths[best]
                step *= self.settings.reduction_decay
        return archive

    def _resource(self, problem: SearchProblem) -> str:
        cheap = list(problem.cheap(problem.space.sizes[None]))
        if not cheap:
            raise ConfigError("netadapt needs a resource to bring down: add latency or another cost to 'objectives'")
        wanted = self.settings.resource or ("latency" if "latency" in cheap else cheap[0])
        if wanted not in cheap:
            raise ConfigError(f"netadapt cannot bring down {wanted!r}: this problem computes {', '.join(cheap)}")
        return wanted

    def _narrowed(self, problem: SearchProblem, resource: str, widths: IntArray, allowed: float) -> IntArray:
        """``(n, G)`` candidates, one for each group that can be narrowed until ``allowed`` is met.

        Where none can, the one whose narrowest width needs least, if that is less than now.
        """
        space = problem.space
        met, nearest = [], []
        for group in range(space.n_var):
            levels = -(-(widths[group] - space.smallest[group]) // space.round_to[group])
            if not levels:
                continue
            moves = np.zeros((levels, space.n_var), dtype=np.int64)
            moves[:, group] = -np.arange(1, levels + 1)
            narrower = space.shift(np.broadcast_to(widths, moves.shape), moves)
            cost = problem.cheap(narrower)[resource]
            enough = np.flatnonzero(cost <= allowed)
            if enough.size:
                met.append(narrower[enough[0]])
            nearest.append((float(cost.min()), narrower[cost.argmin()]))
        if met:
            return np.array(met)
        now = float(problem.cheap(widths[None])[resource][0])
        least, candidate = min(nearest, key=lambda pair: pair[0], default=(now, widths))
        return candidate[None] if least < now else np.empty((0, space.n_var), dtype=np.int64)


METHOD = NetAdapt
