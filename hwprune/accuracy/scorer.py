"""Scores candidates of one network by one protocol; the same in every process that holds the same parcel."""

from __future__ import annotations

import functools
import hashlib
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from hwprune import networks, tasks
from hwprune.accuracy.bound import Bound
from hwprune.accuracy.prefix import Prefix, Run, Sharing
from hwprune.accuracy.program import Program
from hwprune.datasets.data import Data
from hwprune.executors import Parcel
from hwprune.pruning.plan import Groups, PruningPlan
from hwprune.pruning.structured import Slicer
from hwprune.records import Score
from hwprune.tasks.base import BaseTask, Batch

#: Images seen, and the number of errors from which on a candidate is given up there.
Look = tuple[int, int]

#: Memory of a number in bfloat16, the format of most searches.
SHORT_BYTES = 2

#: What can go wrong with one candidate alone.
FAILURES = (RuntimeError, ArithmeticError, MemoryError)


@dataclass(frozen=True)
class Protocol:
    """How a score is taken.

    Attributes:
        dtype: number format of the convolutions.
        train_batches: training batches that BatchNorm statistics are re-estimated on; None for all of them.
    """

    dtype: torch.dtype
    train_batches: int | None = None


#: How the scores of returned networks are taken.
FINAL = Protocol(torch.float32)


@dataclass(frozen=True)
class Listed:
    """A split of batches that were read once and are kept (a :class:`hwprune.datasets.data.Split`).

    Attributes:
        kept: the batches.
    """

    kept: Sequence[Batch]

    def __len__(self) -> int:
        return sum(len(images) for images, _ in self.kept)

    def batches(self, *_: object, **__: object) -> Iterator[Batch]:
        """The batches, as they were read."""
        return iter(self.kept)


@dataclass(frozen=True)
class Origin:
    """What a scorer is built from beside tensors, as plain data.

    Attributes:
        network: as the problem names it.
        task: as the problem names it.
        data: the data set's facts; its splits hold no images.
        groups: what can be pruned.
    """

    network: Mapping[str, Any]
    task: Mapping[str, Any]
    data: Data
    groups: Groups


