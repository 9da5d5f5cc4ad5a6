"""What a method is, how its settings are read, and where evolutionary methods start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from hwprune.errors import ConfigError, UnknownNameError
from hwprune.search.archive import Archive
from hwprune.search.breeding import distinct
from hwprune.search.evaluation import SearchContext
from hwprune.search.operators import latin_hypercube
from hwprune.search.problem import SearchProblem
from hwprune.search.space import SearchSpace

if TYPE_CHECKING:  # torch takes a second to import
    from hwprune.search.network import PrunableNetwork

IntArray = npt.NDArray[np.int64]


class Method(Protocol):
    """A way to spend a budget of true evaluations."""

    def run(self, context: SearchContext) -> Archive:
        """Spend the context's budget; the result is its archive.

        The same problem, budget, settings and state of ``context.random_state`` give the same archive.

        Raises:
            NothingEvaluatedError: every evaluation has failed.
        """
        ...


class MethodSettings(BaseModel):
    """Settings of a method: frozen, strictly checked, every one with a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def objectives(self) -> tuple[str, ...] | None:
        """What the method minimizes whatever the problem says; None for the problem's objectives."""
        return None

    def check(self, wanted: Iterable[str], *, is_measured: bool) -> None:
        """Refuse a problem that the method cannot solve, before anything is loaded.

        Args:
            wanted: objectives that are minimized or bounded.
            is_measured: whether candidates' latencies are measured, and not predicted.

        Raises:
            ConfigError: it cannot.
        """
        return


Settings = TypeVar("Settings", bound=MethodSettings)


def parse(kind: type[Settings], method: str, values: Mapping[str, Any]) -> Settings:
    """Settings of ``method`` from plain data.

    Raises:
        UnknownNameError: a setting that the method does not have.
        ConfigError: a value that the method cannot use.
    """
    for name in values:
        if name not in kind.model_fields:
            raise UnknownNameError(f"setting of {method}", name, kind.model_fields)
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        found = f", found {first['input']!r}" if name else ""
        raise ConfigError(f"{method}: {name or 'settings'}: {reason[0].lower()}{reason[1:]}{found}") from None


def network_of(problem: SearchProblem, method: str) -> PrunableNetwork:
    """The network behind a problem.

    Raises:
        ConfigError: there is none, and the method looks inside it.
    """
    if problem.network is None:
        raise ConfigError(f"{method} looks inside the network, and this problem has none: use hamp, nsga2 or random")
    return problem.network


def population_size(wanted: int | None, budget: int) -> int:
    """Individuals of a population: as wanted, or 20 (HAMP's default) and fewer where the budget is small.

    With a fifth of the budget spent on the start, at least four fifths remain for what is learnt from it.
    """
    return wanted if wanted is not None else int(np.clip(budget // 5, 8, 20))


def initial_widths(space: SearchSpace, pop_size: int, random_state: np.random.Generator) -> IntArray:
    """``(n, G)`` distinct widths to start from (step 5), n up to ``pop_size``.

    The dense network, uniform ratios at ninths of the largest one (0.1 to 0.9 by default), and a Latin hypercube.
    """
    ratios = np.linspace(0, space.pruning_ratio_max, 10)
    if pop_size < len(ratios):
        ratios = np.linspace(0, space.pruning_ratio_max, max(pop_size, 1))
    uniform = space.encoded("group_ratio").decode(np.repeat(ratios[:, None], space.n_var, axis=1))
    chosen = distinct(uniform)[:pop_size]
    for _ in range(10):  # a coarse space decodes many genomes to the same widths
        missing = pop_size - len(chosen)
        if not missing:
            break
        genomes = space.upper * latin_hypercube(missing, space.n_var, random_state)
        chosen = distinct(np.vstack([chosen, space.decode(genomes)]))
    return chosen
