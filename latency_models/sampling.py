"""Which kernels to measure next: the staircase's corners first, then where the model is least sure.

A profile has minutes, a search space has millions of pairs of widths. Every template gets its extremes, then both
sides of a stair (so that the step shows), then widths spread evenly over octaves, since a pruned width is more often
small than large. Layers that cost more get more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.stats import qmc

from latency_models.features import FloatArray, macs, rows_by_template
from latency_models.shapes import LayerShape, NetworkShapes

#: Candidates a template when the most uncertain kernels are looked for.
_CANDIDATES = 64
#: Octaves of width over which one measurement informs its neighbours.
_REACH = 1.0


@dataclass(frozen=True)
class TemplateRange:
    """The widths one template takes in a search space.

    Attributes:
        template: the layer; its own widths are ignored.
        in_channels: smallest and largest (dense) input channels.
        out_channels: smallest and largest (dense) output channels.
        count: layers of the network with this template.
        tied: whether input and output channels are always equal (pooling, depthwise).
    """

    template: LayerShape
    in_channels: tuple[int, int]
    out_channels: tuple[int, int]
    count: int = 1
    tied: bool = False


class KernelPredictor(Protocol):
    """Whatever predicts kernels with a spread, a ``LatencyModel`` for one."""

    def predict_kernels(self, shapes: Sequence[LayerShape]) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation in ms of single kernels, two ``(n,)`` arrays."""
        ...


def ranges_of(shapes: NetworkShapes) -> list[TemplateRange]:
    """Ranges of all templates as ``shapes`` shows them: give it the dense network, the smallest and some between."""
    ranges = []
    for template, layers in rows_by_template(shapes.templates).items():
        c_in, c_out = shapes.in_channels[:, layers], shapes.out_channels[:, layers]
        ranges.append(
            TemplateRange(
                template.template,
                (int(c_in.min()), int(c_in.max())),
                (int(c_out.min()), int(c_out.max())),
                count=len(layers),
                tied=bool((c_in == c_out).all()),
            )
        )
    return ranges


def plan_profile(
    ranges: Sequence[TemplateRange], n_kernels: int, lanes: int = 16, channel_step: int = 1, seed: int = 0
) -> list[LayerShape]:
    """Kernels to measure before any model exists, in the order to measure them.

    Args:
        ranges: the search space.
        n_kernels: budget; fewer are returned where the space has no more.
        lanes: expected step of the staircase.
        channel_step: widths the search will use are multiples of this (the ends of a range always belong).
        seed: decides the widths between the corners; the same seed, the same plan.
    """
    queues = [_queue(each, n_kernels, lanes, channel_step, seed + number) for number, each in enumerate(ranges)]
    corners = [min(len(queue), 6) for queue in queues]
    shares = np.array([_share(each) for each in ranges])
    taken = [0] * len(queues)
    plan: dict[LayerShape, None] = {}
    while len(plan) < n_kernels:
        open_queues = [number for number, queue in enumerate(queues) if taken[number] < len(queue)]
        if not open_queues:
            break
        # Corners go round by round, the costliest layers first; then a template's turn comes by its share.
        number = min(
            open_queues,
            key=lambda n: (0, taken[n], -shares[n]) if taken[n] < corners[n] else (1, taken[n] / shares[n], 0.0),
        )
        plan.setdefault(queues[number][taken[number]])
        taken[number] += 1
    return list(plan)


