"""A real network small enough that a search of it takes seconds, for methods that look inside networks."""

import copy
import functools
from collections.abc import Sequence

from hwprune import training
from hwprune.config import Problem
from hwprune.experiments.run import search_problem
from hwprune.experiments.workbench import Workbench
from hwprune.search.problem import SearchProblem

PROBLEM = {
    "network": {"name": "resnet_cifar", "depth": 8, "widths": [4, 8, 8]},
    "data": {"name": "digits", "size": 8, "channels": 3},
    "pruning": {"round_to": 1},
    "evaluation": {"bn_images": 64, "search_bn_images": 64, "val_images": 64, "threads": 1, "dtype": "float32"},
}


@functools.cache
def bench() -> Workbench:
    """The network, trained for a few epochs."""
    opened = Workbench.open(Problem.model_validate(PROBLEM), with_weights=False)
    training.train(opened.dense, opened.task, training.TrainingSettings(epochs=4))
    return opened


def network_problem(objectives: Sequence[str]) -> SearchProblem:
    """The problem as a search sees it; what one search adopts is not known to the next."""
    opened = copy.copy(bench())  # with all that was built for others
    opened.problem = opened.problem.model_copy(update={"objectives": list(objectives)})
    opened._adopted = {}
    return search_problem(opened, None, None, {}, 4)
