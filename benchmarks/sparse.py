"""Convolutions that leave out zeros against the dense ones, from 50 % to 98 % sparsity, and where they break even.

    python benchmarks/sparse.py [--quick]

Chains of equal layers with random masks, and ResNet-56, each compiled whole and timed in one process by turns. The
least of all turns is what counts, conversions between layouts included. The last lines but one are those of
``BREAK_EVEN`` in ``kernels/sparse.py``.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from conditions import print_conditions, print_result
from torch import nn

from device_agents.agent.engine_library import Library
from hwprune.compilation.compiler import Compiler
from hwprune.compilation.graph import trace
from hwprune.compilation.kernels.sparse import BreakEven, Sparse
from hwprune.compilation.targets import host_target
from hwprune.compilation.verify import verify
from hwprune.networks import build

SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
SPARSITIES_QUICK = (0.5, 0.7, 0.9, 0.98)
SECONDS, SECONDS_QUICK = 10.0, 1.0
NETWORK_SPARSITY = 0.9


@dataclass(frozen=True)
class Case:
    """A layer of the benchmark: square window and image, as many output as input channels."""

    taps: int
    channels: int
    size: int

    def __str__(self) -> str:
        return f"{self.taps}x{self.taps} {self.channels}->{self.channels} at {self.size}x{self.size}"

    def chain(self, layers: int) -> nn.Sequential:
        """The layer several times, behind one that gives it its channels."""
        modules: list[nn.Module] = [nn.Conv2d(3, self.channels, 1), nn.ReLU()]
        for _ in range(layers):
            modules += [nn.Conv2d(self.channels, self.channels, self.taps, padding=self.taps // 2), nn.ReLU()]
        return nn.Sequential(*modules).eval()


CASES = (
    *(Case(3, 16, 32), Case(3, 64, 32), Case(3, 64, 16), Case(3, 64, 8)),
    *(Case(3, 512, 4), Case(1, 256, 14)),
)


class Bench:
    """Compiles networks, holds them to torch's output, and times them by turns."""

    def __init__(self, folder: Path) -> None:
        self.compiler = Compiler(host_target(), folder)

    def library(self, module: nn.Module, x: torch.Tensor, sparse: Sparse) -> Library:
        """The network with or without sparse kernels.

        Raises:
            CompileError: it does not compute what torch computes.
        """
        artifact = self.compiler.network(replace(trace(module, x), sparse=sparse), module)
        verify(artifact, module, x)
        return Library(str(artifact.path))

    def layer_us(
        self, case: Case, sparsities: Sequence[float], layers: int, seconds: float
    ) -> tuple[float, list[float]]:
        """Time of one dense layer, and of one sparse layer at each sparsity, in microseconds."""
        x = torch.randn(1, 3, case.size, case.size)
        chain = case.chain(layers)
        stem = self.library(chain[:2], x, "never")
        dense = self.library(chain, x, "never")
        pruned = [self.library(without_weights(chain, sparsity), x, "always") for sparsity in sparsities]
        first, *others = least_us([stem, dense, *pruned], seconds)
        dense_us, *sparse_us = [(other - first) / layers for other in others]
        return dense_us, sparse_us

    def network_us(self, sparsity: float, seconds: float) -> dict[str, float]:
        """Time of ResNet-56 with dense kernels, with sparse ones throughout, and with those that are chosen."""
        module = without_weights(
            build({"name": "resnet_cifar", "depth": 56}, num_classes=10, in_channels=3).eval(), sparsity
        )
        x = torch.randn(1, 3, 32, 32)
        switches: tuple[Sparse, ...] = ("never", "always", "auto")
        times = least_us([self.library(module, x, switch) for switch in switches], seconds)
        return dict(zip(switches, times, strict=True))


def without_weights(module: nn.Module, sparsity: float) -> nn.Module:
    """A copy with that share of every convolution's weights set to zero, except the first layer's."""
    module = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)][1:]:
            layer.weight *= torch.rand(layer.weight.shape, generator=generator) >= sparsity
    return module


def least_us(libraries: Sequence[Library], seconds: float) -> list[float]:
    """Least time of each network in microseconds, run by turns for so many seconds."""
    runs: list[Callable[[], int]] = [library.network() for library in libraries]
    least = [float("inf")] * len(runs)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for index, run in enumerate(runs):
            started = time.perf_counter()
            run()
            least[index] = min(least[index], time.perf_counter() - started)
    return [1e6 * each for each in least]


def break_even(sparsities: Sequence[float], speedups: Sequence[float]) -> float | None:
    """Sparsity from which on it is faster, between two measured ones by a straight line; None where it never is."""
    slower = [index for index, speedup in enumerate(speedups) if speedup < 1]
    if not slower:
        return sparsities[0]
    last = slower[-1]
    if last == len(speedups) - 1:
        return None
    return float(np.interp(1, speedups[last : last + 2], sparsities[last : last + 2]))


def main() -> None:
    """Measure the layers and the network, print a table and the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="four sparsities, chains of four layers, shorter")
    quick = parser.parse_args().quick
    sparsities, layers, seconds = (SPARSITIES_QUICK, 4, SECONDS_QUICK) if quick else (SPARSITIES, 8, SECONDS)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print_conditions()
    print(
        f"{'dense time / sparse time':<26}{'dense us':>9}" + "".join(f"{each:>7.0%}" for each in sparsities) + "  even"
    )
    result: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        bench = Bench(Path(folder))
        measured = []
        for case in CASES:
            dense_us, sparse_us = bench.layer_us(case, sparsities, layers, seconds)
            speedups = [dense_us / each for each in sparse_us]
            even = break_even(sparsities, speedups)
            print(
                f"{case!s:<26}{dense_us:>9.1f}" + "".join(f"{each:>7.2f}" for each in speedups) + f"  {even}",
                flush=True,
            )
            result[str(case)] = {"dense_us": dense_us, "sparse_us": sparse_us, "break_even": even}
            # A layer that never gets faster breaks even where nothing is left.
            measured.append(
                BreakEven(case.taps**2, case.channels, case.size**2, 1.0 if even is None else round(even, 2))
            )
        network = bench.network_us(NETWORK_SPARSITY, seconds)
    print(
        f"\nResNet-56 at {NETWORK_SPARSITY:.0%}: "
        + ", ".join(f"{key} {value:.0f} us" for key, value in network.items())
    )
    print(f"\nfor BREAK_EVEN[{host_target().unit.feature!r}]:")
    for layer in measured:
        print(f"    BreakEven({layer.taps}, {layer.channels}, {layer.pixels}, {layer.sparsity}),")
    print_result({"benchmark": "sparse", "sparsities": sparsities, "layers": result, "resnet56_us": network})


if __name__ == "__main__":
    main()
