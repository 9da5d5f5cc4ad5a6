"""Masks of single weights as a search sees them: by thresholds, and bit by bit in a corridor between two masks."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from hwprune.errors import ConfigError
from hwprune.pruning.plan import PruningPlan
from hwprune.search.network import PrunableNetwork

Bits = npt.NDArray[np.bool_]
Packed = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]
FloatRow = npt.NDArray[np.float32]
Importance = Literal["magnitude_rank", "global_rank", "lamp", "taylor", "uniform"]
#: Bits of which crossover takes the mean importance.
MeanOf = Literal["free", "differing"]
#: How the densities of sampled individuals are spread.
Spacing = Literal["even", "geometric"]

#: Training images that the gradients of ``taylor`` are taken on.
_TAYLOR_IMAGES = 512

#: Bins of importance that the number of kept bits is predicted with.
HISTOGRAM_BINS = 16384


def check_latency(wanted: Iterable[str], *, is_measured: bool) -> None:
    """Refuse a latency that nobody measures: the device's model knows widths.

    Args:
        wanted: objectives that are minimized or bounded.
        is_measured: whether candidates' latencies are.

    Raises:
        ConfigError: it is wanted, and not measured.
    """
    if "latency" in wanted and not is_measured:
        raise ConfigError(
            "no model predicts the latency of single weights: --set latency_source=device, or minimize=published"
        )


class MaskSpace:
    """Masks over all weights of a network's convolutions and linear layers.

    A threshold is coded as the share of a piece's weights that lie below it, so that equal genes prune equally.

    Attributes:
        pieces: what has a threshold of its own: a layer, or a filter.
        removes_empty: whether plans leave out filters without any weight.
    """

    def __init__(
        self,
        network: PrunableNetwork,
        pieces: Literal["per_layer", "per_filter"] = "per_layer",
        *,
        removes_empty: bool = False,
    ) -> None:
        self.pieces = pieces
        self.removes_empty = removes_empty
        self._network = network
        self._layout = network.slicer.weights
        self._dense = PruningPlan.dense(network.groups)
        lengths = [place.stop - place.start for _, _, place in self._layout.slices()]
        if pieces == "per_filter":
            lengths = [
                length // shape[0]
                for (_, shape, _), length in zip(self._layout.slices(), lengths, strict=True)
                for _ in range(shape[0])
            ]
        self._lengths = np.array(lengths, np.int64)

    @property
    def n_var(self) -> int:
        """Number of thresholds."""
        return len(self._lengths)

    @property
    def size(self) -> int:
        """Number of weights."""
        return self._layout.size

    @functools.cached_property
    def _ranks(self) -> FloatRow:
        """``(size,)`` rank of every weight's magnitude in its piece, in (0, 1]."""
        return _ranks(self.magnitudes, self._lengths)

    @property
    def magnitudes(self) -> FloatRow:
        """``(size,)`` absolute values of the dense network's weights."""
        return np.abs(self._layout.row(self._network.dense))

    def decode(self, quantiles: FloatArray) -> Bits:
        """``(size,)`` weights that lie above ``(n_var,)`` thresholds, each given as a quantile in [0, 1)."""
        return np.asarray(self._ranks > np.repeat(quantiles.astype(np.float32), self._lengths))

    def equal(self, dropped: FloatArray) -> FloatArray:
        """``(n, n_var)`` quantiles that drop ``(n,)`` shares of the weights, the same in every piece."""
        return np.repeat(dropped[:, None], self.n_var, axis=1)

    def one_threshold(self, dropped: FloatArray) -> FloatArray:
        """``(n, n_var)`` quantiles that drop ``(n,)`` shares of the weights by one magnitude for all pieces."""
        thresholds = np.quantile(self.magnitudes, dropped)
        ends = np.cumsum(self._lengths)
        pieces = [np.sort(piece) for piece in np.split(self.magnitudes, ends[:-1])]
        return np.stack([np.searchsorted(piece, thresholds) / len(piece) for piece in pieces], axis=1)

    def importance(self, kind: Importance) -> FloatRow:
        """``(size,)`` importance of every weight in (0, 1].

        Args:
            kind: ``magnitude_rank`` for the rank of its magnitude inside its layer; ``global_rank`` for that among all
                weights; ``lamp`` for the rank among all weights of its magnitude times the root of its LAMP score, by
                which weights count less in layers that keep many large ones; ``taylor`` for the rank among all weights
                of what the loss is expected to change by without it; ``uniform`` makes all weights alike.
        """
        if kind == "uniform":
            return np.full(self.size, 0.5, np.float32)
        if kind == "lamp":
            return _ranks(self.magnitudes * np.sqrt(self._lamp_scores()), [self.size])
        if kind == "taylor":
            return _ranks(self.magnitudes * self._gradients(), [self.size])
        return _ranks(self.magnitudes, [self.size] if kind == "global_rank" else np.diff(self._layout.starts))

    def plan(self, bits: Bits) -> PruningPlan:
        """The plan that keeps the weights of ``(size,)`` bits."""
        if bits.all():
            return self._dense
        kept = self._occupied(bits) if self.removes_empty else self._dense.kept
        return PruningPlan(kept, self._layout.pack(bits))

    def _lamp_scores(self) -> FloatRow:
        """``(size,)`` squares of weights, each divided by the sum of those in its layer that are no smaller.

        Lee, Park, Mo, Ahn, Shin: Layer-adaptive sparsity for the magnitude-based pruning, ICLR 2021, equation 1.
        """
        squares = self.magnitudes.astype(np.float64) ** 2
        for start, stop in itertools.pairwise(self._layout.starts):
            order = start + np.argsort(-squares[start:stop], kind="stable")
            squares[order] /= np.maximum(np.cumsum(squares[order]), 1e-300)
        return squares.astype(np.float32)

    def _gradients(self) -> FloatRow:
        """``(size,)`` sizes of the loss's gradient by every weight, mean over a few training batches."""
        network = self._network
        module = network.copy().requires_grad_()
        weights = [module.get_parameter(name) for name in self._layout.names]
        total = np.zeros(self.size, np.float32)
        for batch in network.task.batches("train", 64, shuffle_seed=network.seed, limit=_TAYLOR_IMAGES):
            loss = network.task.loss(network.task.forward(module, batch), batch)
            gradients = torch.autograd.grad(loss, weights)
            total += torch.cat([gradient.flatten() for gradient in gradients]).abs().numpy()
        return total

    def _occupied(self, bits: Bits) -> tuple[tuple[int, ...], ...]:
        """Units of every group of which some weight is left; the first one where none is."""
        filled = {
            name.removesuffix(".weight"): np.asarray(bits[place].reshape(shape[0], -1).any(axis=1))
            for name, shape, place in self._layout.slices()
        }
        kept = []
        for group in self._network.groups:
            alive = np.zeros(group.size, bool)
            for member in group.members:
                if member.side == "out" and member.module in filled:
                    alive |= filled[member.module][member.indices].any(axis=1)
            kept.append(tuple(np.flatnonzero(alive).tolist()) or (0,))
        return tuple(kept)


