"""Plan -> C text -> library: one call a layer, one arena, weights in the read-only data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hwprune.compilation import c_code, threads, toolchain
from hwprune.compilation.arena import ALIGNMENT_BYTES, align
from hwprune.compilation.kernels import specify
from hwprune.compilation.kernels.kernel import Kernel, Share, Usage
from hwprune.compilation.plan import FLOAT_BYTES, Call, Place, Plan
from hwprune.compilation.targets import CpuTarget
from latency_models.shapes import LayerShape

#: Writes an integer into C text.
Write = Callable[[int], str]

#: A fixed small convolution in every library: its time tells how disturbed a device is.
REFERENCE = LayerShape("conv2d", 32, 32, 16, 16, (3, 3), (1, 1), (1, 1), epilogue="relu")

_HEAD = """\
%(prelude)s%(declarations)s
static const char description[] = %(description)s;
const char *library_description(void) { return description; }

static float reference_data[%(reference_floats)d] ALIGNED;
void reference_run(void)
{
%(reference)s
}
"""

_MEMORY = """
/* From the start of a page, so that which places fall into the same cache sets is equal in all libraries. */
static char arena[%(arena)d] __attribute__((aligned(4096)));
extern const char weights[] HIDDEN;
__asm__(".section .rodata\\n.balign 4096\\n.hidden weights\\n.globl weights\\n"
        "weights: .incbin \\"%(blob)s\\"\\n.previous");
#define A(offset) ((float *)(arena + (offset)))
#define W(offset) ((const float *)(weights + (offset)))
"""

_NETWORK_ARGUMENTS = (("input", "const float *"), ("output", "float *"))

_NETWORK = """
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
"""

_CHOICE = """\
    switch (index) {
%s
    default:
        return 1;
    }"""


@dataclass(frozen=True)
class PackEntry:
    """A kernel of a pack, with buffers for the largest of its uses.

    Attributes:
        usages: its uses.
        batch: images a run.
        threads: of a run.
    """

    usages: tuple[Usage, ...]
    batch: int
    threads: int

    def case(self, index: int) -> tuple[str, int, int]:
        """C text of the call, and the float32 values it needs to read and to write."""
        first = self.usages[0]
        largest = [max(sizes) for sizes in zip(*(usage.sizes for usage in self.usages), strict=True)]
        is_readable = [index < len(first.inputs) + len(first.parameters) for index in range(len(largest))]
        places: list[str] = []
        used = {True: 0, False: 0}
        for size, reads in zip(largest, is_readable, strict=True):
            places.append(f"{'readable' if reads else 'writable'} + {used[reads]}")
            used[reads] += align(size * FLOAT_BYTES) // FLOAT_BYTES
        repeat = f"for (int n = 0; n < {self.batch}; n++) " if self.batch > 1 else ""
        text = self._call(places, repeat)
        return f"    case {index}:\n        {text}\n        break;", used[True], used[False]

    def _call(self, places: Sequence[str], repeat: str) -> str:
        """C statement of the call, or of every thread's."""
        usage = self.usages[0]
        count = len(usage.numbers)
        if not usage.shares:
            call = f"{repeat}{usage.kernel.symbol}({', '.join([*(f'numbers[{n}]' for n in range(count)), *places])});"
            return call if self.threads == 1 else threads.by_thread([call])
        arguments = [f"p[{n}]" for n in range(count)]
        arguments += [f"{place} + p[{count + n}]" for n, place in enumerate(places)]
        call = f"{repeat}{usage.kernel.symbol}({', '.join(arguments)});"
        return f"{{ const int32_t *p = numbers + t * {len(arguments)}; {call} }}"


def pack_source(entries: Sequence[PackEntry], description: Mapping[str, Any], target: CpuTarget) -> tuple[str, int]:
    """C text of a pack of kernels, and the bytes of its buffers (written into the description too)."""
    cases, readable, writable = zip(*(entry.case(index) for index, entry in enumerate(entries)), strict=True)
    buffers = _PACK % {"readable": max(readable), "writable": max(writable)}
    description = {**description, "arena_bytes": (max(readable) + max(writable)) * FLOAT_BYTES}
    usages = [entry.usages[0] for entry in entries]
    arguments = (("index", "int32_t "), ("numbers", "const int32_t *"))
    function = threads.function("kernel_run", arguments, _CHOICE % "\n".join(cases), target.threads)
    return head(usages, json.dumps(description), target) + buffers + function, description["arena_bytes"]


def network_source(plan: Plan, description: str, blob: Path, target: CpuTarget) -> str:
    """C text of a network."""
    usages = [call.usage for call in plan.calls]
    offsets = parameter_offsets(usages)
    calls = [f"    {statement(plan, step, offsets[step])}" for step in range(len(plan.calls))]
    text = head(usages, description, target) + memory(plan.arena.size_bytes, blob)
    body = threads.in_order(calls, target.threads)
    return text + threads.function("network_run", _NETWORK_ARGUMENTS, body, target.threads) + _NETWORK


