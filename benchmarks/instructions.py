"""Instructions of the aarch64 kernels for every multiply-add of a vector, counted in an emulator.

    python benchmarks/instructions.py [--quick]

Needs ``qemu-aarch64`` and ``aarch64-linux-gnu-gcc`` (Debian: qemu-user, gcc-aarch64-linux-gnu, libc6-dev-arm64-cross).
Every kernel runs as in a profile, from a kernel pack: padding, glue and edges of the image are counted. QEMU translates
instructions one by one and logs each that is executed; the lines of a program that calls the kernel twice less those of
one that calls it once are the instructions of a call. This is a count and says nothing of time: an emulator has no
pipeline and no caches.

The best count by hand is the least that loops of this kind can do with 32 registers of 4 lanes, without padding or
remainders, the size of the tile chosen freely. ``fmla`` multiplies by one lane of a register, so a load of one vector
brings 4 input channels of a pixel, and ``ldp`` loads two vectors:

* Convolution, tile of g blocks of 4 output channels and p pixels of a row, window of kh x kw taps, 4 input channels:
  4 kh kw g p ``fmla``; 4 kh kw g weights and kh ((p - 1) stride + kw) inputs, two a load; ``subs`` and branch (pointers
  move by the loads themselves). After the last channel each of the g p sums was set to the bias, is rectified, and is
  stored, two a store. A row of inputs stays in registers with the sums and two weights:
  g p + (p - 1) stride + kw + 2 <= 32.
* Depthwise, tile of r rows and p columns: kh kw r p ``fmla``; ((r - 1) stride + kh) ((p - 1) stride + kw) inputs, two a
  load; kh kw weights that stay in registers for all tiles, where r p + kh kw + 2 <= 32, or are loaded for each, two a
  load, where r p + 4 <= 32; each sum set, rectified and stored as above; ``subs`` and branch. Taps beside the image are
  left out of the products, here and in the count.
* Dense, g blocks of outputs, 4 inputs: 4 g ``fmla``; 4 g weights, two a load; half a load of inputs; ``subs`` and
  branch; each sum set, and stored two at once. Sums, two weights and the inputs stay in registers: g + 4 <= 32.

The last line is ``RESULT {"kernels": {CPU: {KERNEL: {"per_multiply_add", "by_hand", "ratio"}}}, "worst_ratio": ...}``.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from conditions import print_conditions, print_result

from hwprune.compilation.compiler import Compiler
from hwprune.compilation.targets import CpuTarget
from latency_models.shapes import LayerShape

TRIPLE = "aarch64-linux-gnu"
CPUS = ("cortex-a53", "cortex-a72", "cortex-a76", "neoverse-n1")
CPUS_QUICK = ("cortex-a53", "cortex-a76")
REGISTERS, LANES = 32, 4
LAYOUT = f"nchw{LANES}c"

KERNELS = {
    "conv_3x3": LayerShape("conv2d", 32, 32, 12, 12, (3, 3), (1, 1), (1, 1), epilogue="relu", layout=LAYOUT),
    "conv_1x1": LayerShape("conv2d", 64, 64, 14, 14, epilogue="relu", layout=LAYOUT),
    "depthwise_3x3": LayerShape("depthwise", 16, 16, 28, 28, (3, 3), (1, 1), (1, 1), epilogue="relu", layout=LAYOUT),
    "dense": LayerShape("dense", 256, 256, 1, 1, layout=LAYOUT),
}

#: Calls ``kernel_run(index, numbers)`` as often as the second argument says.
RUNNER = """\
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>