@dataclass
class Scorer:
    """Scores candidates: cut, BatchNorm statistics re-estimated, run over the validation split.

    Attributes:
        origin: what it was built from.
        dense: the dense network, in evaluation mode.
        train: batches that BatchNorm statistics are re-estimated on; none where they are kept.
        val: the validation split, in the order of looks at it.
        program: what runs candidates; None where only their own ``forward`` can.
        sharing: what candidates have in common; None without a program.
    """

    origin: Origin
    dense: nn.Module
    train: Sequence[Batch]
    val: Sequence[Batch]
    _task: BaseTask = field(init=False)
    _slicer: Slicer = field(init=False)
    _dense_key: str = field(init=False)
    program: Program | None = field(init=False)
    sharing: Sharing | None = field(init=False)

    def __post_init__(self) -> None:
        listed = replace(self.origin.data, train=Listed(self.train), val=Listed(self.val), test=Listed(()))
        task = tasks.build(dict(self.origin.task), listed)
        assert isinstance(task, BaseTask)
        self._task = task
        self._slicer = Slicer(self.dense, self.origin.groups)
        self._dense_key = PruningPlan.dense(self.origin.groups).key
        self.program = self._sound(Program.read(self.dense))
        self.sharing = self._sharing()

    @property
    def counts(self) -> bool:
        """Whether the metric is the share of images that are right, so that candidates can be given up early."""
        return type(self._task).right is not BaseTask.right

    def score(self, plan: PruningPlan, protocol: Protocol, looks: Sequence[Look] = ()) -> Score:
        """The metric of one candidate, or why there is none after a second try; see :meth:`scores`."""
        return self.scores([plan], protocol, [looks])[0]

    def scores(self, plans: Sequence[PruningPlan], protocol: Protocol, looks: Sequence[Sequence[Look]]) -> list[Score]:
        """The metrics of candidates, each with what it shares with the one before computed once.

        Args:
            plans: the candidates.
            protocol: how they are taken.
            looks: where each is given up; only for tasks that count.
        """
        found: list[Score] = []
        prefixes: dict[int, Prefix] = {}
        for number, (plan, wanted) in enumerate(zip(plans, looks, strict=True)):
            following = plans[number + 1 :]
            keep = self.sharing.keep(plan, following) if self.sharing and plan.key != self._dense_key else []
            score, prefixes = self._attempt(plan, protocol, wanted, prefixes, keep)
            found.append(score)
            if self.sharing and following:
                common = self.sharing.common(plan, following[0])
                prefixes = {cut: prefix for cut, prefix in prefixes.items() if cut <= common}
        return found

    def network(self, plan: PruningPlan, protocol: Protocol = FINAL) -> nn.Module:
        """A candidate with BatchNorm statistics of its own."""
        module = self._slicer.cut(plan)
        if self._estimates(plan):
            Run(self.program, self._task, module, protocol.dtype).estimate(self.train[: protocol.train_batches])
        return module

    def _attempt(
        self,
        plan: PruningPlan,
        protocol: Protocol,
        looks: Sequence[Look],
        prefixes: Mapping[int, Prefix],
        keep: Sequence[int],
    ) -> tuple[Score, dict[int, Prefix]]:
        reason = None
        start = prefixes[max(prefixes)] if prefixes and plan.key != self._dense_key else None
        for _ in range(2):
            try:
                module = self._slicer.cut(plan)
                run = Run(self.program, self._task, module, protocol.dtype, start, keep)
                if self._estimates(plan):
                    run.estimate(self.train[: protocol.train_batches])
                return self._judged(run, looks), {**prefixes, **run.prefixes}
            except FAILURES as error:
                reason = f"{type(error).__name__}: {error}"
        return Score(None, error=reason), {}

    def _judged(self, run: Run, looks: Sequence[Look]) -> Score:
        with torch.inference_mode():
            results = run.results(self.val)
            if not looks:
                return Score(float(self._task.score(results)))
            seen = right = 0
            for outputs, batch in results:
                seen, right = seen + len(batch[0]), right + (self._task.right(outputs, batch) or 0)
                if any(seen == images and seen - right >= errors for images, errors in looks):
                    return Score(right / seen, images=seen)
            return Score(right / seen)

    def _estimates(self, plan: PruningPlan) -> bool:
        return bool(self.train) and plan.key != self._dense_key

    def _sound(self, program: Program | None) -> Program | None:
        """The program, if it computes what the network does, for a pruned candidate too."""
        if program is None:
            return None
        halves = [range(max(1, group.size // 2)) for group in self.origin.groups]
        candidate = self._slicer.cut(PruningPlan(tuple(map(tuple, halves))))
        images = self.val[0][0][:8]
        try:
            with torch.inference_mode():
                for module in (self.dense, candidate):
                    expected, found = module(images), Bound(program, module, torch.float32, folded=True)(images)
                    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        except Exception:  # a program that cannot stand in for the network, for whatever reason, is not used
            return None
        return program

    def _sharing(self) -> Sharing | None:
        if self.program is None or type(self._task).forward is not BaseTask.forward:
            return None  # what a task does before the network would be done again to its activations
        image = self.val[0][0][:1]
        with torch.inference_mode():
            bound = Bound(self.program, self.dense, torch.float32, folded=True, keep=self.program.cuts)
            bound(image)
        images = sum(len(images) for split in (self.train, self.val) for images, _ in split)
        sizes = [SHORT_BYTES * images * bound.kept[cut][0].numel() for cut in self.program.cuts]
        return Sharing(self.program, self.origin.groups, sizes)

    def pack(self, folder: Path) -> Parcel:
        """Write everything into files that other processes can open.

        Args:
            folder: an empty one, on this machine.
        """
        tensors = {f"dense.{name}": value.clone().contiguous() for name, value in self.dense.state_dict().items()}
        others: dict[str, list[Any]] = {}
        for split, batches in (("train", self.train), ("val", self.val)):
            others[split] = []
            for number, (images, targets) in enumerate(batches):
                # Channels last, as the network takes them: they are mapped from the file as they are.
                tensors[f"{split}.{number}.images"] = images.permute(0, 2, 3, 1).clone().contiguous()
                if isinstance(targets, Tensor):
                    tensors[f"{split}.{number}.targets"] = targets.clone().contiguous()
                others[split].append(None if isinstance(targets, Tensor) else targets)
        safetensors.torch.save_file(tensors, folder / "tensors.safetensors")
        bare = replace(self.origin, data=replace(self.origin.data, train=Listed(()), val=Listed(()), test=Listed(())))
        (folder / "origin.pickle").write_bytes(pickle.dumps((bare, others)))
        digest = hashlib.sha256()
        for name in ("tensors.safetensors", "origin.pickle"):
            digest.update((folder / name).read_bytes())
        return Parcel(digest.hexdigest(), folder)


def scores(
    parcel: Parcel, plans: Sequence[PruningPlan], protocol: Protocol, looks: Sequence[Sequence[Look]]
) -> list[Score]:
    """Score candidates in a process that opens the parcel when it is first asked."""
    return unpack(parcel).scores(plans, protocol, looks)


@functools.lru_cache(maxsize=2)
def unpack(parcel: Parcel) -> Scorer:
    """The scorer of a parcel; images and weights stay in the file's own memory, which processes share."""
    folder = parcel.open()
    origin, others = pickle.loads((folder / "origin.pickle").read_bytes())
    tensors = safetensors.torch.load_file(folder / "tensors.safetensors")
    with torch.random.fork_rng(devices=[]):  # its random weights are nobody's business: others take their place
        dense = networks.build(origin.network, origin.data.num_classes, origin.data.input_shape[0])
    weights = {name.removeprefix("dense."): value for name, value in tensors.items() if name.startswith("dense.")}
    dense.load_state_dict(weights, assign=True)

    def batches(split: str) -> Iterable[Batch]:
        for number, targets in enumerate(others[split]):
            images = tensors[f"{split}.{number}.images"].permute(0, 3, 1, 2)
            yield images, tensors[f"{split}.{number}.targets"] if targets is None else targets

    return Scorer(origin, dense.eval(), list(batches("train")), list(batches("val")))