def memory(arena_bytes: int, blob: Path) -> str:
    """C text of the arena and the weights, with ``A`` and ``W`` for places in them."""
    return _MEMORY % {"arena": max(arena_bytes, ALIGNMENT_BYTES), "blob": blob}


def head(usages: Iterable[Usage], description: str, target: CpuTarget) -> str:
    """Declarations, description and reference kernel."""
    reference = reference_usage(target)
    kernels = {usage.kernel: usage for usage in (reference, *usages)}
    arguments, offset = [*map(str, reference.numbers)], 0
    for size in reference.sizes:
        arguments.append(f"reference_data + {offset}")
        offset += size
    fields = {
        "prelude": c_code.PRELUDE,
        "declarations": "\n".join(map(_declaration, kernels.values())),
        "description": json.dumps(description),
        "reference_floats": offset,
        "reference": f"    {reference.kernel.symbol}({', '.join(arguments)});",
    }
    return _HEAD % fields


def reference_usage(target: CpuTarget) -> Usage:
    """The reference kernel on this target, always of one thread."""
    return specify(replace(REFERENCE, layout=target.layout), replace(target, threads=1))


def _declaration(usage: Usage) -> str:
    readable = len(usage.inputs) + len(usage.parameters)
    writable = len(usage.outputs) + len(usage.scratch)
    types = ["int32_t"] * len(usage.numbers) + ["const float *"] * readable + ["float *"] * writable
    kernel = usage.kernel
    return (
        kernel.glue if not kernel.is_composite and kernel.glue else f"void {kernel.symbol}({', '.join(types)}) HIDDEN;"
    )


def parameter_offsets(usages: Sequence[Usage]) -> list[list[int]]:
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


def statement(plan: Plan, step: int, parameters: Sequence[int], write: Write = str) -> str:
    """One C statement: the call, or that of every thread, in a loop over the images where there are several.

    Args:
        plan: the network.
        step: number of the call.
        parameters: byte offsets of its parameters.
        write: writes every integer that may depend on the network's widths.
    """
    if plan.threads == 1:
        return _call(plan, step, parameters, None, write)
    shares = plan.calls[step].usage.shares or (None,)
    return threads.by_thread([_call(plan, step, parameters, share, write) for share in shares])


def _call(plan: Plan, step: int, parameters: Sequence[int], share: Share | None, write: Write) -> str:
    """C statement of a call, or of a thread's share of it."""
    call: Call = plan.calls[step]
    loop = plan.batch > 1 and not call.usage.whole_batch
    places = [_pointer(plan, place, loop, write) for place in call.inputs]
    places += [f"W({write(offset)})" for offset in parameters]
    places += [_pointer(plan, place, loop, write) for place in call.outputs]
    places += [f"A({write(plan.arena.offsets[f'{step}.{index}'])})" for index in range(len(call.usage.scratch))]
    if share:
        places = [f"{place} + {write(offset)}" for place, offset in zip(places, share.offsets, strict=True)]
    numbers = map(write, share.numbers if share else call.usage.numbers)
    repeat = f"for (int64_t n = 0; n < {plan.batch}; n++) " if loop else ""
    return f"{repeat}{call.usage.kernel.symbol}({', '.join([*numbers, *places])});"


def _pointer(plan: Plan, place: Place, loop: bool, write: Write) -> str:
    """C expression of a place."""
    if place.storage in plan.outside:
        pointer, offset = plan.outside[place.storage]
        text = f"{pointer} + {write(offset + place.offset_floats)}"
    else:
        offset = plan.arena.offsets[plan.shared.get(place.storage, place.storage)]
        text = f"A({write(offset + place.offset_floats * FLOAT_BYTES)})"
    return f"{text} + n * {write(place.stride_floats)}" if loop else text


def link(text: str, objects: Sequence[Path], out: Path, target: CpuTarget) -> None:
    """Compile C text with object files into a library.

    Raises:
        CompileError: the C compiler is missing or refuses.
    """
    # Of one thread it is a list of calls, and looking for something to optimize would take longer than the rest.
    level = "-O0" if target.threads == 1 else "-O1"
    c_code.build(text, [level, *toolchain.LIBRARY_OPTIONS], objects, out, target)


def linked_kernels(usages: Iterable[Usage]) -> list[Kernel]:
    """Kernels whose object files these uses need, in the order of their first use."""
    kernels = dict.fromkeys(usage.kernel for usage in usages)
    composites = [kernel for kernel in kernels if kernel.is_composite]
    return list(dict.fromkeys([*(part for kernel in kernels for part in kernel.parts), *composites]))
