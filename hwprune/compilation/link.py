"""Plan -> C text -> library: one call a layer, one arena, weights in the read-only data."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hwprune.compilation.arena import ALIGNMENT_BYTES, align
from hwprune.compilation.kernels import specify
from hwprune.compilation.kernels.kernel import Kernel, Usage
from hwprune.compilation.plan import FLOAT_BYTES, Call, Place, Plan
from hwprune.compilation.targets import CpuTarget
from hwprune.errors import CompileError
from latency_models.shapes import LayerShape

#: A fixed small convolution in every library: its time tells how disturbed a device is.
REFERENCE = LayerShape("conv2d", 32, 32, 16, 16, (3, 3), (1, 1), (1, 1), epilogue="relu")

_HEAD = """\
#include <stdint.h>
#include <string.h>
#define HIDDEN __attribute__((visibility("hidden")))
#define ALIGNED __attribute__((aligned(64)))
%(declarations)s
static const char description[] = %(description)s;
const char *library_description(void) { return description; }

static float reference_data[%(reference_floats)d] ALIGNED;
void reference_run(void)
{
%(reference)s
}
"""

_NETWORK = """
static char arena[%(arena)d] ALIGNED;
extern const char weights[] HIDDEN;
__asm__(".section .rodata\\n.balign 64\\n.hidden weights\\n.globl weights\\n"
        "weights: .incbin \\"%(blob)s\\"\\n.previous");
#define A(offset) ((float *)(arena + (offset)))
#define W(offset) ((const float *)(weights + (offset)))

int network_run(const float *input, float *output)
{
%(calls)s
    return 0;
}

/* So that tvm.runtime.load_module finds "main": arguments are DLTensor pointers (7) or tensor objects (70). */
typedef struct { int32_t type; uint32_t pad; char *value; } any;
static float *data(any a)
{
    char *tensor = a.type == 70 ? a.value + 24 : a.value;
    return (float *)(*(char **)tensor + *(uint64_t *)(tensor + 40));
}
int __tvm_ffi_main(void *self, const any *args, int32_t count, any *result)
{
    (void)self, (void)result;
    return count == 2 ? network_run(data(args[0]), data(args[1])) : -1;
}
"""


_PACK = """
/* What kernels read stays as it is here, so that no value can grow or fade to denormals from run to run. */
static float readable[%(readable)d] ALIGNED, writable[%(writable)d] ALIGNED;
__attribute__((constructor)) static void fill(void)
{
    for (int64_t i = 0; i < %(readable)d; i++)
        readable[i] = 0.0625f * (float)(1 + i %% 7);
}

