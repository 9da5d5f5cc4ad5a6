"""One layer of the fused graph: operator, values, names of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Layer:
    """What one call (or, for a view, none) of the library does.

    Attributes:
        op: name in ``lowering.OPERATORS``.
        name: torch submodule that it comes from.
        inputs: values it reads.
        outputs: values it writes.
        parameters: role (``weight``, ``bias``, ``bn_weight``, ...) -> name in the module.
        settings: what is not a tensor (stride, padding, epsilon, ...).
        residual: value that is added, or None.
        activation: applied last; "" for none.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    residual: str | None = None
    activation: str = ""

    @property
    def output(self) -> str:
        """The only output."""
        (name,) = self.outputs
        return name

    @property
    def reads(self) -> tuple[str, ...]:
        """All values that it reads."""
        return self.inputs if self.residual is None else (*self.inputs, self.residual)

    @property
    def epilogue(self) -> str:
        """What is fused behind it: ``""``, ``relu``, ``add+relu``, ..."""
        return "+".join((["add"] if self.residual is not None else []) + ([self.activation] if self.activation else []))
