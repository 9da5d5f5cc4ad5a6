"""Kernels by operator family: one file each; channel counts are arguments, so one kernel serves all widths.

A family's file holds a frozen dataclass for each of its kernels (what it is compiled for: the cache's key), and
``specify``: from a ``LayerShape`` to the kernel, its integer arguments and the sizes of its buffers. TVM is imported by
the ``build`` methods alone, so shapes and memory of a network are known without it.
"""

from hwprune.compilation.kernels.families import SCHEDULE_VERSION, specify

__all__ = ["SCHEDULE_VERSION", "specify"]