int kernel_run(int32_t index, const int32_t *numbers)
{
    switch (index) {
%(cases)s
    default:
        return 1;
    }
    return 0;
}
"""


@dataclass(frozen=True)
class PackEntry:
    """A kernel of a pack, with buffers for the largest of its uses.

    Attributes:
        usages: its uses.
        batch: images a run.
    """

    usages: tuple[Usage, ...]
    batch: int

    def case(self, index: int) -> tuple[str, int, int]:
        """C text of the call, and the float32 values it needs to read and to write."""
        first = self.usages[0]
        largest = [max(sizes) for sizes in zip(*map(_sizes, self.usages), strict=True)]
        is_readable = [index < len(first.inputs) + len(first.parameters) for index in range(len(largest))]
        arguments = [f"numbers[{index}]" for index in range(len(first.numbers))]
        used = {True: 0, False: 0}
        for size, reads in zip(largest, is_readable, strict=True):
            arguments.append(f"{'readable' if reads else 'writable'} + {used[reads]}")
            used[reads] += align(size * FLOAT_BYTES) // FLOAT_BYTES
        repeat = f"for (int n = 0; n < {self.batch}; n++) " if self.batch > 1 else ""
        text = f"    case {index}:\n        {repeat}{first.kernel.symbol}({', '.join(arguments)});\n        break;"
        return text, used[True], used[False]


def pack_source(entries: Sequence[PackEntry], description: Mapping[str, Any], target: CpuTarget) -> tuple[str, int]:
    """C text of a pack of kernels, and the bytes of its buffers (written into the description too)."""
    cases, readable, writable = zip(*(entry.case(index) for index, entry in enumerate(entries)), strict=True)
    fields = {"readable": max(readable), "writable": max(writable), "cases": "\n".join(cases)}
    description = {**description, "arena_bytes": (max(readable) + max(writable)) * FLOAT_BYTES}
    usages = [entry.usages[0] for entry in entries]
    return head(usages, json.dumps(description), target) + _PACK % fields, description["arena_bytes"]


def network_source(plan: Plan, description: str, blob: Path, target: CpuTarget) -> str:
    """C text of a network."""
    usages = [call.usage for call in plan.calls]
    offsets = _parameter_offsets(usages)
    calls = [_call_text(plan, step, offsets[step]) for step in range(len(plan.calls))]
    fields = {"arena": max(plan.arena.size_bytes, ALIGNMENT_BYTES), "blob": blob, "calls": "\n".join(calls)}
    return head(usages, description, target) + _NETWORK % fields


def head(usages: Iterable[Usage], description: str, target: CpuTarget) -> str:
    """Declarations, description and reference kernel."""
    reference = reference_usage(target)
    kernels = {usage.kernel: usage for usage in (reference, *usages)}
    arguments, offset = [*map(str, reference.numbers)], 0
    for size in _sizes(reference):
        arguments.append(f"reference_data + {offset}")
        offset += size
    fields = {
        "declarations": "\n".join(map(_declaration, kernels.values())),
        "description": json.dumps(description),
        "reference_floats": offset,
        "reference": f"    {reference.kernel.symbol}({', '.join(arguments)});",
    }
    return _HEAD % fields


def reference_usage(target: CpuTarget) -> Usage:
    """The reference kernel on this target."""
    return specify(replace(REFERENCE, layout=target.layout), target)


def _sizes(usage: Usage) -> tuple[int, ...]:
    """Sizes of all buffers, in the order of the arguments."""
    return (*usage.inputs, *usage.parameters, *usage.outputs, *usage.scratch)


def _declaration(usage: Usage) -> str:
    readable = len(usage.inputs) + len(usage.parameters)
    writable = len(usage.outputs) + len(usage.scratch)
    types = ["int32_t"] * len(usage.numbers) + ["const float *"] * readable + ["float *"] * writable
    return usage.kernel.glue or f"void {usage.kernel.symbol}({', '.join(types)}) HIDDEN;"


def _parameter_offsets(usages: Sequence[Usage]) -> list[list[int]]:
    """Byte offset of every parameter of every call."""
    offsets: list[list[int]] = []
    position = 0
    for usage in usages:
        offsets.append([])
        for size in usage.parameters:
            offsets[-1].append(position)
            position += align(size * FLOAT_BYTES)
    return offsets


def weights_blob(plan: Plan) -> bytes:
    """Packed parameters of all calls, as :func:`network_source` addresses them."""
    blob = bytearray()
    for call in plan.calls:
        arrays = call.pack(call.usage)
        for array, size in zip(arrays, call.usage.parameters, strict=True):
            assert array.size == size
            assert array.dtype == np.float32
            blob += np.ascontiguousarray(array).tobytes()
            blob += bytes(-len(blob) % ALIGNMENT_BYTES)
    return bytes(blob)


def _call_text(plan: Plan, step: int, parameters: Sequence[int]) -> str:
    """One C statement: the call, in a loop over the images where there are several."""
    call: Call = plan.calls[step]
    loop = plan.batch > 1 and not call.usage.whole_batch
    arguments = [*map(str, call.usage.numbers)]
    arguments += [_pointer(plan, place, loop) for place in call.inputs]
    arguments += [f"W({offset})" for offset in parameters]
    arguments += [_pointer(plan, place, loop) for place in call.outputs]
    arguments += [f"A({plan.arena.offsets[f'{step}.{index}']})" for index in range(len(call.usage.scratch))]
    repeat = f"for (int64_t n = 0; n < {plan.batch}; n++) " if loop else ""
    return f"    {repeat}{call.usage.kernel.symbol}({', '.join(arguments)});"


def _pointer(plan: Plan, place: Place, loop: bool) -> str:
    """C expression of a place."""
    if place.storage in plan.outside:
        pointer, offset = plan.outside[place.storage]
        text = f"{pointer} + {offset + place.offset_floats}"
    else:
        offset = plan.arena.offsets[plan.shared.get(place.storage, place.storage)]
        text = f"A({offset + place.offset_floats * FLOAT_BYTES})"
    return f"{text} + n * {place.stride_floats}" if loop else text


def link(text: str, objects: Sequence[Path], out: Path, target: CpuTarget) -> None:
    """Compile C text with object files into a library.

    Raises:
        CompileError: the C compiler is missing or refuses.
    """
    code = out.with_suffix(".c")
    code.write_text(text)
    command = [*target.compiler_command(), "-O1", "-shared", "-fPIC", "-s", "-Wl,--build-id=none", "-Wl,-z,noexecstack"]
    command += ["-o", str(out), str(code), *map(str, objects)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    code.unlink()
    if run.returncode:
        lines = (
            [line for line in run.stderr.splitlines() if "error" in line]
            or run.stderr.splitlines()[-1:]
            or ["no message"]
        )
        raise CompileError(f"{command[0]} failed ({lines[0].strip()}): check that it compiles for {target.name}")


def unique_kernels(usages: Iterable[Usage]) -> list[Kernel]:
    """Kernels in the order of their first use."""
    return list(dict.fromkeys(usage.kernel for usage in usages))
