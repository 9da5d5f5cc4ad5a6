"""The genome and what it decodes to: one gene a channel group, one width a group."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hwprune.errors import ConfigError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Encoding = Literal["group_ratio", "layer_threshold"]


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """Widths that a search may choose, and the real-coded genome over them.

    The levels of a group are the multiples of its step, and its dense width (which need not be one).

    Attributes:
        sizes: ``(G,)`` dense channels of every group.
        round_to: ``(G,)`` step of every group's widths, at least 1.
        pruning_ratio_max: largest share of a group that is removed, in (0, 1).
        encoding: a gene is the pruned share of its group (``group_ratio``), or the importance below which channels go,
            relative to the group's largest (``layer_threshold``).
        scores: importance of every group's channels, for ``layer_threshold``.
    """

    sizes: IntArray
    round_to: IntArray
    pruning_ratio_max: float = 0.9
    encoding: Encoding = "group_ratio"
    scores: tuple[FloatArray, ...] | None = None

    @classmethod
    def of(
        cls,
        sizes: Sequence[int],
        *,
        round_to: int | Sequence[int] | Literal["auto"] = "auto",
        channel_step: int | Sequence[int] = 8,
        pruning_ratio_max: float = 0.9,
        scores: Sequence[FloatArray] | None = None,
    ) -> SearchSpace:
        """Space over groups of ``sizes`` channels.

        Args:
            sizes: dense channels of every group.
            round_to: step of the widths; ``auto`` takes ``channel_step``, and less for groups that would have fewer
                than eight levels.
            channel_step: the device's step, where wider does not cost more until the next one; or that of each group.
            pruning_ratio_max: largest share of a group that is removed.
            scores: importance of every group's channels, for the encoding ``layer_threshold``.

        Raises:
            ConfigError: there is nothing to prune, or a step or ratio is out of range.
        """
        dense = np.asarray(sizes, dtype=np.int64)
        if dense.ndim != 1 or not dense.size or (dense < 1).any():
            raise ConfigError(
                "nothing to prune: the network has no prunable channel group (see 'protect' and 'prune_residual')"
            )
        if not 0 < pruning_ratio_max < 1:
            raise ConfigError(f"pruning_ratio_max is {pruning_ratio_max}: give a share between 0 and 1")
        if isinstance(round_to, str):
            steps = np.clip(dense // 8, 1, channel_step)
        else:
            steps = np.broadcast_to(np.asarray(round_to, dtype=np.int64), dense.shape)
        if (steps < 1).any():
            raise ConfigError(f"round_to is {round_to}: give steps of at least 1 channel")
        return cls(dense, steps, pruning_ratio_max, scores=None if scores is None else tuple(map(np.asarray, scores)))

    def encoded(self, encoding: Encoding) -> SearchSpace:
        """The same widths under another genome.

        Raises:
            ConfigError: thresholds are wanted and no importance scores are known.
        """
        if encoding == "layer_threshold" and self.scores is None:
            raise ConfigError("encoding 'layer_threshold' needs importance scores: use encoding=group_ratio")
        return replace(self, encoding=encoding)

    @property
    def n_var(self) -> int:
        """Number of genes, G."""
        return len(self.sizes)

    @property
    def upper(self) -> float:
        """Largest value of a gene; the smallest is 0, the dense group."""
        return self.pruning_ratio_max if self.encoding == "group_ratio" else 1.0

    @functools.cached_property
    def smallest(self) -> IntArray:
        """``(G,)`` smallest width of every group."""
        return self._snap((1 - self.pruning_ratio_max) * self.sizes, np.minimum(self.round_to, self.sizes))

    def decode(self, X: FloatArray) -> IntArray:
        """``(n, G)`` widths of ``(n, G)`` genomes (step 3 of the methods' specification)."""
        if self.encoding == "group_ratio":
            return self._snap((1 - X) * self.sizes, self.smallest)
        removed = [np.searchsorted(levels, X[:, gene]) for gene, levels in enumerate(self._thresholds)]
        return self._snap(self.sizes - np.column_stack(removed), self.smallest)

    def encode(self, widths: IntArray) -> FloatArray:
        """``(n, G)`` genomes that decode to ``(n, G)`` widths (where importance ties allow it, for thresholds)."""
        if self.encoding == "group_ratio":
            return np.clip(1 - widths / self.sizes, 0, self.upper)
        # With w channels kept the threshold lies between the last one that goes and the first one that stays.
        columns = []
        for gene, levels in enumerate(self._thresholds):
            edges = np.concatenate([[0.0], levels])
            removed = self.sizes[gene] - widths[:, gene]
            columns.append(np.where(removed == 0, 0.0, (edges[removed] + edges[removed + 1]) / 2))
        return np.column_stack(columns)

    def shift(self, widths: IntArray, levels: IntArray) -> IntArray:
        """``(n, G)`` widths moved by ``(n, G)`` levels, kept inside the space."""
        moved = (-(-widths // self.round_to) + levels) * self.round_to
        return np.asarray(np.clip(moved, self.smallest, self.sizes))

    def lost_importance(self, widths: IntArray) -> FloatArray:
        """``(n, G)`` shares of every group's importance that ``(n, G)`` widths do without, in [0, 1).

        The most important channels are kept; where no scores are known, every channel counts alike.
        """
        return np.column_stack([shares[widths[:, gene]] for gene, shares in enumerate(self._lost)])

    def holds(self, widths: IntArray) -> bool:
        """Whether ``(G,)`` widths are among those that a search may choose."""
        if widths.shape != self.sizes.shape:
            return False
        return bool((self.shift(widths[None], np.zeros_like(widths))[0] == widths).all())

    def _snap(self, kept: npt.NDArray[Any], smallest: IntArray) -> IntArray:
        """Nearest levels to real-valued widths."""
        steps = self.round_to * np.rint(kept / self.round_to)
        nearest = np.where(np.abs(self.sizes - kept) <= np.abs(steps - kept), self.sizes, steps)
        widths: IntArray = np.clip(nearest, smallest, self.sizes).astype(np.int64)
        return widths

    @functools.cached_property
    def _lost(self) -> list[FloatArray]:
        """Lost importance of every group by its width, 0 to dense."""
        if self.scores is None:
            return [1 - np.arange(size + 1) / size for size in self.sizes]
        lost = []
        for scores in self.scores:
            kept = np.concatenate([[0.0], np.cumsum(np.sort(scores)[::-1])])
            lost.append(np.maximum(1 - kept / max(float(kept[-1]), 1e-300), 0.0))
        return lost

    @functools.cached_property
    def _thresholds(self) -> list[FloatArray]:
        """Sorted importance of every group, relative to its largest."""
        assert self.scores is not None  # encoded() has checked it
        return [np.sort(scores) / max(float(np.max(scores)), 1e-300) for scores in self.scores]
