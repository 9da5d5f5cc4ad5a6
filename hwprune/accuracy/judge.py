"""The accuracies that a search asks for: from the store where they are known, else from all processes there are."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import torch

from hwprune.accuracy import race
from hwprune.accuracy.scorer import Look, score
from hwprune.executors import Parcel, size_of
from hwprune.pruning.plan import PruningPlan
from hwprune.records import Score
from hwprune.store.accuracies import Accuracies, Accuracy


class AccuracyJudge:
    """Scores plans by one protocol (a :class:`hwprune.search.problem.Judge`).

    Args:
        parcel: images, weights and groups, which every worker has.
        facts: all that an accuracy depends on beside the plan.
        dtype: number format that candidates are scored in.
        batches: images of every batch of the validation split, where candidates may be given up early; () where not.
        executor: what scores.
        store: accuracies of earlier searches; None to know of none.
    """

    def __init__(
        self,
        parcel: Parcel,
        facts: Mapping[str, Any],
        dtype: torch.dtype,
        batches: Sequence[int],
        executor: Executor,
        store: Accuracies | None,
    ) -> None:
        self._parcel = parcel
        self._facts = dict(facts)
        self._dtype = dtype
        self._batches = tuple(batches)
        self._executor = executor
        self._store = store

    def scores(self, plans: Sequence[PruningPlan], bars: Sequence[float]) -> Iterator[Score]:
        """Score of every plan, in their order; see :class:`hwprune.search.problem.Judge`."""
        return self._scores(plans, [race.looks(bar, self._batches) for bar in bars], self._dtype)

    def exact(self, plans: Sequence[PruningPlan]) -> Iterator[Score]:
        """Score of every plan on the whole split in float32, as it is reported."""
        return self._scores(plans, [()] * len(plans), torch.float32)

    def known(self) -> list[tuple[tuple[int, ...], str, Score]]:
        """Widths, plan key and score of all that the store holds under this protocol."""
        if self._store is None:
            return []
        found = self._store.all(self._facts_in(self._dtype))
        return [(each.widths, each.plan_key, Score(each.metric, each.images, stored=True)) for each in found]

    def _scores(
        self, plans: Sequence[PruningPlan], looks: Sequence[tuple[Look, ...]], dtype: torch.dtype
    ) -> Iterator[Score]:
        known = self._stored(plans, looks, dtype)
        todo = deque(index for index, plan in enumerate(plans) if plan.key not in known)
        running: deque[Future[Score]] = deque()
        width = 2 * size_of(self._executor) if size_of(self._executor) > 1 else 1
        try:
            for plan in plans:
                while todo and len(running) < width:
                    index = todo.popleft()
                    running.append(self._executor.submit(score, self._parcel, plans[index], dtype, looks[index]))
                yield known[plan.key] if plan.key in known else self._ended(plan, running.popleft(), dtype)
        finally:
            for future in running:
                future.cancel()

    def _stored(
        self, plans: Sequence[PruningPlan], looks: Sequence[tuple[Look, ...]], dtype: torch.dtype
    ) -> dict[str, Score]:
        """What the store tells: metrics on the whole split, and those that candidates would be given up with again."""
        if self._store is None:
            return {}
        found = self._store.find(self._facts_in(dtype), [plan.key for plan in plans])
        told = {}
        for plan, wanted in zip(plans, looks, strict=True):
            each = found.get(plan.key)
            if each is None:
                continue
            errors = 0 if each.images is None else round((1 - each.metric) * each.images)
            if each.images is None or any(each.images == seen and errors >= limit for seen, limit in wanted):
                told[plan.key] = Score(each.metric, each.images, stored=True)
        return told

    def _ended(self, plan: PruningPlan, future: Future[Score], dtype: torch.dtype) -> Score:
        try:
            found = future.result()
        except RuntimeError as error:  # its process was killed, every time
            return Score(None, error=f"RuntimeError: {error}")
        if found.metric is not None and self._store is not None:
            accuracy = Accuracy(plan.key, plan.widths, found.metric, found.images)
            self._store.add(self._facts_in(dtype), [accuracy])
        return found

    def _facts_in(self, dtype: torch.dtype) -> dict[str, Any]:
        return {**self._facts, "dtype": str(dtype).removeprefix("torch.")}
