"""What candidates share that differ in later layers only: computed once, kept while the next ones need it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hwprune.accuracy.bound import Bound
from hwprune.accuracy.program import Convolution, Program
from hwprune.pruning.plan import Groups, PruningPlan
from hwprune.tasks.base import BaseTask, Batch
from hwprune.tasks.precision import autocast
from hwprune.training.batchnorm import BATCH_NORMS, estimating

#: Activations that a process keeps for the candidates that follow.
KEPT_BYTES = 128 << 20

#: Candidates share what they have in common from this share of the convolutions on.
WORTH = 0.2


@dataclass
class Prefix:
    """What a candidate has computed up to a cut.

    Attributes:
        cut: step behind which it ends.
        statistics: running mean and variance of the BatchNorm layers up to there, by name.
        train: activations of the batches that these were taken on.
        val: activations of the first batches of the validation split.
    """

    cut: int
    statistics: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    train: list[Tensor] = field(default_factory=list)
    val: list[Tensor] = field(default_factory=list)


class Sharing:
    """Which candidates have how much in common.

    Args:
        program: of the dense network.
        groups: what is pruned.
        bytes_behind: memory that the activations of all batches take behind each cut, at most.
    """

    def __init__(self, program: Program, groups: Groups, bytes_behind: Sequence[int]) -> None:
        convolutions = [isinstance(step, Convolution) for step in program.steps]
        self._bytes = dict(zip(program.cuts, bytes_behind, strict=True))
        self._cuts = [
            cut
            for cut in program.cuts
            if sum(convolutions[: cut + 1]) >= WORTH * sum(convolutions) and self._bytes[cut] <= KEPT_BYTES
        ]
        before = [set(program.groups_before(cut, groups)) for cut in self._cuts]
        #: For every group, how many of the cuts it does not concern.
        self._untouched = [sum(group not in taken for taken in before) for group in range(len(groups))]

    def common(self, one: PruningPlan, other: PruningPlan) -> int:
        """The last cut up to which two candidates are the same; -1 for none that is worth it."""
        if (one.mask, one.weights) != (other.mask, other.weights):
            return -1
        pairs = zip(one.kept, other.kept, self._untouched, strict=True)
        cuts = min((untouched for mine, theirs, untouched in pairs if mine != theirs), default=len(self._cuts))
        return self._cuts[cuts - 1] if cuts else -1

    def keep(self, plan: PruningPlan, following: Iterable[PruningPlan]) -> list[int]:
        """Cuts behind which a candidate's activations serve those that follow, as far as memory allows."""
        wanted = sorted({self.common(plan, other) for other in following} - {-1}, reverse=True)
        kept, used = [], 0
        for cut in wanted:
            used += self._bytes[cut]
            if used <= KEPT_BYTES:
                kept.append(cut)
        return kept

    def flights(self, plans: Sequence[PruningPlan], longest: int) -> list[list[int]]:
        """Numbers of plans that are best scored one after the other by one process, up to ``longest`` each."""
        by_layers = sorted(range(len(self._untouched)), key=self._untouched.__getitem__)
        order = sorted(range(len(plans)), key=lambda number: [plans[number].kept[group] for group in by_layers])
        flights: list[list[int]] = []
        for number in order:
            last = flights[-1] if flights else []
            if last and len(last) < longest and self.common(plans[last[-1]], plans[number]) >= 0:
                last.append(number)
            else:
                flights.append([number])
        return sorted(flights, key=min)


class Run:
    """One candidate on its way through training and validation batches.

    Args:
        program: of the dense network; None runs the candidate's own ``forward``.
        task: what the network is for.
        module: the candidate.
        dtype: number format of the convolutions.
        start: what another candidate has computed for it.
        keep: cuts behind which activations are kept for others.

    Attributes:
        prefixes: what is kept, by cut.
    """

    def __init__(
        self,
        program: Program | None,
        task: BaseTask,
        module: nn.Module,
        dtype: torch.dtype,
        start: Prefix | None = None,
        keep: Sequence[int] = (),
    ) -> None:
        self._program = program
        self._task = task
        self._module = module
        self._dtype = dtype
        self._start = start
        # What ends before the start is not computed again, and is kept already if it is needed.
        self.prefixes = {cut: Prefix(cut) for cut in keep if start is None or cut >= start.cut}

    def estimate(self, batches: Sequence[Batch]) -> None:
        """Set the candidate's BatchNorm statistics to those of the batches."""
        start = self._start
        with torch.inference_mode():
            with estimating(self._module) as wanted:
                for _ in self._outputs(batches if wanted else (), "train", folded=False):
                    pass
            layers = dict(self._module.named_modules())
            for name, (mean, var) in start.statistics.items() if start else ():
                layers[name].running_mean, layers[name].running_var = mean, var
        for prefix in self.prefixes.values():
            prefix.statistics = self._statistics(prefix.cut)

    def results(self, batches: Sequence[Batch]) -> Iterator[tuple[Any, Batch]]:
        """Outputs and batch, batch by batch."""
        yield from self._outputs(batches, "val", folded=True)

    def _outputs(self, batches: Sequence[Batch], split: str, *, folded: bool) -> Iterator[tuple[Any, Batch]]:
        if self._program is None:
            for batch in batches:
                with autocast(self._dtype):
                    outputs = self._task.forward(self._module, batch)
                yield outputs, batch
            return
        start, keep = self._start, list(self.prefixes)
        ready: list[Tensor] = getattr(start, split) if start else []
        whole = Bound(self._program, self._module, self._dtype, folded=folded, keep=keep)
        rest = whole
        if start is not None:
            later = [cut for cut in keep if cut > start.cut]
            rest = Bound(self._program, self._module, self._dtype, folded=folded, after=start.cut, keep=later)
            if start.cut in self.prefixes:
                getattr(self.prefixes[start.cut], split).extend(ready)
        for number, batch in enumerate(batches):
            if number < len(ready):
                runner, given = rest, (ready[number], batch[1])
            else:
                runner, given = whole, batch
            outputs = self._task.forward(runner, given)
            for cut, found in runner.kept.items():
                getattr(self.prefixes[cut], split).append(found.pop())
            yield outputs, batch

    def _statistics(self, cut: int) -> dict[str, tuple[Tensor, Tensor]]:
        assert self._program is not None  # without a program there are no cuts
        names = {name for step in self._program.steps[: cut + 1] for name in step.modules}
        layers = ((name, layer) for name, layer in self._module.named_modules() if name in names)
        norms = ((name, layer) for name, layer in layers if isinstance(layer, BATCH_NORMS))
        return {
            name: (norm.running_mean, norm.running_var)
            for name, norm in norms
            if norm.running_mean is not None and norm.running_var is not None
        }
