"""One fused kernel's shape, and many networks' worth of them as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, order=True)
class LayerShape:
    """What the latency of one fused kernel depends on; the unit of measuring and of predicting.

    Attributes:
        op: kernel family: ``conv2d``, ``depthwise``, ``dense``, ``max_pool``, ``avg_pool``, ``global_pool``, ``pack``,
            ``unpack``, ... (the file's name under ``compilation/kernels`` or the operator it falls back to).
        in_channels: exact input channels; 0 where the family has none.
        out_channels: exact output channels.
        height: input height in pixels; 1 for vectors.
        width: input width in pixels.
        kernel: window height and width.
        stride: vertical and horizontal step.
        padding: rows and columns added on each side.
        dilation: distance of the window's taps.
        group_channels: input channels that each output of a grouped convolution sees; 0 where it sees all
            (``depthwise`` is a family of its own). Pruning removes whole groups, so that these stay.
        epilogue: what is fused behind it, in order, joined by ``+``: ``""``, ``relu``, ``add+relu``, ...
        layout: ``nchw``, ``nchw16c`` (channels in blocks of 16) or ``few16c`` (``nchw`` where they are few, else
            blocks); ``nchw-nchw16c`` where input and output differ.
        batch: images a call.
        out_size: output height and width where they do not follow from the window (resize, transposed convolution,
            pooling whose last window hangs over); (0, 0) where they do.
        nonzeros: weights that are kept, of a kernel that leaves out the others (``conv2d_sparse``); else 0.
    """

    op: str
    in_channels: int
    out_channels: int
    height: int
    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    group_channels: int = 0
    epilogue: str = ""
    layout: str = "nchw16c"
    batch: int = 1
    out_size: tuple[int, int] = (0, 0)
    nonzeros: int = 0

    def with_channels(self, in_channels: int, out_channels: int) -> LayerShape:
        """The same layer at other widths."""
        return replace(self, in_channels=int(in_channels), out_channels=int(out_channels))

    @property
    def template(self) -> LayerShape:
        """The layer without its widths: kernels with one template differ in their channel counts alone."""
        return self.with_channels(0, 0)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return dict(vars(self))  # dataclasses.asdict copies deeply, which numbers and tuples of them do without

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LayerShape:
        """Inverse of :meth:`as_dict`; lists become tuples again."""
        fields: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in data.items()}
        return cls(**fields)


@dataclass(frozen=True)
class NetworkShapes:
    """Layer shapes of many candidates of one network.

    Attributes:
        templates: the network's L layers (channel counts of these are ignored).
        in_channels: ``(n, L)`` exact input channels of each candidate's layers.
        out_channels: ``(n, L)`` exact output channels.
    """

    templates: tuple[LayerShape, ...]
    in_channels: IntArray
    out_channels: IntArray

    @classmethod
    def of(cls, shapes: Sequence[LayerShape]) -> NetworkShapes:
        """One network's."""
        channels = [[[getattr(shape, side) for shape in shapes]] for side in ("in_channels", "out_channels")]
        return cls(tuple(shapes), np.array(channels[0], np.int64), np.array(channels[1], np.int64))

    def __len__(self) -> int:
        return len(self.in_channels)

    def row(self, index: int) -> tuple[LayerShape, ...]:
        """Layer shapes of one candidate."""
        pairs = zip(self.templates, self.in_channels[index], self.out_channels[index], strict=True)
        return tuple(template.with_channels(c_in, c_out) for template, c_in, c_out in pairs)
