"""A model for ONNX Runtime as a library: its bytes beside the reference kernel that frames its measurement."""

from __future__ import annotations

from pathlib import Path

from hwprune.compilation import link
from hwprune.compilation.targets import CpuTarget

_MODEL = """
extern const char model[] HIDDEN;
__asm__(".section .rodata\\n.balign 64\\n.hidden model\\n.globl model\\nmodel: .incbin \\"%(blob)s\\"\\n.previous");
const char *onnx_model(void) { return model; }
"""


def source(description: str, blob: Path, target: CpuTarget) -> str:
    """C text of the library.

    Args:
        description: what it says of itself, as JSON.
        blob: file of the model's bytes.
        target: of the reference kernel.
    """
    return link.head([], description, target) + _MODEL % {"blob": blob}
