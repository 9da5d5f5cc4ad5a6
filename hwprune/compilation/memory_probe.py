"""A library that reads more memory than a core's own caches hold: its time tells how much others use what is shared."""

from __future__ import annotations

from hwprune.compilation import link
from hwprune.compilation.targets import CpuTarget

#: Read by one call: far more than a core has for itself, and little for any board.
PROBE_BYTES = 16 << 20

_PROBE = """
void *memchr(const void *, int, size_t);
static char memory[%(size)d] ALIGNED;
/* Pages that were never written are all the same one, which stays in the first cache. */
__attribute__((constructor)) static void fill(void) { memset(memory, 1, sizeof memory); }
int network_run(const float *input, float *output)
{
    output[0] = input[0];
    return memchr(memory, 2, sizeof memory) ? 1 : 0;
}
"""


def source(description: str, target: CpuTarget) -> str:
    """C text of the library.

    Args:
        description: what it says of itself, as JSON.
        target: of the reference kernel.
    """
    return link.head([], description, target) + _PROBE % {"size": PROBE_BYTES}