int main(int count, char **arguments)
{
    void *library = dlopen(arguments[1], RTLD_NOW);
    int (*run)(int32_t, const int32_t *) = (int (*)(int32_t, const int32_t *))dlsym(library, "kernel_run");
    int32_t numbers[16] = {0};
    for (int i = 4; i < count && i < 20; i++)
        numbers[i - 4] = atoi(arguments[i]);
    for (int i = atoi(arguments[2]); i > 0; i--)
        if (run(atoi(arguments[3]), numbers))
            return 1;
    return 0;
}
"""


class Emulator:
    """Counts the instructions of kernels."""

    def __init__(self, folder: Path) -> None:
        self.runner = folder / "runner"
        (folder / "runner.c").write_text(RUNNER)
        command = [f"{TRIPLE}-gcc", "-O1", "-o", str(self.runner), str(folder / "runner.c"), "-ldl"]
        subprocess.run(command, check=True)

    def instructions(self, library: Path, index: int, numbers: Sequence[int]) -> int:
        """Instructions of a kernel's second call: the first one has bound all symbols."""
        return self._executed(library, 2, index, numbers) - self._executed(library, 1, index, numbers)

    def _executed(self, library: Path, calls: int, index: int, numbers: Sequence[int]) -> int:
        """Instructions of the whole program; a line of the log each."""
        # One instruction a block of translated code, by the name that QEMU had for it until 8.0 and the one since.
        environment = {**os.environ, "QEMU_SINGLESTEP": "1", "QEMU_ONE_INSN_PER_TB": "1"}
        command = ["qemu-aarch64", "-L", f"/usr/{TRIPLE}", "-d", "exec,nochain", str(self.runner), str(library)]
        command += [str(calls), str(index), *map(str, numbers)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as process:
            log = process.stderr
            assert log is not None
            lines = 0
            while chunk := log.read(1 << 20):
                lines += chunk.count(b"\n")
        if process.returncode:
            sys.exit(f"error: the emulator ends with status {process.returncode}: run it by hand ({' '.join(command)})")
        return lines


def multiply_adds(shape: LayerShape) -> float:
    """Multiply-adds of vectors; those of a depthwise layer that lie beside the image are nobody's."""
    if shape.op == "dense":
        return shape.in_channels * shape.out_channels / LANES
    (kh, kw), (pad, _) = shape.kernel, shape.padding
    if shape.op == "depthwise":
        beside = pad * (pad + 1)  # taps outside, over all windows of a column
        return (kh * shape.height - beside) * (kw * shape.width - beside) * shape.out_channels / LANES
    return kh * kw * shape.in_channels * shape.out_channels * shape.height * shape.width / LANES


def by_hand(shape: LayerShape) -> float:
    """The best count by hand, a multiply-add; see the head of this file."""
    if shape.op == "dense":
        return min(_dense_by_hand(shape, g) for g in range(1, REGISTERS - 3))
    tiles = itertools.product(range(1, REGISTERS), repeat=2)
    count = _depthwise_by_hand if shape.op == "depthwise" else _conv_by_hand
    return min(count(shape, *tile) for tile in tiles)


def _conv_by_hand(shape: LayerShape, g: int, p: int) -> float:
    (kh, kw), span = shape.kernel, (p - 1) * shape.stride[1] + shape.kernel[1]
    if g * p + span + 2 > REGISTERS:
        return float("inf")
    products = LANES * kh * kw * g * p
    step = products + LANES * kh * kw * g / 2 + kh * span / 2 + 2
    steps = shape.in_channels / LANES
    return (steps * step + 2.5 * g * p) / (steps * products)


def _depthwise_by_hand(shape: LayerShape, r: int, p: int) -> float:
    (kh, kw), (step_y, step_x) = shape.kernel, shape.stride
    if r * p + 4 > REGISTERS:
        return float("inf")
    weights = 0 if r * p + kh * kw + 2 <= REGISTERS else kh * kw / 2
    inputs = ((r - 1) * step_y + kh) * ((p - 1) * step_x + kw) / 2
    inside = multiply_adds(shape) / (kh * kw * shape.out_channels * shape.height * shape.width / LANES)
    return 1 + (weights + inputs + 2.5 * r * p + 2) / (kh * kw * r * p * inside)


def _dense_by_hand(shape: LayerShape, g: int) -> float:
    steps = shape.in_channels / LANES
    return (steps * (LANES * g + LANES * g / 2 + 0.5 + 2) + 1.5 * g) / (steps * LANES * g)


def main() -> None:
    """Print a line a kernel."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two CPUs instead of four")
    cpus = CPUS_QUICK if parser.parse_args().quick else CPUS
    print_conditions()
    missing = [program for program in ("qemu-aarch64", f"{TRIPLE}-gcc") if not shutil.which(program)]
    if missing:
        print(f"skipped: {' and '.join(missing)} not found; apt install qemu-user gcc-{TRIPLE} libc6-dev-arm64-cross")
        print_result({"kernels": {}, "worst_ratio": None})
        return
    results: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        emulator = Emulator(Path(name))
        for cpu in cpus:
            target = CpuTarget.from_dict({"kind": "llvm", "mcpu": cpu, "mtriple": TRIPLE})
            pack = Compiler(target, Path(name)).kernels(list(KERNELS.values()))
            results[cpu] = {}
            for kernel, shape in KERNELS.items():
                count = emulator.instructions(pack.artifact.path, *pack.index[shape]) / multiply_adds(shape)
                best = by_hand(shape)
                print(f"{cpu:12} {kernel:14} {count:.3f} a multiply-add, {best:.3f} by hand: {count / best:.2f}")
                values = {"per_multiply_add": count, "by_hand": best, "ratio": count / best}
                results[cpu][kernel] = {name: round(value, 3) for name, value in values.items()}
    worst = max(values["ratio"] for kernels in results.values() for values in kernels.values())
    print_result({"kernels": results, "worst_ratio": round(worst, 3)})


if __name__ == "__main__":
    main()
