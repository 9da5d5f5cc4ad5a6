"""TVM's own code for a region without a kernel of ours: fixed shapes, no schedule; counted, because it is slow."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hwprune.compilation.kernels.kernel import Kernel

if TYPE_CHECKING:
    from hwprune.compilation.relax_import import RelaxProgram


@dataclass(frozen=True)
class Fallback(Kernel):
    """Functions that Relax made, called one after the other.

    Attributes:
        digest: of the functions and the order of their calls.
        program: the functions.
    """

    digest: str
    program: RelaxProgram = field(compare=False, repr=False)

    @classmethod
    def of(cls, program: RelaxProgram, lanes: int) -> Fallback:
        """Kernel of a lowered region."""
        text = repr((program.inputs, program.outputs, program.steps, sorted(program.sizes.items())))
        return cls(lanes, hashlib.sha256(text.encode()).hexdigest()[:24], program)

    @functools.cached_property
    def symbol(self) -> str:
        """Name of the C function."""
        return f"hw_fallback_{self.digest}"

    @property
    def glue(self) -> str:
        """C text that calls the functions with buffers in the caller's scratch."""
        program = self.program
        offsets, _ = program.workspace()
        readable = [*program.inputs, *program.constants]
        places = {name: f"(void *){name}" for name in (*readable, *program.outputs)}
        places |= {name: f"(char *)scratch + {offset}" for name, offset in offsets.items()}
        signature = [f"const float *{name}" for name in readable] + [f"float *{name}" for name in program.outputs]
        declarations = [
            f"void {step.symbol}({', '.join(['void *'] * len(step.arguments))}) HIDDEN;" for step in program.steps
        ]
        calls = [f"    {step.symbol}({', '.join(places[name] for name in step.arguments)});" for step in program.steps]
        signature += ["float *scratch"] if offsets else []
        lines = [*dict.fromkeys(declarations), f"static void {self.symbol}({', '.join(signature)})", "{", *calls, "}"]
        return "\n".join(lines)

    def build(self) -> dict[str, Any]:
        """The functions as Relax made them."""
        return dict(self.program.functions)
