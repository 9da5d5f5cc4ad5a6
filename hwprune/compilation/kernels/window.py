"""How a window of taps moves over an image."""

from __future__ import annotations

from dataclasses import dataclass

from latency_models.shapes import LayerShape

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """How a window moves over an image: height and width of everything.

    Attributes:
        size: of the image.
        kernel: taps.
        stride: step.
        padding: rows and columns added on each side.
        dilation: distance of the taps.
    """

    size: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair = (1, 1)

    @classmethod
    def of(cls, shape: LayerShape) -> Window:
        """Window of a layer."""
        return cls((shape.height, shape.width), shape.kernel, shape.stride, shape.padding, shape.dilation)

    @property
    def padded(self) -> Pair:
        """Size of the padded image."""
        return self.size[0] + 2 * self.padding[0], self.size[1] + 2 * self.padding[1]

    @property
    def out(self) -> Pair:
        """Size of the result."""
        height, width = (
            (size - dilation * (taps - 1) - 1) // stride + 1
            for size, dilation, taps, stride in zip(self.padded, self.dilation, self.kernel, self.stride, strict=True)
        )
        return height, width

    def span(self, count: int) -> Pair:
        """Rows and columns of the padded image that ``count`` rows and columns of the result are made of."""
        height, width = (
            (count - 1) * stride + dilation * (taps - 1) + 1
            for dilation, taps, stride in zip(self.dilation, self.kernel, self.stride, strict=True)
        )
        return height, width

    @property
    def taps(self) -> int:
        """Taps in all."""
        return self.kernel[0] * self.kernel[1]

    @property
    def is_padded(self) -> bool:
        """Whether there is any padding."""
        return any(self.padding)
