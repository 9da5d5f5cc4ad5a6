"""The accuracies that a search asks for: from the store where they are known, else from all processes there are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any

from hwprune.accuracy import race
from hwprune.accuracy.prefix import Sharing
from hwprune.accuracy.scorer import FINAL, Look, Protocol, scores
from hwprune.executors import Parcel, size_of
from hwprune.pruning.plan import PruningPlan
from hwprune.records import Score
from hwprune.store.accuracies import Accuracies, Accuracy

#: Plans that one process scores one after the other.
Flight = tuple[PruningPlan, ...]


class AccuracyJudge:
    """Scores plans by one protocol (a :class:`hwprune.search.problem.Judge`).

    Args:
        parcel: images, weights and groups, which every worker has.
        facts: all that an accuracy depends on beside plan and protocol.
        protocol: how candidates are scored in a search.
        train: images of every training batch.
        val: images of every batch of the validation split, where candidates may be given up early; () where not.
        executor: what scores.
        store: accuracies of earlier searches; None to know of none.
        sharing: what candidates have in common; None for nothing.
        apart: scores plans whose weights a search has trained on, which the parcel does not hold.
    """

    def __init__(
        self,
        parcel: Parcel,
        facts: Mapping[str, Any],
        protocol: Protocol,
        train: Sequence[int],
        val: Sequence[int],
        executor: Executor,
        store: Accuracies | None = None,
        sharing: Sharing | None = None,
        apart: Callable[[PruningPlan, Protocol, Sequence[Look]], Score] | None = None,
    ) -> None:
        self._parcel = parcel
        self._facts = dict(facts)
        self._protocol = protocol
        self._train = tuple(train)
        self._val = tuple(val)
        self._executor = executor
        self._store = store
        self._sharing = sharing
        self._apart = apart

    def scores(self, plans: Sequence[PruningPlan], bars: Sequence[float]) -> Iterator[Score]:
        """Score of every plan, in their order; see :class:`hwprune.search.problem.Judge`."""
        return self._scores(plans, [race.looks(bar, self._val) for bar in bars], self._protocol)

    def exact(self, plans: Sequence[PruningPlan]) -> Iterator[Score]:
        """Score of every plan as it is reported: the whole split in float32, all training batches for BatchNorm."""
        return self._scores(plans, [()] * len(plans), FINAL)

    def known(self) -> list[tuple[tuple[int, ...], str, Score]]:
        """Widths, plan key and score of all that the store holds under this protocol, on the whole split.

        Who was given up elsewhere may be on the front of a device whose costs are others, and is asked for again.
        """
        if self._store is None:
            return []
        found = self._store.all(self._facts_in(self._protocol))
        return [(each.widths, each.plan_key, Score(each.metric, stored=True)) for each in found if each.images is None]

    def _scores(
        self, plans: Sequence[PruningPlan], looks: Sequence[tuple[Look, ...]], protocol: Protocol
    ) -> Iterator[Score]:
        told = self._stored(plans, looks, protocol)
        todo = deque(self._flights([plan for plan in plans if plan.key not in told and not plan.weights]))
        wanted = dict(zip((plan.key for plan in plans), looks, strict=True))
        running: deque[tuple[Flight, Future[list[Score]]]] = deque()
        size = size_of(self._executor)
        try:
            for plan in plans:
                if plan.weights and plan.key not in told:
                    assert self._apart is not None  # whose search trains weights
                    told |= self._found((plan,), [self._apart(plan, protocol, wanted[plan.key])], protocol)
                while plan.key not in told:
                    while todo and len(running) < (2 * size if size > 1 else 1):
                        flight = todo.popleft()
                        asked = [wanted[each.key] for each in flight]
                        running.append((flight, self._executor.submit(scores, self._parcel, flight, protocol, asked)))
                    told |= self._ended(*running.popleft(), protocol)
                yield told[plan.key]
        finally:
            for _, future in running:
                future.cancel()

    def _flights(self, plans: Sequence[PruningPlan]) -> list[Flight]:
        """Plans in the order in which they are scored; those of a flight by one process."""
        if self._sharing is None or len(plans) < 2:
            return [(plan,) for plan in plans]
        longest = max(2, len(plans) // (2 * size_of(self._executor)))
        return [tuple(plans[number] for number in flight) for flight in self._sharing.flights(plans, longest)]

    def _stored(
        self, plans: Sequence[PruningPlan], looks: Sequence[tuple[Look, ...]], protocol: Protocol
    ) -> dict[str, Score]:
        """What the store tells: metrics on the whole split, and those that candidates would be given up with again."""
        if self._store is None:
            return {}
        found = self._store.find(self._facts_in(protocol), [plan.key for plan in plans])
        told = {}
        for plan, wanted in zip(plans, looks, strict=True):
            each = found.get(plan.key)
            if each is None:
                continue
            errors = 0 if each.images is None else round((1 - each.metric) * each.images)
            if each.images is None or any(each.images == seen and errors >= limit for seen, limit in wanted):
                told[plan.key] = Score(each.metric, each.images, stored=True)
        return told

    def _ended(self, flight: Flight, future: Future[list[Score]], protocol: Protocol) -> dict[str, Score]:
        try:
            found = future.result()
        except RuntimeError as error:  # their process was killed, every time
            return {plan.key: Score(None, error=f"RuntimeError: {error}") for plan in flight}
        return self._found(flight, found, protocol)

    def _found(self, flight: Flight, found: Sequence[Score], protocol: Protocol) -> dict[str, Score]:
        """Scores by plan key, kept for later searches."""
        if self._store is not None:
            scored = [(plan, score) for plan, score in zip(flight, found, strict=True) if score.metric is not None]
            rows = [Accuracy(plan.key, plan.widths, score.metric or 0.0, score.images) for plan, score in scored]
            self._store.add(self._facts_in(protocol), rows)
        return dict(zip((plan.key for plan in flight), found, strict=True))

    def _facts_in(self, protocol: Protocol) -> dict[str, Any]:
        images = sum(self._train[: protocol.train_batches])
        return {**self._facts, "dtype": str(protocol.dtype).removeprefix("torch."), "bn_images": images}
