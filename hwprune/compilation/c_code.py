"""C text that kernels and libraries share, and the C compiler's command."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hwprune.compilation import toolchain
from hwprune.compilation.targets import CpuTarget
from hwprune.errors import CompileError

#: Before all other text.
PRELUDE = """\
#include <stddef.h>
#include <stdint.h>
void *memcpy(void *, const void *, size_t);
void *memset(void *, int, size_t);
#define HIDDEN __attribute__((visibility("hidden")))
#define ALIGNED __attribute__((aligned(64)))
#define UNUSED __attribute__((unused))

"""

#: The time, of the device's C library as far as all on 64-bit Linux agree: its headers are not on this computer.
CLOCK = """
#ifndef CLOCK_MONOTONIC
#define CLOCK_MONOTONIC 1
struct time { long s, ns; };
int clock_gettime(int, struct time *);
static int64_t now_ns(void)
{
    struct time now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.s * INT64_C(1000000000) + now.ns;
}
#endif
"""

#: What composite kernels may call.
PADDING = """\
/* Copy planes with zeros around them; widths in floats. */
static void UNUSED pad_planes(const float *x, float *out, int32_t planes, int32_t height, int32_t width,
                              int32_t pad_y, int32_t pad_x)
{
    int32_t row = width + 2 * pad_x;
    size_t side = pad_x * sizeof(float), border = (size_t)pad_y * row * sizeof(float);
    for (int32_t n = 0; n < planes; n++) {
        memset(out, 0, border);
        out += pad_y * row;
        for (int32_t y = 0; y < height; y++, x += width, out += row) {
            memset(out, 0, side);
            memcpy(out + pad_x, x, width * sizeof(float));
            memset(out + pad_x + width, 0, side);
        }
        memset(out, 0, border);
        out += pad_y * row;
    }
}

/* Copy the rows of planes from ``top``, which may lie above the image, with zeros around them; widths in floats. */
static void UNUSED pad_rows(const float *x, float *out, int32_t planes, int32_t height, int32_t width,
                            int32_t pad_x, int32_t top, int32_t lines)
{
    int32_t row = width + 2 * pad_x;
    size_t side = pad_x * sizeof(float);
    for (int32_t n = 0; n < planes; n++, x += (int64_t)height * width)
        for (int32_t y = top; y < top + lines; y++, out += row) {
            if (y < 0 || y >= height) {
                memset(out, 0, row * sizeof(float));
                continue;
            }
            memset(out, 0, side);
            memcpy(out + pad_x, x + (int64_t)y * width, width * sizeof(float));
            memset(out + pad_x + width, 0, side);
        }
}

/* Copy a row with ``side`` zeros beside it on either side. */
static inline void UNUSED plane_row(const float *x, float *out, int32_t width, int32_t side)
{
    memset(out, 0, side * sizeof(float));
    memcpy(out + side, x, width * sizeof(float));
    memset(out + side + width, 0, side * sizeof(float));
}
"""


def build(text: str, options: Sequence[str], objects: Sequence[Path], out: Path, target: CpuTarget) -> None:
    """Compile C text, with object files or alone, to ``out``.

    Raises:
        CompileError: the C compiler is missing or refuses.
    """
    options = [*toolchain.code_options(target.arch), *options]
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        code = Path(scratch) / "code.c"
        code.write_text(text)
        command = [*target.compiler_command(), *options, "-o", str(out), str(code), *map(str, objects)]
        environment = {**os.environ, **toolchain.environment(scratch)}
        run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if run.returncode:
        lines = (
            [line for line in run.stderr.splitlines() if "error" in line]
            or run.stderr.splitlines()[-1:]
            or ["no message"]
        )
        raise CompileError(f"{command[0]} failed ({lines[0].strip()}): check that it compiles for {target.name}")
