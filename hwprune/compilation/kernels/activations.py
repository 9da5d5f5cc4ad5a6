"""Names of activations with numbers in them: words of an epilogue, and parts of C identifiers."""

from __future__ import annotations


def spell(name: str, *numbers: float) -> str:
    """``clip``, -1, 0.5 -> ``clip__m1p0__0p5``: with ``p`` for a point and ``m`` for a minus."""
    words = (repr(float(number)).replace("e+", "e").replace(".", "p").replace("-", "m") for number in numbers)
    return "__".join([name, *words])


def parse(activation: str) -> tuple[str, tuple[float, ...]]:
    """Inverse of :func:`spell`."""
    name, *numbers = activation.split("__")
    return name, tuple(float(number.replace("p", ".").replace("m", "-")) for number in numbers)
