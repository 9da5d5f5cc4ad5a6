"""Layers that networks share and that pruning and compilation know by name."""

import torch.nn.functional as F
from torch import Tensor, nn


class PadShortcut(nn.Module):
    """Shortcut without parameters: every ``stride``-th pixel, with zero channels in front and behind.

    Pruning changes ``front`` and ``back`` where it removes channels of the wider stream.

    Attributes:
        stride: step in both spatial directions, at least 1.
        front: zero channels before the input's channels.
        back: zero channels after them.
    """

    def __init__(self, stride: int, front: int, back: int) -> None:
        super().__init__()
        self.stride = stride
        self.front = front
        self.back = back

    def forward(self, x: Tensor) -> Tensor:
        """``(n, c, h, w)`` to ``(n, front + c + back, ceil(h / stride), ceil(w / stride))``."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.front, self.back))

    def extra_repr(self) -> str:
        """Numbers of the shortcut, for ``print(network)``."""
        return f"stride={self.stride}, front={self.front}, back={self.back}"