def next_shapes(
    model: KernelPredictor,
    measured: Sequence[LayerShape],
    ranges: Sequence[TemplateRange],
    n_kernels: int,
    channel_step: int = 1,
    seed: int = 0,
) -> list[LayerShape]:
    """Kernels whose measuring would take most milliseconds of uncertainty out of networks, the best first.

    Args:
        model: fitted on what was measured so far.
        measured: shapes not to measure again.
        ranges: the search space.
        n_kernels: how many to choose; fewer are returned where nothing is left.
        channel_step: as for :func:`plan_profile`.
        seed: decides which candidates are looked at.
    """
    known = set(measured)
    candidates, counts = [], []
    for number, each in enumerate(ranges):
        for shape in _queue(each, _CANDIDATES, 1, channel_step, seed + number):
            if shape not in known:
                known.add(shape)
                candidates.append(shape)
                counts.append(each.count)
    if not candidates:
        return []
    gain_ms = model.predict_kernels(candidates)[1] * np.array(counts)
    octaves = np.log2([[max(shape.in_channels, 1), max(shape.out_channels, 1)] for shape in candidates])
    template = [shape.template for shape in candidates]
    chosen = []
    for _ in range(min(n_kernels, len(candidates))):
        best = int(np.argmax(gain_ms))
        chosen.append(candidates[best])
        # What the chosen kernel will tell about its neighbours need not be measured twice.
        distance = np.linalg.norm((octaves - octaves[best]) / _REACH, axis=1)
        alike = np.array([other == template[best] for other in template])
        gain_ms = np.where(alike, gain_ms * np.sqrt(1 - np.exp(-(distance**2))), gain_ms)
        gain_ms[best] = -np.inf
    return chosen


def next_networks(doubt: FloatArray, shapes: NetworkShapes, n: int) -> list[int]:
    """Rows of networks whose kernels, timed inside them, would tell most about the others, the best first.

    Args:
        doubt: how unsure the latency of each network is for its kernels, on any scale.
        shapes: the networks.
        n: how many to choose; fewer are returned where there are no more.
    """
    octaves = np.log2(np.maximum(np.hstack([shapes.in_channels, shapes.out_channels]), 1))
    gain = np.array(doubt, dtype=np.float64)
    chosen: list[int] = []
    for _ in range(min(n, len(gain))):
        best = int(np.argmax(gain))
        chosen.append(best)
        distance = np.sqrt(np.mean(((octaves - octaves[best]) / _REACH) ** 2, axis=1))
        gain = gain * np.sqrt(1 - np.exp(-(distance**2)))
        gain[chosen] = -np.inf
    return chosen


def _share(each: TemplateRange) -> float:
    """Relative number of kernels a template deserves: more work, more layers and two free widths need more."""
    c_in, c_out = np.array([each.in_channels[1]]), np.array([each.out_channels[1]])
    work = float(macs(each.template, c_in, c_out)[0]) * each.count
    octaves = [math.log2(high / max(low, 1)) for low, high in (each.in_channels, each.out_channels)]
    freedom = 1 + (max(octaves) if each.tied else sum(octaves))
    return float(freedom * max(work, 1.0) ** 0.25)


def _queue(each: TemplateRange, n: int, lanes: int, channel_step: int, seed: int) -> list[LayerShape]:
    """Widths of one template in the order they are worth measuring; each once."""
    (in_low, in_high), (out_low, out_high) = each.in_channels, each.out_channels
    stair = max(out_low, (out_low + out_high) // 2 // lanes * lanes)
    pairs = [
        (in_high, out_high),
        (in_low, out_low),
        (in_high, out_low),
        (in_low, out_high),
        (in_high, stair),
        (in_high, stair + 1),
        (in_high, stair + lanes // 2),
        ((in_low + in_high) // 2, out_high),
    ]
    # Sobol points on octaves; two of three stand at the top of their stair, where a staircase is known best.
    for index, (u, v) in enumerate(qmc.Sobol(2, seed=seed).random_base2(max(1, math.ceil(math.log2(2 * n + 2))))):
        c_in = round(in_low * (in_high / max(in_low, 1)) ** u)
        c_out = round(out_low * (out_high / max(out_low, 1)) ** v)
        pairs.append((c_in, c_out if index % 3 == 2 else -(-c_out // lanes) * lanes))
    queue: dict[LayerShape, None] = {}
    for c_in, c_out in pairs:
        if each.template.group_channels:  # whole groups, whose outputs stay in proportion to their inputs
            c_in = _on_grid(c_in, each.in_channels, each.template.group_channels)
            c_out = c_in * out_high // max(in_high, 1)
        else:
            c_out = _on_grid(c_out, each.out_channels, channel_step)
            c_in = c_out if each.tied else _on_grid(c_in, each.in_channels, channel_step)
        queue.setdefault(each.template.with_channels(c_in, c_out))
    return list(queue)


def _on_grid(channels: int, limits: tuple[int, int], step: int) -> int:
    low, high = limits
    return min(max(round(channels / step) * step, low), high)
