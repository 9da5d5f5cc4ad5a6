"""Searches that HAMP is compared with: the same start, budget and evaluation for all."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from pymoo.algorithms.moo.sms import SMSEMOA

from hwprune.search import methods
from hwprune.search.archive import Archive
from hwprune.search.evaluation import SearchContext
from hwprune.search.methods.base import Method, initial_widths, population_size
from hwprune.search.methods.nsga2 import NSGA2, Settings


class SMS(NSGA2):
    """pymoo's SMS-EMOA."""

    algorithm = SMSEMOA


class TPE:
    """Optuna's multi-objective TPE, told the same start."""

    def run(self, context: SearchContext) -> Archive:
        """Ask and tell until the budget is spent."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        space, random_state = context.problem.space, context.random_state
        study = optuna.create_study(
            directions=["minimize"] * len(context.problem.objectives),
            sampler=optuna.samplers.TPESampler(seed=int(random_state.integers(2**31)), multivariate=True),
        )
        for row in space.encode(initial_widths(space, population_size(None, context.budget), random_state)):
            study.enqueue_trial({str(gene): float(value) for gene, value in enumerate(row)})
        with context.until_spent():
            for generation in itertools.count():
                trial = study.ask()
                genome = [trial.suggest_float(str(gene), 0, space.upper) for gene in range(space.n_var)]
                found = context.evaluate(space.decode(np.array([genome])), "offspring", generation)[0]
                study.tell(trial, [found.objectives[name] for name in context.problem.objectives])
        return context.archive


def age_moea2() -> Method:
    """Pymoo's AGE-MOEA-II, which takes numba."""
    from pymoo.algorithms.moo.age2 import AGEMOEA2

    method = NSGA2(Settings())
    method.algorithm = AGEMOEA2
    return method


def lacking(method: str) -> str | None:
    """Library that a rival takes and that is not installed; they are no dependencies of ours."""
    name = {"age_moea2": "numba", "tpe": "optuna"}.get(method)
    return None if name is None or importlib.util.find_spec(name) else name


def of(name: str) -> Callable[[], Method]:
    """Maker of the method of this name, with its defaults."""
    rivals: dict[str, Callable[[], Any]] = {
        "sms_emoa": lambda: SMS(Settings()),
        "age_moea2": age_moea2,
        "tpe": TPE,
        "hamp recalls": lambda: methods.build("hamp", {"recall": True}),
    }
    return rivals.get(name, lambda: methods.build(name))