class Corridor:
    """Masks between a heavy and a light one: what both keep stays, what neither keeps is gone, the rest is free.

    An individual is its free bits, packed.

    Args:
        heavy: ``(size,)`` weights that the heavy end keeps.
        light: those that the light end keeps.
        importance: of every weight, in (0, 1], once or more.
        has_core: whether what both keep stays; otherwise it is free, and individuals only have as many weights.

    Attributes:
        free: positions of the free bits.
        importance: of each: the first one given, which variation goes by.
    """

    def __init__(self, heavy: Bits, light: Bits, *importance: FloatRow, has_core: bool = True) -> None:
        self._core = heavy & light if has_core else np.zeros_like(heavy)
        self._corridor = heavy | light
        core = int(self._core.sum())
        self._ends = int(light.sum()) - core, int(heavy.sum()) - core
        self.free = np.flatnonzero(self._corridor & ~self._core)
        self._importances = [each[self.free] for each in importance]
        self.importance = self._importances[0]

    def __len__(self) -> int:
        return len(self.free)

    def bits(self, packed: Packed) -> Bits:
        """The whole mask of an individual."""
        bits = self._core.copy()
        bits[self.free] = self._unpack(packed)
        return bits

    def packed(self, bits: Bits) -> Packed | None:
        """The individual of a mask; None where the mask leaves the corridor."""
        if (self._core & ~bits).any() or (bits & ~self._corridor).any():
            return None
        return np.packbits(bits[self.free])

    def kept(self, packed: Packed) -> int:
        """Free bits that an individual keeps."""
        return int(self._unpack(packed).sum())

    def sample(
        self, n: int, temperature: float, random_state: np.random.Generator, *, spacing: Spacing = "even"
    ) -> list[Packed]:
        """Individuals whose numbers of kept bits are spread from the light end to the heavy one.

        A bit is kept with probability ``sigmoid((importance - c) / temperature)``, ``c`` such that the expected number
        is what is wanted. Where there are several importances, individuals take turns.

        Args:
            n: how many.
            temperature: the smaller, the more importance decides.
            random_state: source of randomness.
            spacing: of their densities, the core's bits included: ``even``, or ``geometric`` for more of the sparse.
        """
        core = int(self._core.sum())
        low, high = (max(end + core, 1) for end in self._ends)
        counts = np.linspace(low, high, n) if spacing == "even" else np.geomspace(low, high, n)
        wanted = np.clip(counts - core, 0.5, len(self) - 0.5)
        histograms = [_histogram(importance) for importance in self._importances]
        sampled = []
        for number, kept in enumerate(wanted):
            turn = number % len(histograms)
            centre = _centre(*histograms[turn], kept, temperature)
            likelihood = _sigmoid((self._importances[turn] - centre) / temperature)
            sampled.append(np.packbits(random_state.random(len(self), np.float32) < likelihood))
        return sampled

    def cross(
        self,
        one: Packed,
        other: Packed,
        beta: float,
        p_clip: float,
        random_state: np.random.Generator,
        *,
        mean_of: MeanOf = "free",
    ) -> Packed:
        """A child that has what its parents share; where they differ, important bits are kept more often.

        Args:
            one: a parent.
            other: another.
            beta: how much importance counts, against the mean.
            p_clip: smallest probability of either bit.
            random_state: source of randomness.
            mean_of: the bits that the mean is of: with ``differing`` ones a child lies halfway between its parents,
                with all ``free`` ones that of two sparse parents is near the denser.
        """
        a, b = self._unpack(one), self._unpack(other)
        averaged = self.importance[a != b] if mean_of == "differing" else self.importance
        mean = averaged.mean() if len(averaged) else 0.0
        probabilities = np.clip(0.5 + beta * (self.importance - mean), p_clip, 1 - p_clip)
        return np.packbits(np.where(a == b, a, random_state.random(len(self), np.float32) < probabilities))

    def mutate(self, packed: Packed, flips: int, drop_share: float, random_state: np.random.Generator) -> Packed:
        """A copy with so many flipped bits: unimportant ones dropped, important ones inserted.

        Args:
            packed: the individual.
            flips: bits to flip; fewer where there are not as many.
            drop_share: share of drops among them, in [0, 1].
            random_state: source of randomness.
        """
        bits = self._unpack(packed)
        kept, gone = np.flatnonzero(bits), np.flatnonzero(~bits)
        drops = int(random_state.binomial(flips, drop_share))
        drops, inserts = min(drops, kept.size), min(flips - drops, gone.size)
        bits[_draw(kept, 1 - self.importance[kept] + 1e-3, drops, random_state)] = False
        bits[_draw(gone, self.importance[gone], inserts, random_state)] = True
        return np.packbits(bits)

    def _unpack(self, packed: Packed) -> Bits:
        return np.unpackbits(packed, count=len(self)).view(np.bool_)


