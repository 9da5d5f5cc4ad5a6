"""Random search: every gene drawn uniformly; a plain control.

--method random
"""

from __future__ import annotations

import itertools
from typing import Annotated

from pydantic import Field

from hwprune.search.archive import Archive
from hwprune.search.breeding import distinct
from hwprune.search.evaluation import SearchContext
from hwprune.search.methods.base import MethodSettings


class Settings(MethodSettings):
    """Settings of random search.

    Attributes:
        batch_size: candidates drawn at a time, a generation in reports.
    """

    batch_size: Annotated[int, Field(ge=1)] = 20


class RandomSearch:
    """Evaluates the dense network, then random widths that were not evaluated before."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def run(self, context: SearchContext) -> Archive:
        """Draw until the budget is spent, or nothing new comes up."""
        space = context.problem.space
        with context.until_spent():
            context.evaluate(space.sizes[None], "initial", 0)
            for generation in itertools.count(1):
                genomes = context.random_state.uniform(0, space.upper, (8 * self.settings.batch_size, space.n_var))
                widths = distinct(space.decode(genomes))
                new = widths[~context.seen(widths)][: self.settings.batch_size]
                if not len(new):
                    break
                context.evaluate(new, "random", generation)
                context.end_generation(generation, may_settle=True)
        return context.archive


METHOD = RandomSearch
