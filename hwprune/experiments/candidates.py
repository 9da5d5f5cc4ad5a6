"""Pruned networks as jobs for the device: numbers for a resident library where that runs them, else linked alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from device_agents.client import SelfTest
from hwprune.compilation.compiler import Compiler
from hwprune.compilation.plan import Plan
from hwprune.compilation.resident import NotResidentError, ResidentNetwork
from hwprune.compilation.timeline import Timeline
from hwprune.errors import TraceError
from hwprune.experiments.workbench import Workbench
from hwprune.measurement.jobs import NetworkJob
from hwprune.measurement.plans import PlanArithmetic
from hwprune.pruning.plan import PruningPlan
from latency_models.stairs import Stair, few_layout

#: Networks of random widths, besides those of every number of blocks, that show a resident library its kernels.
RANDOM_EXAMPLES = 16


@dataclass
class CandidateJobs:
    """Makes the jobs of one network's candidates; the resident library is compiled at the first.

    Attributes:
        compiler: compiles for the device.
        bench: the network.
        say: told once why candidates are linked alone.
    """

    compiler: Compiler
    bench: Workbench
    say: Callable[[str], None]
    _has_said: bool = field(init=False, default=False)

    def job(self, plan: PruningPlan) -> NetworkJob:
        """Job of a candidate.

        Raises:
            CompileError: it cannot be compiled.
        """
        if plan.mask is None:  # lists of weights that are not zero are a library's own
            try:
                return self._resident_job(plan)
            except NotResidentError as reason:
                if not self._has_said:
                    self.say(f"networks are linked one by one where the resident library cannot run them: {reason}")
                    self._has_said = True
        return linked_job(self.compiler, self.bench, self.bench.cut(plan))

    def timeline(self) -> Timeline | None:
        """Library that times the calls of candidates, one by one; None where there is no resident library."""
        try:
            return self.compiler.timeline(self._resident[0])
        except NotResidentError:
            return None

    def numbers(self, plan: PruningPlan) -> tuple[int, ...]:
        """What stands for a candidate's widths in the resident library and its timeline.

        Raises:
            NotResidentError: the library cannot run it.
        """
        return self._resident[0].family.numbers(self._planned(plan))

    def _resident_job(self, plan: PruningPlan) -> NetworkJob:
        network, test = self._resident
        planned = self._planned(plan)
        return NetworkJob(
            network.artifact,
            test,
            numbers=network.family.numbers(planned),
            memory_bytes=planned.arena.size_bytes + planned.weights_bytes,
            shapes=tuple(call.shape for call in planned.calls),
        )

    def _planned(self, plan: PruningPlan) -> Plan:
        """Calls and buffers of a candidate, for the compiler's target."""
        if self._arithmetic is not None:
            return self._arithmetic(plan.widths)
        return self.bench.graph.for_target(self.compiler.target).plan(self.bench.cut(plan))

    @functools.cached_property
    def _arithmetic(self) -> PlanArithmetic | None:
        """What plans candidates without cutting them; None where cutting alone tells."""
        bench, target = self.bench, self.compiler.target
        if target != bench.graph.target:
            return None
        generator = np.random.default_rng(0)

        def plan_at(widths: Sequence[int]) -> Plan:
            # Any units, not the most important ones: which of them stay must not matter.
            kept = [
                tuple(sorted(generator.permutation(size)[:width].tolist()))
                for size, width in zip(bench.groups.sizes, widths, strict=True)
            ]
            return bench.graph.plan(bench.cut(PruningPlan(tuple(kept))))

        try:
            return PlanArithmetic.learn(plan_at, bench.arithmetic, target)
        except TraceError:
            return None

    @property
    def _resident(self) -> tuple[ResidentNetwork, SelfTest]:
        """The resident library and what it must compute at the dense widths."""
        if isinstance(self._compiled, NotResidentError):
            raise self._compiled
        return self._compiled

    @functools.cached_property
    def _compiled(self) -> tuple[ResidentNetwork, SelfTest] | NotResidentError:
        bench = self.bench
        try:
            network = self.compiler.resident(bench.graph, bench.dense, self._examples())
        except NotResidentError as reason:
            return reason
        return network, self_test(network.module, bench.example_input)

    def _examples(self) -> Iterator[nn.Module]:
        """Networks with every number of blocks that a layer can have, and some of random widths.

        Where few channels have kernels of their own, those between any two groups, too, of which either has few.
        """
        sizes, lanes = np.asarray(self.bench.groups.sizes), self.compiler.target.lanes
        for width in range(lanes, int(sizes.max()), lanes):
            yield self.bench.candidate(np.minimum(sizes, width))
        if any(few_layout(lanes) in template.layout for template in self.bench.arithmetic.templates):
            numbers = np.arange(len(sizes))
            digits = [numbers >> bit & 1 == 1 for bit in range(len(sizes).bit_length())]
            for has_few in (numbers >= 0, *digits, *(~digit for digit in digits)):
                yield self.bench.candidate(np.where(has_few, np.minimum(sizes, Stair.of(lanes).few), sizes))
        generator = np.random.default_rng(0)
        for _ in range(RANDOM_EXAMPLES):
            yield self.bench.candidate(generator.integers(1, sizes + 1))


def linked_job(compiler: Compiler, bench: Workbench, module: nn.Module) -> NetworkJob:
    """Job of a network that is linked alone, with its own weights.

    Raises:
        CompileError: it cannot be compiled.
    """
    return NetworkJob(compiler.network(bench.graph, module), self_test(module, bench.example_input))


def self_test(module: nn.Module, example_input: torch.Tensor) -> SelfTest:
    """What a network's library must compute: torch's own output for a random input of the example's shape."""
    x = torch.randn(example_input.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        outputs = module(x)
    parts = outputs if isinstance(outputs, (tuple, list)) else [outputs]
    return SelfTest(x.numpy().tobytes(), b"".join(part.contiguous().numpy().tobytes() for part in parts))