def _histogram(importance: FloatRow) -> tuple[FloatArray, FloatArray]:
    """How many free bits have which importance: enough to find a centre by, and quick for a million bits."""
    counts, edges = np.histogram(importance, HISTOGRAM_BINS, (0.0, 1.0))
    return counts.astype(np.float64), (edges[1:] + edges[:-1]) / 2


def _centre(counts: FloatArray, importance: FloatArray, kept: float, temperature: float) -> float:
    """Importance at which a bit is kept every second time, if ``kept`` bits are expected in all."""
    low, high = -20 * temperature, 1 + 20 * temperature
    for _ in range(60):
        middle = (low + high) / 2
        expected = counts @ _sigmoid((importance - middle) / temperature)
        low, high = (middle, high) if expected > kept else (low, middle)
    return (low + high) / 2


def _sigmoid(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray(1 / (1 + np.exp(np.clip(-x, -80, 80))))


def _ranks(values: FloatRow, lengths: Sequence[int] | npt.NDArray[np.int64]) -> FloatRow:
    """Rank of every value among those of its piece, divided by their number, in (0, 1]."""
    ranks = np.empty(len(values), np.float32)
    start = 0
    for length in lengths:
        order = np.argsort(values[start : start + length], kind="stable")
        ranks[start + order] = np.arange(1, length + 1, dtype=np.float32) / length
        start += length
    return ranks


def _draw(
    positions: npt.NDArray[np.int64], weights: FloatRow, n: int, random_state: np.random.Generator
) -> npt.NDArray[np.int64]:
    """``n`` of the positions, without repetition, in proportion to their weights (Efraimidis and Spirakis 2006)."""
    if not n:
        return positions[:0]
    keys = random_state.standard_exponential(len(positions), np.float32) / weights
    return positions[np.argpartition(keys, n - 1)[:n]]
